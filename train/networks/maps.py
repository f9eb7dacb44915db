"""From two sets of features to one anomaly map and its score.

Upsampling, summing over scales and Gaussian smoothing are linear, so each scale's part is A m A^T with
A = (Gaussian matrix) x (bilinear align-corners matrix). That is exact against SciPy's gaussian_filter (its
"reflect" border repeats the edge sample) and needs no resize operator in the exported graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dskd.train.networks.cosine_distance import cosine_distance
from dskd.train.networks.joined_distance import JoinedDistances
from dskd.train.networks.scales import STRIDES
from dskd.train.networks.usual_features import UsualFeatures


def bilinear_matrix(size: int, source: int, align_corners: bool = True) -> NDArray[np.float64]:
    """[size, source] matrix of one-dimensional bilinear interpolation, corners aligned or, as OpenCV's, edges."""
    matrix = np.zeros((size, source))
    position = np.linspace(0.0, source - 1.0, size)
    if not align_corners:
        position = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
    low = np.minimum(position.astype(int), max(source - 2, 0))
    high = np.minimum(low + 1, source - 1)
    weight = position - low
    matrix[np.arange(size), low] += 1.0 - weight
    matrix[np.arange(size), high] += weight
    return matrix


def gaussian_matrix(size: int, sigma: float, truncate: float = 4.0) -> NDArray[np.float64]:
    """[size, size] matrix of a one-dimensional Gaussian filter with half-sample symmetric border."""
    if sigma <= 0:
        return np.eye(size)
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    reflected = (np.arange(size)[:, None] + offsets) % (2 * size)
    reflected = np.where(reflected >= size, 2 * size - 1 - reflected, reflected)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], reflected), kernel)
    return matrix


class CosineDistances(nn.Module):
    """The published distance: cosine at each position of each scale, alike everywhere in the picture."""

    def __init__(self, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.weights = weights
        self.strides = tuple(stride for stride, weight in zip(STRIDES, weights, strict=True) if weight)

    def forward(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Features of three scales -> weighted distance [B, H, W] of each scale that has a weight, fine to coarse."""
        scales = zip(self.weights, teacher, student, strict=True)
        return tuple(weight * self.measure(t, s) for weight, t, s in scales if weight)

    @staticmethod
    def measure(teacher: Tensor, student: Tensor) -> Tensor:
        """Two [B, C, H, W] -> [B, H, W]."""
        return cosine_distance(teacher, student)


class SquaredDistances(CosineDistances):
    """Mean squared difference of raw features instead."""

    @staticmethod
    def measure(teacher: Tensor, student: Tensor) -> Tensor:
        """Two [B, C, H, W] -> [B, H, W]."""
        return (teacher.float() - student.float()).square().mean(1)


Distances = CosineDistances | UsualFeatures | JoinedDistances


class AnomalyMap(nn.Module):
    """Distances, fused and smoothed to one map, and its maximum (or mean) as score.

    ``distances`` compares the features of three scales and gives one [B, H, W] for each of its ``strides``; a scale that
    has no weight in its ``weights`` is not looked at. ``fusion`` is a sum, or STFPM's product: scales are brought to the
    finest grid, multiplied, and resized as OpenCV does. The root at the end changes no order and keeps a distance's size.
    """

    def __init__(
        self,
        height: int,
        width: int,
        sigma: float = 4.0,
        distances: Distances | None = None,
        fusion: Literal["sum", "product"] = "sum",
        score: Literal["max", "mean"] = "max",
    ) -> None:
        super().__init__()
        self.distances = CosineDistances() if distances is None else distances
        self.fusion, self.score = fusion, score
        sides = [(height, gaussian_matrix(height, sigma)), (width, gaussian_matrix(width, sigma))]
        if fusion == "product":
            self._keep("", *(smooth @ bilinear_matrix(side, side // STRIDES[0], False) for side, smooth in sides))
        for stride in self.distances.strides:
            if fusion == "product":
                self._keep(stride, *(bilinear_matrix(side // STRIDES[0], side // stride, False) for side, _ in sides))
            else:
                self._keep(stride, *(smooth @ bilinear_matrix(side, side // stride) for side, smooth in sides))

    def _keep(self, name: object, vertical: NDArray[np.float64], horizontal: NDArray[np.float64]) -> None:
        self.register_buffer(f"rows{name}", torch.from_numpy(vertical).float(), persistent=False)
        self.register_buffer(f"columns{name}", torch.from_numpy(horizontal.T.copy()).float(), persistent=False)

    @property
    def uses_finest(self) -> bool:
        """Whether the features of the finest scale are looked at."""
        return bool(self.distances.weights[0])

    def enlarged(self, distance: Tensor, stride: int) -> Tensor:
        """A distance [B, h, w] of a scale at the size of the picture, smoothed: [B, H, W]."""
        return self.get_buffer(f"rows{stride}") @ distance @ self.get_buffer(f"columns{stride}")

    def forward(self, teacher: tuple[Tensor, ...], student: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Features of three scales -> (score [B], anomaly map [B, H, W]), both float32."""
        parts = [
            self.enlarged(distance, stride)
            for stride, distance in zip(self.distances.strides, self.distances(teacher, student), strict=True)
        ]
        fused = parts[0]
        for part in parts[1:]:
            fused = fused * part if self.fusion == "product" else fused + part
        if self.fusion == "product":
            fused = self.get_buffer("rows") @ fused @ self.get_buffer("columns")
            fused = fused.clamp_min(0) ** (1 / len(parts))
        return fused.amax(dim=(1, 2)) if self.score == "max" else fused.mean(dim=(1, 2)), fused
