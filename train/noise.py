"""Gradient noise: smooth random fields of a chosen grain (Perlin 1985; simplex grid as in Gustavson 2005)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_EDGES = np.array(
    [[a, b, 0] for a in (1, -1) for b in (1, -1)]
    + [[a, 0, b] for a in (1, -1) for b in (1, -1)]
    + [[0, a, b] for a in (1, -1) for b in (1, -1)],
    np.float32,
)
_SKEW, _UNSKEW = 1 / 3, 1 / 6  # of the simplex grid in three dimensions
_RANGE = 32.0  # brings simplex noise to about -1 to 1


def perlin(height: int, width: int, cells: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Perlin noise [height, width] in about -1 to 1 over ``cells`` (rows, columns) of gradients."""
    rows, columns = cells
    angles = 2 * np.pi * rng.random((rows + 1, columns + 1))
    gradients = np.stack([np.cos(angles), np.sin(angles)])
    y, x = np.arange(height) * rows / height, np.arange(width) * columns / width
    i, j = y.astype(int)[:, None], x.astype(int)[None]
    u, v = (y % 1)[:, None], (x % 1)[None]

    def corner(down: int, right: int) -> NDArray[np.float64]:
        dy, dx = gradients[:, i + down, j + right]
        return np.asarray(dy * (u - down) + dx * (v - right))

    fade_u, fade_v = _fade(u), _fade(v)
    top = corner(0, 0) + fade_v * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade_v * (corner(1, 1) - corner(1, 0))
    return np.asarray(np.sqrt(2) * (top + fade_u * (bottom - top)), np.float32)


def _fade(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(6 * t**5 - 15 * t**4 + 10 * t**3)


def simplex_octaves(
    shape: tuple[int, int, int], rng: np.random.Generator, octaves: int = 6, persistence: float = 0.6, size: float = 32
) -> Floats:
    """Simplex noise over the grid of ``shape``; each octave has half the grain and ``persistence`` of the strength.

    RD++ takes OpenSimplex noise, whose grid is another; grain and strength are the same.
    """
    table = rng.permutation(256)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")).reshape(3, -1)
    field = sum(persistence**k * _simplex(grid / np.float32(size / 2**k), table) for k in range(octaves))
    return np.asarray(field, np.float32).reshape(shape)


def _simplex(points: Floats, table: NDArray[np.int64]) -> Floats:
    """Simplex noise at ``points`` [3, N] with the permutation ``table`` [256]: [N]."""
    cell = np.floor(points + points.sum(0) * _SKEW)
    inside = points - cell + cell.sum(0) * np.float32(_UNSKEW)
    # Corner k of the simplex is a step along the k longest sides.
    order = np.argsort(np.argsort(-inside, axis=0, kind="stable"), axis=0)
    total = np.zeros(points.shape[1], np.float32)
    for corner in range(4):
        step = (order < corner).astype(np.float32)
        offset = inside - step + np.float32(corner * _UNSKEW)
        a, b, c = (cell + step).astype(np.int64) & 255
        gradient = _EDGES[table[(a + table[(b + table[c]) & 255]) & 255] % len(_EDGES)].T
        strength = np.maximum(0.6 - (offset * offset).sum(0), 0) ** 4
        total += strength * (gradient * offset).sum(0)
    return np.float32(_RANGE) * total
