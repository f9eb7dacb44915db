"""Networks of every method with a random teacher of its own, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dskd.train.config import TrainConfig, load_config
from dskd.train.methods.base import Method, build
from dskd.train.networks.backbones import BACKBONES

SIZE = 64
PLAIN = ("method=urd", "urd.injection=plain")


def config(*settings: str) -> TrainConfig:
    return load_config(None, [f"input.height={SIZE}", f"input.width={SIZE}", *settings])


def method_of(*settings: str, seed: int = 0) -> Any:
    """DSKD, or the method that an ablation of it is."""
    torch.manual_seed(seed)
    return build(config(*settings), BACKBONES["resnet18"].encoder().eval().requires_grad_(False))


def stir_batch_norms(module: nn.Module) -> None:
    """Gives every BatchNorm statistics and weights that a fold has to respect."""
    torch.manual_seed(7)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)


def image_pair(count: int = 2, changed: tuple[int, ...] = (1,)) -> tuple[Tensor, Tensor]:
    torch.manual_seed(11)
    clean = torch.randn(count, 3, SIZE, SIZE)
    seen = clean.clone()
    for k in changed:
        seen[k, :, 10:30, 5:40] += 2
    return clean, seen


def fresh(*settings: str, size: int = SIZE, backbone: str = "resnet18") -> Any:
    torch.manual_seed(0)
    config = load_config(None, [f"input.height={size}", f"input.width={size}", f"backbone={backbone}", *settings])
    return build(config, BACKBONES[backbone].encoder().eval().requires_grad_(False))


def default_path(method: Method) -> Any:
    return method.inference_path(next(iter(method.readings())))
