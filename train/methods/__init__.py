"""Training methods, a file each. A new method is one file and a line in ``METHODS``."""

from __future__ import annotations

from train.config import TrainConfig
from train.methods.base import Method
from train.methods.dskd import DualStudent
from train.networks.resnet import BACKBONES, Encoder

METHODS: dict[str, type[Method]] = {"dskd": DualStudent}


def build(config: TrainConfig, teacher: Encoder) -> Method:
    """The method that ``config`` names, with fresh students around ``teacher``."""
    return METHODS[config.method](config, BACKBONES[config.backbone], teacher)


__all__ = ["METHODS", "Method", "build"]
