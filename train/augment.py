"""What training shows instead of the plain image: mirror images, exposure, and pseudo-anomalies to undo.

A pseudo-anomaly is an irregular patch that was moved here from elsewhere, re-lit, or roughened. The students are asked
for the teacher's features of the clean image, so that the way through the embedding learns to restore what is normal
instead of copying what it is shown (the idea of DRAEM, Zavrtanik et al. 2021, and DeSTSeg, Zhang et al. 2023, here
without any outside pictures). Everything follows from the generator: one seed, one picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.preprocess import Image
from train.config import AugmentConfig


def augment(image: Image, config: AugmentConfig, rng: np.random.Generator) -> tuple[Image, Image]:
    """Network input [H, W, 3] -> (clean, seen): the target's image and what the students are shown."""
    if config.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    if config.flip_vertical and rng.random() < 0.5:
        image = image[::-1]
    if config.gain:
        image = np.clip(image * np.exp(rng.normal(0, config.gain)), 0, 255).astype(np.uint8)
    clean = np.ascontiguousarray(image)
    return clean, pseudo_anomaly(clean, rng) if rng.random() < config.pseudo_anomalies else clean


def pseudo_anomaly(image: Image, rng: np.random.Generator) -> Image:
    """Changes an irregular patch of a uint8 image [H, W, 3]."""
    height, width = image.shape[:2]
    original = image.astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:  # moved: the image itself, rolled and perhaps upside down
        offset = (int(rng.integers(1, height)), int(rng.integers(1, width)))
        other = np.roll(original, offset, (0, 1))[:: rng.choice([-1, 1])]
    elif kind == 1:  # re-lit
        other = original + np.float32(rng.choice([-1, 1]) * rng.uniform(15, 110))
    else:  # roughened
        grain = cv2.GaussianBlur(rng.standard_normal((height, width), np.float32), (0, 0), rng.uniform(0.5, 3))
        other = original + (grain / grain.std() * rng.uniform(15, 70))[..., None]
    alpha = np.float32(rng.uniform(0.3, 1)) * _patch(height, width, rng)[..., None]
    return np.clip(original + alpha * (other - original), 0, 255).astype(np.uint8)


def _patch(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Soft mask [H, W]: where smooth noise of a random grain is highest, inside a random window."""
    cells = np.rint(np.exp(rng.uniform(np.log(4), np.log(64), 2))).astype(int)
    noise = cv2.resize(rng.standard_normal(cells, np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    rows, columns = int(height * rng.uniform(0.15, 0.8)), int(width * rng.uniform(0.15, 0.8))
    top, left = int(rng.integers(0, height - rows)), int(rng.integers(0, width - columns))
    mask = np.zeros((height, width), np.float32)
    window = noise[top : top + rows, left : left + columns]
    mask[top : top + rows, left : left + columns] = window > np.quantile(window, rng.uniform(0.6, 0.97))
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.7), np.float32)
