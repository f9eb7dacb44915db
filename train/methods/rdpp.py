"""RD++ (Tran et al., CVPR 2023): RD with projection layers that learn to undo pseudo-anomalies before the embedding.

The released code's optimal-transport term is zero by the way it calls its library, so it is off by default;
``rdpp.transport=pairwise`` is what the paper describes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dskd.runtime.configuration.strict_yaml import Strict
from dskd.train import losses
from dskd.train.methods.base import Features, own_settings
from dskd.train.methods.rd import RD_RECIPE, ReverseDistillation
from dskd.train.networks.backbone import Backbone, Encoder
from dskd.train.settings import RunConfig
from dskd.train.sinkhorn import sinkhorn_divergence

SLOPE = 0.01  # of the leaky ReLU
NORMALISER = 1.11  # of the released code, for the three weights below: 1 + 0.01 + 0.1


class RdppConfig(Strict):
    """Projection layers and their losses."""

    projection_rate: float = Field(0.2, gt=0, description="factor on the learning rate for the projections")
    weight: float = Field(0.2, ge=0, description="of the three projection terms together, over 1.11")
    transport_weight: float = Field(1.0, ge=0, description="of the optimal-transport term among them")
    reconstruct_weight: float = Field(0.01, ge=0, description="of the term that undoes pseudo-anomalies")
    contrast_weight: float = Field(0.1, ge=0, description="of the term that keeps noisy and projected features apart")
    margin: float = Field(0.5, ge=-1, le=1, description="cosine similarity up to which they are apart")
    transport: Literal["off", "pairwise"] = Field(
        "off",
        description="off: what the released code optimises; pairwise: between each image and another of the batch",
    )
    blur: float = Field(0.05, gt=0, description="of the transport, as a length between unit vectors")
    scaling: float = Field(0.7, gt=0, lt=1, description="by which the blur falls from step to step")
    positions: int = Field(256, gt=0, description="drawn from each image for the transport")


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


class ProjectedReverseDistillation(ReverseDistillation):
    """x -> T -> projections -> embedding -> Sd, compared with T's unprojected features."""

    Settings: ClassVar[type[Strict]] = RdppConfig
    recipe: ClassVar[Mapping[str, Mapping[str, object]]] = {
        **RD_RECIPE,
        "augment": {"pseudo_anomalies": 1.0, "kind": "simplex"},
        "recipe": {**RD_RECIPE["recipe"], "accumulate": 2},
    }

    def __init__(self, config: RunConfig, backbone: Backbone, teacher: Encoder) -> None:
        super().__init__(config, backbone, teacher)
        self.own = own_settings(config, RdppConfig)
        self.projections = Projections(backbone)

    def _bottleneck(self) -> nn.Module:
        return nn.Sequential(OrderedDict(projections=self.projections, embedding=self.embedding))

    def forward(self, clean: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """See Method. Terms: ``decoder_student``, ``reconstruct``, ``contrast`` and, where asked for, ``transport``.

        Pseudo-anomalies influence the projections alone; they never go through the decoder.
        """
        target, noisy = self._teach(clean, seen)
        projected, restored = self.projections(target), self.projections(noisy)
        rebuilt = self.decoder(self.embedding(projected))
        own, weight = self.own, self.own.weight / NORMALISER
        terms = {
            "decoder_student": self._distance(target, rebuilt, self.config.loss.l2_decoder),
            "reconstruct": weight * own.reconstruct_weight * losses.cosine(projected, restored),
            "contrast": weight * own.contrast_weight * losses.contrast(noisy, projected, own.margin),
        }
        if own.transport == "pairwise":
            terms["transport"] = weight * own.transport_weight * self._transport(projected)
        return terms

    def _transport(self, projected: Features) -> Tensor:
        """Sum over scales of the mean divergence between each image and its partner in one permutation."""
        partner = torch.randperm(len(projected[0]), device=projected[0].device)
        terms = []
        for feature in projected:
            cloud = F.normalize(feature.float().flatten(2), dim=1).transpose(1, 2)  # [B, HW, C]
            drawn = torch.randperm(cloud.shape[1], device=cloud.device)[: self.own.positions]
            cloud = cloud[:, drawn]
            terms.append(sinkhorn_divergence(cloud, cloud[partner], self.own.blur, self.own.scaling).mean())
        return torch.stack(terms).sum()

    def parameter_groups(self) -> list[dict[str, object]]:
        """See Method."""
        rate = self.config.recipe.learning_rate * self.own.projection_rate
        return [*super().parameter_groups(), {"params": list(self.projections.parameters()), "lr": rate}]


METHOD = ProjectedReverseDistillation
