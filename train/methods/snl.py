"""SNL-style distillation for several products with one model: structural losses and a central aggregation.

A reconstruction, not the paper's method: of SNL (Deng & Li 2024, arXiv 2402.17091) only the abstract and the names of
its parts could be read. Formulas, layers and recipe are ours; no result of this file is a result of that paper.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from dskd.runtime.configuration.strict_yaml import Strict
from dskd.train import losses
from dskd.train.methods.base import own_settings
from dskd.train.methods.rd import RD_RECIPE, ReverseDistillation
from dskd.train.networks.aggregation import ResidualAggregation
from dskd.train.networks.resnet import Backbone, Encoder
from dskd.train.settings import RunConfig


class SnlConfig(Strict):
    """Structural distillation and central residual aggregation, each with its weight."""

    spatial: float = Field(1.0, ge=0, description="weight of the cosine distance at each position")
    channel: float = Field(1.0, ge=0, description="weight of the cosine distance of each channel over positions")
    intra: float = Field(1.0, ge=0, description="weight of similarities between positions of an image")
    inter: float = Field(1.0, ge=0, description="weight of similarities between images of a batch")
    centres: int = Field(64, ge=0, le=1024, description="of the aggregation; 0 leaves it out")


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
