"""Distance to the nearest of many features seen on good pictures, alike at all positions: for parts that lie anywhere.

PatchCore (Roth et al. 2022) compares so with a subset of all features that covers them well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dskd.train.error_statistics import Floats
from dskd.train.networks.usual_features import UsualFeatures


class NearestDistance(UsualFeatures):
    """Features of three scales -> [B, H, W] at the coarsest. Void until ``learn`` is called; ``count`` are remembered."""

    mean: Tensor
    seen: Tensor
    lengths: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        height: int,
        width: int,
        weights: tuple[float, float, float],
        components: int,
        count: int,
        context: bool = False,
    ) -> None:
        super().__init__(channels, height, width, weights, components, context)
        kept = self.project.shape[1]
        self.register_buffer("mean", torch.zeros(kept))
        self.register_buffer("seen", torch.zeros(kept, count))
        self.register_buffer("lengths", torch.zeros(count))

    def learn(self, features: Mapping[str, Floats]) -> None:
        """Takes over what ``SeenFeatures.remembered`` gives."""
        for name, values in features.items():
            self.get_buffer(name).copy_(torch.from_numpy(values))

    def forward(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> tuple[Tensor]:
        """Squared distance to the nearest, [B, H, W]."""
        found = self.components(teacher, student) - self.mean
        nearest = (self.lengths - 2 * (found @ self.seen)).amin(2) + found.square().sum(2)
        return (nearest.transpose(0, 1).reshape(-1, self.rows, self.columns),)
