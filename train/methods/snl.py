"""SNL-style distillation for several products with one model: structural losses and a central aggregation.

A reconstruction, not the paper's method: of SNL (Deng & Li 2024, arXiv 2402.17091) only the abstract and the names of
its parts could be read. Formulas, layers and recipe are ours; no result of this file is a result of that paper.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dskd.runtime.configuration.strict_yaml import Strict
from dskd.train import losses
from dskd.train.methods.base import own_settings
from dskd.train.methods.rd import RD_RECIPE, ReverseDistillation
from dskd.train.networks.backbone import Backbone, Encoder
from dskd.train.settings import RunConfig

SPREAD = 0.02  # standard deviation of the centres before training
SHARPNESS = 10.0  # of the assignment before training, per mean squared difference
FLOOR = 1e-4  # added to a centre's share; half precision too has it as a normal number, where a device forces it


class SnlConfig(Strict):
    """Structural distillation and central residual aggregation, each with its weight."""

    spatial: float = Field(1.0, ge=0, description="weight of the cosine distance at each position")
    channel: float = Field(1.0, ge=0, description="weight of the cosine distance of each channel over positions")
    intra: float = Field(1.0, ge=0, description="weight of similarities between positions of an image")
    inter: float = Field(1.0, ge=0, description="weight of similarities between images of a batch")
    centres: int = Field(64, ge=0, le=1024, description="of the aggregation; 0 leaves it out")


class ResidualAggregation(nn.Module):
    """[B, D, H, W] -> [B, D, H, W] through K centres: a bottleneck that expresses a picture by a few learned ones.

    Each position's vector is replaced by a mixture of centres, each shifted by the mean residual of all positions of this
    picture that belong to it. So a local deviation has no way through: it is averaged over the picture.
    """

    def __init__(self, channels: int, centres: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(SPREAD * torch.randn(centres, channels))
        self.sharpness = nn.Parameter(torch.full((centres, 1), SHARPNESS).expm1().log())  # through softplus
        self.shrink = nn.Linear(channels, channels // 4, bias=False)
        self.grow = nn.Linear(channels // 4, channels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """See the class. In float32 whatever the autocast: distances are differences of large numbers."""
        with torch.autocast("cpu" if z.device.type == "meta" else z.device.type, enabled=False):
            return self._mixture(z.float())

    def _mixture(self, z: Tensor) -> Tensor:
        batch, channels, height, width = z.shape
        positions = z.flatten(2)  # [B, D, P]
        share = self.assign(positions)  # [B, K, P]
        weight = share.sum(2, keepdim=True) + FLOOR
        residual = (share @ positions.transpose(1, 2)) / weight - self.centres * (1 - FLOOR / weight)
        shifted = self.centres + self.grow(F.relu(self.shrink(residual)))  # [B, K, D]
        return (shifted.transpose(1, 2) @ share).reshape(batch, channels, height, width)

    def assign(self, positions: Tensor) -> Tensor:
        """[B, D, P] -> [B, K, P]: how much of each position belongs to each centre."""
        channels = self.centres.shape[1]
        lengths = (positions * channels**-0.5).square().sum(1, keepdim=True)
        distance = lengths - 2 * (self.centres @ (positions / channels)) + self.centres.square().mean(1, keepdim=True)
        return (-F.softplus(self.sharpness) * distance).softmax(1)


class StructuralDistillation(ReverseDistillation):
    """x -> T -> embedding -> aggregation -> Sd."""

    Settings: ClassVar[type[Strict]] = SnlConfig
    recipe: ClassVar[Mapping[str, Mapping[str, object]]] = {
        **RD_RECIPE,
        "recipe": {**RD_RECIPE["recipe"], "epochs": 100, "batch": 32, "learning_rate": 0.001},
    }

    def __init__(self, config: RunConfig, backbone: Backbone, teacher: Encoder) -> None:
        super().__init__(config, backbone, teacher)
        self.own = own_settings(config, SnlConfig)
        centres, channels = self.own.centres, self.embedding.channels
        self.aggregation: nn.Module = ResidualAggregation(channels, centres) if centres else nn.Identity()

    def _students(self) -> tuple[nn.Module, ...]:
        return self.embedding, self.aggregation, self.decoder

    def _bottleneck(self) -> nn.Module:
        return nn.Sequential(OrderedDict(embedding=self.embedding, aggregation=self.aggregation))

    def forward(self, clean: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """See Method. Terms: ``spatial``, ``channel``, ``intra``, ``inter``."""
        target, source = self._teach(clean, seen)
        rebuilt = self.decoder(self.aggregation(self.embedding(source)))
        return {
            "spatial": self.own.spatial * losses.cosine(target, rebuilt),
            "channel": self.own.channel * losses.channel_cosine(target, rebuilt),
            "intra": self.own.intra * losses.intra_affinity(target, rebuilt),
            "inter": self.own.inter * losses.inter_affinity(target, rebuilt),
        }


METHOD = StructuralDistillation
