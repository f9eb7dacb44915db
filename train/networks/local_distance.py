"""Distance of one scale, measured in what is usual at each position: a Mahalanobis distance of the student's error.

The error (the difference of the two feature directions, whose squared length is twice the cosine distance) is large on
natural marks at some places and small at others, and its channels vary together. Mean and covariance of the error on
good images at each position say what is usual there, as PaDiM (Defard et al. 2021, section 3) does with the features
themselves. The covariance is kept as a probabilistic principal component model (Tipping & Bishop 1999): the ``rank``
strongest directions and one variance for all others, a few per cent of the full matrix. So the distance is the
squared error less what is usual of it, in units of the rest. Parts must lie at the same place in every picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.error_statistics import UsualErrors
from train.networks.maps import NORM_FLOOR


class LocalDistance(nn.Module):
    """Two [B, C, H, W] -> [B, H, W], about 1 on good images. Void until ``learn`` is called."""

    mean: Tensor
    usual: Tensor
    scale: Tensor

    def __init__(self, channels: int, height: int, width: int, rank: int) -> None:
        super().__init__()
        positions = height * width
        self.register_buffer("mean", torch.zeros(positions, 1, channels))
        self.register_buffer("usual", torch.zeros(positions, channels, min(rank, channels - 1)))
        self.register_buffer("scale", torch.zeros(positions, 1))

    def error(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Difference of the two directions: [B, C, H, W] each -> [HW, B, C], float32."""
        return (_direction(teacher) - _direction(student)).flatten(2).permute(2, 0, 1)

    def learn(self, errors: UsualErrors) -> None:
        """Takes over what is usual."""
        for name in ("mean", "usual", "scale"):
            self.get_buffer(name).copy_(torch.from_numpy(getattr(errors, name)))

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Squared Mahalanobis distance over its dimension, [B, H, W]."""
        batch, _, height, width = teacher.shape
        error = self.error(teacher, student) - self.mean
        rest = error.square().sum(2) - (error @ self.usual).square().sum(2)
        return (rest * self.scale).transpose(0, 1).reshape(batch, height, width)


def _direction(features: Tensor) -> Tensor:
    x = features.float()
    return x / x.square().sum(1, keepdim=True).clamp_min(NORM_FLOOR**2).sqrt()
