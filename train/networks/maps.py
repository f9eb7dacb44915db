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

STRIDES = (4, 8, 16)  # image pixels per position of the three feature maps
NORM_FLOOR = 1e-8  # of each vector, as torch's cosine_similarity has it: a dead position gives distance 1, gradient 0


def cosine_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Per-position cosine distance in float32: two [B, C, H, W] -> [B, H, W] in [0, 1] for post-ReLU features."""
    t, s = teacher.float(), student.float()
    return 1.0 - (t * s).sum(1) / (_norm(t) * _norm(s))


def _norm(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H, W]. The floor stands before the root, whose gradient at zero is infinite."""
    return x.square().sum(1).clamp_min(NORM_FLOOR**2).sqrt()


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


class CosineDistance(nn.Module):
    """``cosine_distance`` as a part of a map."""

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Two [B, C, H, W] -> [B, H, W]."""
        return cosine_distance(teacher, student)


class SquaredDistance(nn.Module):
    """Mean squared difference of raw features."""

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Two [B, C, H, W] -> [B, H, W]."""
        return (teacher.float() - student.float()).square().mean(1)


class AnomalyMap(nn.Module):
    """Distance per scale, fused and smoothed map, and its maximum (or mean) as score.

    ``distances`` compares the features of each scale, fine to coarse; a scale of weight 0 is not looked at.
    ``fusion`` is a sum, or STFPM's product: scales are brought to the finest grid, multiplied, and resized as OpenCV
    does. The root at the end changes no order and keeps the size of a distance.
    """

    def __init__(
        self,
        height: int,
        width: int,
        sigma: float = 4.0,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        distances: Sequence[nn.Module] | None = None,
        fusion: Literal["sum", "product"] = "sum",
        score: Literal["max", "mean"] = "max",
    ) -> None:
        super().__init__()
        self.weights, self.fusion, self.score = weights, fusion, score
        self.distances = nn.ModuleList(distances or [CosineDistance() for _ in STRIDES])
        full = height, width
        smooth = gaussian_matrix(height, sigma), gaussian_matrix(width, sigma)
        if fusion == "product":
            height, width = height // STRIDES[0], width // STRIDES[0]
            self._keep("", *(g @ bilinear_matrix(n, n // STRIDES[0], False) for g, n in zip(smooth, full, strict=True)))
            smooth = np.eye(height), np.eye(width)
        for k, (stride, weight) in enumerate(zip(STRIDES, weights, strict=True)):
            vertical = weight * smooth[0] @ bilinear_matrix(height, full[0] // stride, fusion == "sum")
            horizontal = smooth[1] @ bilinear_matrix(width, full[1] // stride, fusion == "sum")
            self._keep(str(k), vertical, horizontal)

    def _keep(self, name: str, vertical: NDArray[np.float64], horizontal: NDArray[np.float64]) -> None:
        self.register_buffer(f"rows{name}", torch.from_numpy(vertical).float(), persistent=False)
        self.register_buffer(f"columns{name}", torch.from_numpy(horizontal.T.copy()).float(), persistent=False)

    def forward(self, teacher: tuple[Tensor, ...], student: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Features of three scales -> (score [B], anomaly map [B, H, W]), both float32."""
        fused: Tensor | None = None
        for k, (t, s, distance) in enumerate(zip(teacher, student, self.distances, strict=True)):
            if self.weights[k] == 0:
                continue
            part = self.get_buffer(f"rows{k}") @ distance(t, s) @ self.get_buffer(f"columns{k}")
            fused = part if fused is None else fused + part if self.fusion == "sum" else fused * part
        assert fused is not None
        if self.fusion == "product":
            fused = self.get_buffer("rows") @ fused @ self.get_buffer("columns")
            fused = fused.clamp_min(0) ** (1 / sum(weight > 0 for weight in self.weights))
        return fused.amax(dim=(1, 2)) if self.score == "max" else fused.mean(dim=(1, 2)), fused
