"""What errors are usual at each position: gathered from good images in numpy, so that a device can do it again.

After quantisation the students err differently; ``calibration`` gathers the same statistics from the quantised graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
GATHERED = 12_000  # features, from all pictures alike, of which a subset is chosen
SHARED = 20  # pictures that the covariance of all positions together counts as: few pictures know little of each one
SMALLEST_VARIANCE = 1e-8  # where good images are all alike, any error is unusual, but not infinitely so


@dataclass(frozen=True)
class UsualErrors:
    """A probabilistic principal component model for each of HW positions, or one (HW = 1) that all share.

    ``mean`` [HW, 1, C]; ``usual`` [HW, C, rank], the strongest directions, each scaled by the root of the share of its
    error that is usual; ``scale`` [HW, 1], one over C times the variance of all other directions.
    """

    mean: Floats
    usual: Floats
    scale: Floats


class PrincipalComponents:
    """The strongest directions of vectors over all positions together, batch by batch."""

    def __init__(self, size: int) -> None:
        self._count = 0
        self._sum = np.zeros(size)
        self._products = np.zeros((size, size))

    def add(self, vectors: Floats) -> None:
        """Vectors [HW, B, C] of a batch of good images."""
        flat = vectors.reshape(-1, vectors.shape[2]).astype(np.float64)
        self._count += len(flat)
        self._sum += flat.sum(0)
        self._products += flat.T @ flat

    def strongest(self, count: int) -> Floats:
        """Orthonormal directions [C, count] of the largest variance."""
        mean = self._sum / self._count
        _, directions = np.linalg.eigh(self._products / self._count - np.outer(mean, mean))
        return np.ascontiguousarray(directions[:, -count:], np.float32)


class ErrorStatistics:
    """Mean and covariance of errors at each position, batch by batch."""

    def __init__(self, positions: int, channels: int) -> None:
        self._count = 0
        self._sum = np.zeros((positions, channels), np.float32)
        self._products = np.zeros((positions, channels, channels), np.float32)

    def add(self, errors: Floats) -> None:
        """Errors [HW, B, C] of a batch of good images."""
        self._count += errors.shape[1]
        self._sum += errors.sum(1)
        for products, error in zip(self._products, errors, strict=True):
            products += error.T @ error

    def usual_errors(self, rank: int, ridge: float) -> UsualErrors:
        """The model, so that few images suffice.

        The covariance of all positions together counts as ``SHARED`` further images of each, and ``ridge`` of the mean
        variance is added to every direction.
        """
        mean = self._sum / self._count
        channels = mean.shape[1]
        total = np.einsum("pcc->", self._products) / self._count - np.square(mean).sum()
        added = ridge * max(float(total) / mean.size, SMALLEST_VARIANCE)
        shared = (self._products.sum(0) / self._count - mean.T @ mean) / len(mean)
        known = self._count / (self._count + SHARED)
        usual, scale = np.empty((*mean.shape, rank), np.float32), np.empty((len(mean), 1), np.float32)
        for position, (products, centre) in enumerate(zip(self._products, mean, strict=True)):
            own = products / self._count - np.outer(centre, centre)
            variances, directions = np.linalg.eigh(known * own + (1 - known) * shared)  # rising
            variances = np.maximum(variances, 0) + added
            rest = variances[:-rank].mean()
            share = np.maximum(1 - rest / variances[-rank:], 0)
            usual[position], scale[position] = directions[:, -rank:] * np.sqrt(share), 1 / (rest * channels)
        return UsualErrors(mean[:, None].astype(np.float32), usual, scale)


class SeenFeatures:
    """A subset of features of good pictures that leaves none of the others far away, gathered batch by batch."""

    def __init__(self, images: int, seed: int = 0) -> None:
        self._of_each, self._rng = -(-GATHERED // images), np.random.default_rng(seed)
        self._gathered: list[Floats] = []

    def add(self, features: Floats) -> None:
        """Features [HW, B, C] of a batch of good images; some positions of each are kept."""
        for image in features.transpose(1, 0, 2):
            self._gathered.append(image[self._rng.permutation(len(image))[: self._of_each]])

    def remembered(self, count: int) -> dict[str, Floats]:
        """``count`` of them for a nearest distance: their ``mean`` [C], ``seen`` [C, count] less it, and its ``lengths``.

        Each is the one that was farthest from those before (k-centre greedy); where there are fewer, some come twice.
        """
        features = np.concatenate(self._gathered).astype(np.float32)
        chosen = _spread(features, min(count, len(features)))
        mean = features[chosen].mean(0)
        seen = np.ascontiguousarray((features[np.resize(chosen, count)] - mean).T)
        return {"mean": mean, "seen": seen, "lengths": np.square(seen).sum(0)}


def _spread(features: Floats, count: int) -> list[int]:
    lengths = np.square(features).sum(1)
    nearest, chosen = np.full(len(features), np.inf, np.float32), [0]
    while len(chosen) < count:
        last = chosen[-1]
        nearest = np.minimum(nearest, lengths - 2 * (features @ features[last]) + lengths[last])
        chosen.append(int(nearest.argmax()))
    return chosen
