"""What errors are usual at each position: gathered from good images in numpy, so that a device can do it again.

After quantisation the students err differently; ``calibration`` gathers the same statistics from the quantised graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
SMALLEST_VARIANCE = 1e-8  # where good images are all alike, any error is unusual, but not infinitely so


@dataclass(frozen=True)
class UsualErrors:
    """A probabilistic principal component model for each of HW positions.

    ``mean`` [HW, 1, C]; ``usual`` [HW, C, rank], the strongest directions, each scaled by the root of the share of its
    error that is usual; ``scale`` [HW, 1], one over C times the variance of all other directions.
    """

    mean: Floats
    usual: Floats
    scale: Floats


class ErrorStatistics:
    """Mean and covariance of errors, batch by batch."""

    def __init__(self, positions: int, channels: int) -> None:
        self._count = 0
        self._sum = np.zeros((positions, channels), np.float32)
        self._products = np.zeros((positions, channels, channels), np.float32)

    def add(self, errors: Floats) -> None:
        """Errors [HW, B, C] of a batch of good images."""
        self._count += errors.shape[1]
        self._sum += errors.sum(1)
        self._products += errors.transpose(0, 2, 1) @ errors

    def usual_errors(self, rank: int, ridge: float) -> UsualErrors:
        """The model. ``ridge`` of the mean variance is added to every direction, so that few images suffice."""
        mean = self._sum / self._count
        covariance = self._products / self._count - mean[:, :, None] * mean[:, None, :]
        variances, directions = np.linalg.eigh(covariance)  # [HW, C] rising, [HW, C, C]
        variances = np.maximum(variances, 0)
        variances += ridge * max(float(variances.mean()), SMALLEST_VARIANCE)
        rest = variances[:, :-rank].mean(1, keepdims=True)
        share = np.maximum(1 - rest / variances[:, -rank:], 0)
        usual = directions[:, :, -rank:] * np.sqrt(share)[:, None]
        scale = 1 / (rest * mean.shape[1])
        return UsualErrors(*(part.astype(np.float32) for part in (mean[:, None], usual, scale)))
