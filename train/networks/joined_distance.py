"""Distance to the usual and the students' error at three scales in one map.

No single one is right everywhere: the first sees faint changes where parts lie still, the second thin marks and parts that
lie anywhere. Each is brought to one unit by quantiles of good pictures (as EfficientAD does, Batzner et al. 2024) and
weighted. Unit and weight are one factor each, so joining costs the device nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dskd.train.networks.cosine_distance import cosine_distance
from dskd.train.networks.local_distance import LocalDistance
from dskd.train.networks.nearest_distance import NearestDistance
from dskd.train.networks.scales import STRIDES

Shares = tuple[
    float, float, float, float
]  # of the distance to the usual, and of the errors at three scales, fine first
FIRST: Shares = (0.75, 0.0, 0.25, 0.0)  # best by painted defects in the mean over three sets; the finest costs time


class JoinedDistances(nn.Module):
    """Features of three scales -> one distance [B, h, w] for each of ``strides``, whose resized sum is the map.

    What has no share is not computed. Void until ``learn`` is called.
    """

    factors: Tensor

    def __init__(self, to_usual: LocalDistance | NearestDistance, shares: Shares) -> None:
        super().__init__()
        self.to_usual, self.shares = to_usual, shares
        own = to_usual.weights if shares[0] else (0.0, 0.0, 0.0)
        self.weights = tuple(max(scale) for scale in zip(own, shares[1:], strict=True))  # 0: nobody looks at that scale
        coarsest = shares[0] or shares[-1]
        shown = (*shares[1:-1], coarsest)
        self.strides = tuple(stride for stride, share in zip(STRIDES, shown, strict=True) if share)
        self.register_buffer("factors", torch.ones(4))

    def learn(self, factors: Sequence[float]) -> None:
        """Takes over what each distance is multiplied by: its share, in units of its own."""
        self.factors.copy_(torch.tensor(factors))

    def each(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[tuple[Tensor, int]]:
        """The plain distances that have a share, the one to the usual first, with their strides."""
        found = [(self.to_usual(teacher, student)[0], STRIDES[-1])] if self.shares[0] else []
        scales = zip(self.shares[1:], STRIDES, teacher, student, strict=True)
        return found + [(cosine_distance(t, s), stride) for share, stride, t, s in scales if share]

    def forward(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See the class."""
        factors = [self.factors[k] for k, share in enumerate(self.shares) if share]
        summed: dict[int, Tensor] = {}
        for factor, (distance, stride) in zip(factors, self.each(teacher, student), strict=True):
            summed[stride] = summed[stride] + factor * distance if stride in summed else factor * distance
        return tuple(summed[stride] for stride in self.strides)
