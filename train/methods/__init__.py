"""Training methods, a file each. A new method is one file and a line in ``METHODS``."""

from __future__ import annotations

from dskd.train.methods.base import Method
from dskd.train.methods.dskd import DualStudent
from dskd.train.methods.rd import ReverseDistillation
from dskd.train.methods.rdpp import ProjectedReverseDistillation
from dskd.train.methods.snl import StructuralDistillation
from dskd.train.methods.stfpm import FeaturePyramidMatching
from dskd.train.methods.urd import GuidedReverseDistillation
from dskd.train.networks.resnet import BACKBONES, Encoder
from dskd.train.settings import RunConfig

METHODS: dict[str, type[Method]] = {
    "dskd": DualStudent,
    "rd": ReverseDistillation,
    "rdpp": ProjectedReverseDistillation,
    "urd": GuidedReverseDistillation,
    "snl": StructuralDistillation,
    "stfpm": FeaturePyramidMatching,
}


def build(config: RunConfig, teacher: Encoder) -> Method:
    """The method that ``config`` names, with fresh students around ``teacher``."""
    return METHODS[config.method].of(config, BACKBONES[config.backbone], teacher)


__all__ = ["METHODS", "Method", "build"]
