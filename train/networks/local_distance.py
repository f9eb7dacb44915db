"""One distance of all scales, measured in what is usual at each position: a Mahalanobis distance.

At each position of the coarsest scale stand the directions of the teacher's features and their difference from the
student's, of every scale that counts, finer ones averaged. What marks a good part carries differs from place to place,
and channels and scales vary together. So the mean and covariance of that vector on good images say what is usual there,
as PaDiM (Defard et al. 2021, section 3) has it of the teacher's features alone. The vector is first brought to its
principal components over all positions. The covariance is kept as a probabilistic principal component model (Tipping &
Bishop 1999): the ``rank`` strongest directions and one variance for all others. So the distance is the squared vector
less what is usual of it, in units of the rest. Parts must lie at the same place in every picture. A tile may lie
anywhere, so for tiles one mean and one covariance are shared by all positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dskd.train.error_statistics import UsualErrors
from dskd.train.networks.usual_features import UsualFeatures


class LocalDistance(UsualFeatures):
    """Features of three scales -> [B, H, W] at the coarsest, about 1 on good images. Void until ``learn`` is called.

    ``rank`` directions are known by name. ``shared``: what is usual is the same at all positions.
    """

    mean: Tensor
    usual: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        height: int,
        width: int,
        weights: tuple[float, float, float],
        components: int,
        rank: int,
        shared: bool = False,
        context: bool = False,
    ) -> None:
        super().__init__(channels, height, width, weights, components, context)
        kept, positions = self.project.shape[1], 1 if shared else self.rows * self.columns
        self.register_buffer("mean", torch.zeros(positions, 1, kept))
        self.register_buffer("usual", torch.zeros(positions, kept, min(rank, kept - 1)))
        self.register_buffer("scale", torch.zeros(positions, 1))

    def learn(self, errors: UsualErrors) -> None:
        """Takes over what is usual."""
        for name in ("mean", "usual", "scale"):
            self.get_buffer(name).copy_(torch.from_numpy(getattr(errors, name)))

    def forward(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> tuple[Tensor]:
        """Squared Mahalanobis distance over its dimension, [B, H, W]."""
        unusual = self.components(teacher, student) - self.mean
        rest = unusual.square().sum(2) - (unusual @ self.usual).square().sum(2)
        return ((rest * self.scale).transpose(0, 1).reshape(-1, self.rows, self.columns),)
