"""What a distance to the usual is taken of: teacher's directions and student's errors of several scales, joined.

They stand at the positions of the coarsest scale, finer ones averaged, in their principal components over all positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dskd.train.error_statistics import Floats
from dskd.train.networks.scales import NORM_FLOOR, STRIDES


class UsualFeatures(nn.Module):
    """Base of the distances that learn from good pictures what is usual.

    ``channels`` of the three scales, ``height`` and ``width`` of the input, ``weights`` of the scales (0 leaves one
    out), number of principal ``components``. ``context``: the directions averaged over 3 x 3 positions are looked at too
    (PatchCore's neighbourhood), which tells a feature in a wrong place from the same one in its own.
    """

    strides = STRIDES[-1:]
    project: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        height: int,
        width: int,
        weights: tuple[float, float, float],
        components: int,
        context: bool = False,
    ) -> None:
        super().__init__()
        self.weights, self.context = weights, context
        self.rows, self.columns = height // STRIDES[-1], width // STRIDES[-1]
        size = (2 + context) * sum(count for count, weight in zip(channels, weights, strict=True) if weight)
        self.register_buffer("project", torch.zeros(size, min(components, size)))

    def vectors(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """[HW, B, C]: the student's errors and the teacher's directions, float32."""
        errors, directions = [], []
        for weight, stride, t, s in zip(self.weights, STRIDES, teacher, student, strict=True):
            if weight:
                own = weight * direction(t)
                errors.append(F.avg_pool2d(own - weight * direction(s), STRIDES[-1] // stride))
                directions.append(F.avg_pool2d(own, STRIDES[-1] // stride))
        around = [F.avg_pool2d(d, 3, 1, 1, count_include_pad=False) for d in directions] if self.context else []
        return torch.cat((*errors, *directions, *around), 1).flatten(2).permute(2, 0, 1)

    def components(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """[HW, B, components]: ``vectors`` in their principal components."""
        return self.vectors(teacher, student) @ self.project

    def learn_components(self, project: Floats) -> None:
        """Takes over the principal components."""
        self.project.copy_(torch.from_numpy(project))


def direction(features: Tensor) -> Tensor:
    """Features [B, C, H, W] as unit vectors."""
    x = features.float()
    return x / x.square().sum(1, keepdim=True).clamp_min(NORM_FLOOR**2).sqrt()
