"""Projection layers between teacher and embedding, one per scale (RD++, Tran et al., CVPR 2023)."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from dskd.train.networks.embedding import Features
from dskd.train.networks.resnet import Backbone

SLOPE = 0.01


def projection(channels: int) -> nn.Sequential:
    """Four 3x3 convolutions of C/2, C/4, C/2 and C channels, each with instance normalisation and a leaky ReLU."""
    widths = (channels, channels // 2, channels // 4, channels // 2, channels)
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.InstanceNorm2d(outer), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


class Projections(nn.Module):
    """Maps each scale onto itself. Instance normalisation depends on the picture, so it cannot be folded away."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.scales = nn.ModuleList(projection(channels) for channels in backbone.channels)

    def forward(self, features: Features) -> Features:
        """Three [B, C, H, W] -> three of the same shapes."""
        fine, middle, coarse = (layer(feature) for layer, feature in zip(self.scales, features, strict=True))
        return fine, middle, coarse
