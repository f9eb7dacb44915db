"""What training shows instead of the plain image: mirror images, exposure, and pseudo-anomalies to undo.

A pseudo-anomaly is an irregular patch that was moved here from elsewhere, re-lit, or roughened. The students are asked
for the teacher's features of the clean image, so that the way through the embedding learns to restore what is normal
instead of copying what it is shown (the idea of DRAEM, Zavrtanik et al. 2021, and DeSTSeg, Zhang et al. 2023, here
without any outside pictures). RD++ and URD bring kinds of their own. Everything follows from the generator: one seed,
one picture.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.capture.image_files import list_images, read_image
from dskd.runtime.errors import CallError
from dskd.runtime.result import Image
from dskd.train.noise import perlin, simplex_octaves
from dskd.train.settings import AugmentConfig

BOX = (10, 32)  # sides of RD++'s boxes in network pixels, the last one left out
SIMPLEX_STRENGTH = 0.2 * 255
FIXED_FIELD = 0  # seed of the one noise field that RD++'s code shows everywhere
PERLIN_CELLS = 6  # rows and columns of cells: powers of two under this one


def augment(image: Image, config: AugmentConfig, rng: np.random.Generator) -> tuple[Image, Image]:
    """Network input [H, W, 3] -> (clean, seen): the target's image and what the students are shown."""
    if config.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    if config.flip_vertical and rng.random() < 0.5:
        image = image[::-1]
    if config.gain:
        image = np.clip(image * np.exp(rng.normal(0, config.gain)), 0, 255).astype(np.uint8)
    clean = np.ascontiguousarray(image)
    if rng.random() >= config.pseudo_anomalies:
        return clean, clean
    if config.kind == "simplex":
        return clean, simplex_box(clean, rng, config.fresh_noise)
    if config.kind == "texture":
        return clean, other_texture(clean, rng, config.textures)
    return clean, pseudo_anomaly(clean, rng)


def simplex_box(image: Image, rng: np.random.Generator, fresh: bool = True) -> Image:
    """Adds simplex noise inside one small box of a uint8 image [H, W, 3]: RD++'s pseudo-anomaly."""
    height, width = image.shape[:2]
    rows, columns = (
        min(int(side), limit - 2) for side, limit in zip(rng.integers(*BOX, 2), (height, width), strict=True)
    )
    top, left = int(rng.integers(1, height - rows)), int(rng.integers(1, width - columns))
    noise = simplex_octaves((3, rows, columns), rng if fresh else np.random.default_rng(FIXED_FIELD))
    changed = image.copy()
    box = (slice(top, top + rows), slice(left, left + columns))
    changed[box] = np.clip(np.rint(image[box] + SIMPLEX_STRENGTH * noise.transpose(1, 2, 0)), 0, 255)
    return changed


def other_texture(image: Image, rng: np.random.Generator, textures: Path | None = None) -> Image:
    """Blends another texture into a uint8 image [H, W, 3] where turned Perlin noise is high: DRAEM's and URD's."""
    height, width = image.shape[:2]
    cells = tuple(int(2**k) for k in rng.integers(0, PERLIN_CELLS, 2))
    noise = perlin(height, width, (cells[0], cells[1]), rng)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(-90, 90)), 1)
    mask = cv2.warpAffine(noise, turn, (width, height)) > 0.5
    texture = _texture(image, rng, textures)
    opacity = rng.uniform(0, 0.8)  # of the image below
    mixed = (1 - opacity) * texture + opacity * image
    return np.where(mask[..., None], np.clip(np.rint(mixed), 0, 255), image).astype(np.uint8)


def _texture(image: Image, rng: np.random.Generator, folder: Path | None) -> NDArray[np.float32]:
    """A picture of the folder in the image's size; without one the image itself, rolled, turned over and re-coloured."""
    height, width = image.shape[:2]
    if folder is not None:
        files = _textures(folder)
        picture = read_image(files[int(rng.integers(len(files)))])
        return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    rolled = np.roll(image, (int(rng.integers(1, height)), int(rng.integers(1, width))), (0, 1))
    rolled = rolled[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    gain, shift = rng.uniform(-1.5, 1.5, 3), rng.uniform(0, 255, 3)
    return np.asarray(shift + gain * (rolled - rolled.mean((0, 1))), np.float32)


@lru_cache(maxsize=1)
def _textures(folder: Path) -> list[Path]:
    if not folder.is_dir() or not (files := list_images(folder)):
        raise CallError(f"augment.textures {folder}: holds no pictures; name a folder of textures, as DTD's")
    return files


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
