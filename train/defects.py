"""Painted defects with exact masks, for the demo set and for choosing a recipe without looking at test images.

Each painter takes a uint8 BGR image [H, W, 3] and a generator, and returns (image, mask): the mask is bool [H, W]
and true where a pixel changed visibly. ``contrast`` in (0, 1] scales how far a defect stands out.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
VISIBLE = 4  # grey levels: less is within a camera's noise
Painter = Callable[[Image, np.random.Generator, float], tuple[Image, Mask]]


def _blend(image: Image, alpha: NDArray[np.float32], target: NDArray[np.float32]) -> tuple[Image, Mask]:
    """Mixes ``target`` into ``image`` by ``alpha`` [H, W] where that can be seen, and marks it; all else stays."""
    mixed = np.clip(np.rint(image + alpha[..., None] * (target - image)), 0, 255).astype(np.uint8)
    mask = (alpha > 0.05) & (cv2.absdiff(mixed, image).max(axis=2) >= VISIBLE)
    return np.where(mask[..., None], mixed, image), mask


def _walk(shape: tuple[int, ...], rng: np.random.Generator, steps: int, bend: float) -> NDArray[np.int32]:
    """Points of a wandering line that starts inside the image, in OpenCV's (x, y) order."""
    height, width = shape[:2]
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, steps))
    stride = max(height, width) / 64
    start = rng.uniform(0.15, 0.85, 2) * (width, height)
    points = start + stride * np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1), 0)
    return np.rint(points).astype(np.int32)


def _line(image: Image, points: NDArray[np.int32], thickness: int) -> NDArray[np.float32]:
    canvas = np.zeros(image.shape[:2], np.uint8)
    cv2.polylines(canvas, [points.reshape(-1, 1, 2)], False, 255, thickness, cv2.LINE_AA)
    return canvas.astype(np.float32) / np.float32(255)


def _pen(image: Image, rng: np.random.Generator) -> int:
    """Width of a thin line: about one to three pixels once the picture has the network's size."""
    return max(1, round(np.sqrt(image.shape[0] * image.shape[1]) / 256 * rng.uniform(1, 3)))


def _lump(image: Image, rng: np.random.Generator, low: float, high: float) -> NDArray[np.float32]:
    """A soft-edged, irregular disc; its radius is a share of the shorter side."""
    height, width = image.shape[:2]
    radius = rng.uniform(low, high) * min(height, width)
    centre = rng.uniform(0.1, 0.9, 2) * (width, height)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    wobble = 1 + 0.25 * np.sin(angles * rng.integers(2, 5) + rng.uniform(0, 6)) + rng.normal(0, 0.06, 24)
    stretch = np.array([rng.uniform(0.6, 1.4), 1.0])
    outline = centre + stretch * radius * wobble[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline).astype(np.int32)], 255, cv2.LINE_AA)
    return cv2.GaussianBlur(canvas, (0, 0), 0.8).astype(np.float32) / np.float32(255)


def scratch(image: Image, rng: np.random.Generator, contrast: float = 1.0) -> tuple[Image, Mask]:
    """A thin bright line, nearly straight."""
    alpha = _line(image, _walk(image.shape, rng, int(rng.integers(12, 40)), 0.05), _pen(image, rng))
    return _blend(image, contrast * alpha, image + np.float32(90))


def crack(image: Image, rng: np.random.Generator, contrast: float = 1.0) -> tuple[Image, Mask]:
    """A thin dark line that wanders."""
    alpha = _line(image, _walk(image.shape, rng, int(rng.integers(8, 36)), 0.45), _pen(image, rng))
    return _blend(image, contrast * alpha, image * np.float32(0.35))


def blob(image: Image, rng: np.random.Generator, contrast: float = 1.0) -> tuple[Image, Mask]:
    """A small dark spot: a hole, a grain, a drop."""
    return _blend(image, contrast * _lump(image, rng, 0.012, 0.05), image * np.float32(0.25))


def missing_piece(image: Image, rng: np.random.Generator, contrast: float = 1.0) -> tuple[Image, Mask]:
    """A chip broken off at the border of the picture; what shows is a dark, flat background."""
    height, width = image.shape[:2]
    side, size = int(rng.integers(4)), rng.uniform(0.1, 0.22) * min(height, width)
    along = rng.uniform(0.1, 0.9)
    centre = [(along * width, 0), (along * width, height), (0, along * height), (width, along * height)][side]
    angles = np.linspace(0, 2 * np.pi, 11, endpoint=False)
    outline = centre + size * rng.uniform(0.5, 1.0, (11, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline).astype(np.int32)], 255, cv2.LINE_AA)
    background = rng.normal(28, 4, (height, width, 1)).astype(np.float32)
    return _blend(
        image, np.float32(contrast / 255) * canvas.astype(np.float32), np.broadcast_to(background, image.shape)
    )


def colour_shift(image: Image, rng: np.random.Generator, contrast: float = 1.0) -> tuple[Image, Mask]:
    """A large area, lighter or darker and tinted where the image has colour: a stain, uneven grinding."""
    shift = rng.choice([-1, 1]) * rng.uniform(25, 45) * np.ones(3)
    if np.ptp(image.astype(np.int16), axis=2).max() > 0:  # a grey camera has no tint to lose
        shift += rng.uniform(-20, 20, 3)
    return _blend(image, contrast * _lump(image, rng, 0.1, 0.25), image + shift.astype(np.float32))


def dent(image: Image, rng: np.random.Generator, contrast: float = 1.0) -> tuple[Image, Mask]:
    """A shallow hollow: one side of it catches the light, the other lies in shadow."""
    alpha = cv2.GaussianBlur(_lump(image, rng, 0.03, 0.1), (0, 0), 0.01 * min(image.shape[:2]) + 1)
    down, across = np.gradient(alpha)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * across + np.sin(angle) * down
    shade = np.float32(80 / max(float(np.abs(slope).max()), 1e-6)) * slope.astype(np.float32)
    return _blend(image, np.full(image.shape[:2], contrast, np.float32), image + shade[..., None])


def unevenness(image: Image, rng: np.random.Generator, contrast: float = 1.0) -> tuple[Image, Mask]:
    """A broad band or corner that is ground or coated otherwise: lighter or darker, and smoother or rougher."""
    height, width = image.shape[:2]
    cells = rng.standard_normal((3, 3), np.float32)
    field = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = np.quantile(field, (0.6, 0.85))
    alpha = np.clip((field - low) / (high - low), 0, 1).astype(np.float32)
    smooth = cv2.GaussianBlur(image, (0, 0), 0.01 * min(height, width) + 1).astype(np.float32)
    other = smooth + np.float32(rng.uniform(0, 1.8)) * (image - smooth)
    return _blend(image, contrast * alpha, other + np.float32(rng.choice([-1, 1]) * rng.uniform(15, 45)))


PAINTERS: dict[str, Painter] = {
    "scratch": scratch,
    "crack": crack,
    "blob": blob,
    "missing_piece": missing_piece,
    "colour_shift": colour_shift,
}
# The generated sets hold the kinds above; what chooses a map sees these as well.
ALL_PAINTERS: dict[str, Painter] = PAINTERS | {"dent": dent, "unevenness": unevenness}
