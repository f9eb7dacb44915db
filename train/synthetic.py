"""A small generated inspection set in MVTec layout, for the demo and the tests: ``dskd train.synthetic OUT``.

The part is a brushed metal plate with a drilled hole on a dark table, or with ``--product`` a woven cloth, a printed
label or a stamped bracket that lies anywhere and at any angle. Good parts vary in texture, exposure, position and light;
defects are painted with exact masks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dskd.runtime.capture.image_files import write_image
from dskd.runtime.errors import CallError, Parser, exit_with_code
from dskd.runtime.result import Image
from dskd.train.defects import PAINTERS, Mask, Painter

NAME = "brushed_plate"
SIZE = (192, 256)  # height and width
SMALLEST, LARGEST = 64, 8192
FEWEST_PIXELS = 40  # of a defect that can be seen
TABLE = np.array([24, 22, 20], np.float32)  # BGR
CLEAR = 12  # grey levels of change that stand out: six times the part's noise


def good_part(rng: np.random.Generator, height: int = 192, width: int = 256) -> Image:
    """One good part, uint8 BGR [height, width, 3]."""
    shape = (height, width)
    grain = cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), sigmaX=12, sigmaY=0.8)
    cloud = cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), 30)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    light = (np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)) * rng.uniform(4, 22)
    metal = rng.uniform(125, 160) + 9 * grain / grain.std() + 4 * cloud / cloud.std() + light
    tint = np.array([rng.uniform(0.98, 1.04), 1.0, rng.uniform(0.96, 1.0)], np.float32)
    image = metal[..., None] * tint
    dx, dy = rng.uniform(-4, 4, 2)
    image[_outside_plate(x - dx, y - dy, height, width)] = TABLE
    hole = (x - dx - 0.5 * width) ** 2 + (y - dy - 0.5 * height) ** 2
    image[hole < (0.11 * height) ** 2] = (30, 28, 27)
    image = cv2.GaussianBlur(image, (0, 0), 0.7) + rng.normal(0, 2.0, (height, width, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def _outside_plate(x: np.ndarray, y: np.ndarray, height: int, width: int) -> np.ndarray:
    margin = 10
    return (x < margin) | (x > width - margin) | (y < margin) | (y > height - margin)


def woven_cloth(rng: np.random.Generator, height: int = 192, width: int = 256) -> Image:
    """One good cloth, uint8 BGR [height, width, 3]: a blue plain weave, a little askew."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    turn, pitch = rng.normal(0, 0.02), rng.uniform(9.5, 10.5)
    u, v = (x + turn * y) / pitch + rng.random(), (y - turn * x) / pitch + rng.random()
    warp = np.where((np.floor(u) + np.floor(v)) % 2 == 0, np.sin(np.pi * (u % 1)), np.sin(np.pi * (v % 1)))
    fibre = cv2.GaussianBlur(rng.standard_normal((height, width), np.float32), (0, 0), 1.2)
    grey = rng.uniform(70, 90) + 60 * warp + 5 * fibre / fibre.std()
    image = grey[..., None] * np.array([1.25, rng.uniform(0.82, 0.92), 0.6], np.float32)
    return np.clip(image + rng.normal(0, 2.0, (height, width, 1)), 0, 255).astype(np.uint8)


def printed_label(rng: np.random.Generator, height: int = 192, width: int = 256) -> Image:
    """One good label, uint8 BGR [height, width, 3]: bars, a ring and two lines of print on cream paper."""
    canvas = np.full((height, width, 3), (205, 225, 232), np.uint8)
    dx, dy = (int(shift) for shift in rng.integers(-3, 4, 2))
    bars = np.random.default_rng(0).integers(2, 6, 24)  # the same code on each
    left = 0.1 * width + dx
    for k, bar in enumerate(bars):
        if k % 2 == 0:
            cv2.rectangle(
                canvas,
                (int(left), int(0.55 * height) + dy),
                (int(left + bar), int(0.85 * height) + dy),
                (40, 40, 45),
                -1,
            )
        left += float(bar)
    cv2.circle(
        canvas, (int(0.78 * width) + dx, int(0.68 * height) + dy), int(0.15 * height), (60, 60, 190), 5, cv2.LINE_AA
    )
    for row, text in enumerate(("PART 40-17", "LOT 2231 A")):
        place = (int(0.1 * width) + dx, int((0.2 + 0.18 * row) * height) + dy)
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.9 * width / 256, (50, 45, 45), 2, cv2.LINE_AA)
    image = cv2.GaussianBlur(canvas, (0, 0), 0.7) * rng.uniform(0.92, 1.02) + rng.normal(0, 2.5, (height, width, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def stamped_bracket(rng: np.random.Generator, height: int = 192, width: int = 256) -> Image:
    """One good bracket, upright and filling its picture, uint8 BGR [height, width, 3]: an L with two holes and a slot."""
    grain = cv2.GaussianBlur(rng.standard_normal((height, width), np.float32), (0, 0), sigmaX=10, sigmaY=0.7)
    metal = rng.uniform(125, 160) + 7 * grain / grain.std()
    x, y = np.float32(width / 100), np.float32(height / 100)
    outline = [(4, 4), (96, 4), (96, 40), (44, 40), (36, 52), (36, 96), (4, 96)]
    shape = np.zeros((height, width), np.uint8)
    cv2.fillPoly(shape, [np.rint(np.array(outline) * (x, y)).astype(np.int32)], 255)
    for across, down in ((20, 78), (80, 22)):
        cv2.circle(shape, (round(across * x), round(down * y)), round(7 * min(x, y)), 0, -1)
    cv2.rectangle(shape, (round(30 * x), round(18 * y)), (round(58 * x), round(26 * y)), 0, -1)
    image = np.where(shape[..., None] > 0, metal[..., None] * np.array([1.02, 1.0, 0.98], np.float32), TABLE)
    return np.clip(cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.7), 0, 255).astype(np.uint8)


def lay_down(part: Image, mask: Mask, rng: np.random.Generator, height: int, width: int) -> tuple[Image, Mask]:
    """A part [h, w, 3] and its mask [h, w], anywhere and at any angle on a table of [height, width]; under a light that
    falls from a side, with a camera's noise.
    """
    turn = cv2.getRotationMatrix2D(((part.shape[1] - 1) / 2, (part.shape[0] - 1) / 2), rng.uniform(0, 360), 1)
    free = np.array([width, height]) / 2 - np.hypot(*part.shape[:2]) / 2
    turn[:, 2] += np.array([width - part.shape[1], height - part.shape[0]]) / 2 + rng.uniform(-0.9, 0.9, 2) * free
    table = (float(TABLE[0]), float(TABLE[1]), float(TABLE[2]))
    image = cv2.warpAffine(part, turn, (width, height), flags=cv2.INTER_LINEAR, borderValue=table)
    turned = cv2.warpAffine(mask.astype(np.uint8) * 255, turn, (width, height), flags=cv2.INTER_LINEAR)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    light = (np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)) * rng.uniform(0.02, 0.12)
    lit = image * (1 + light[..., None]) + rng.normal(0, 2.0, (height, width, 1))
    return np.clip(lit, 0, 255).astype(np.uint8), turned > 127


def _upright(height: int, width: int) -> tuple[int, int]:
    """Height and width of the upright picture of a part that lies anywhere: it fits at any angle."""
    return round(0.42 * min(height, width)), round(0.6 * min(height, width))


PRODUCTS: dict[str, Callable[..., Image]] = {
    NAME: good_part,
    "woven_cloth": woven_cloth,
    "printed_label": printed_label,
}
LIE_ANYWHERE: dict[str, Callable[..., Image]] = {"stamped_bracket": stamped_bracket}


def write_set(
    out: Path,
    train: int = 60,
    test_good: int = 16,
    per_defect: int = 6,
    seed: int = 0,
    product: str = NAME,
    size: tuple[int, int] = SIZE,
) -> Path:
    """Writes the set below ``out`` and returns its folder: ``train`` good parts, ``test_good``, and each defect.

    ``size`` is (height, width) of a picture.
    """
    folder, make = out / product, partial(_picture, product, size)
    rng = np.random.default_rng(seed)
    (folder / "train" / "good").mkdir(parents=True, exist_ok=True)
    for k in range(train):
        write_image(folder / "train" / "good" / f"{k:03}.png", make(rng)[0])
    for k in range(test_good):
        write_image(folder / "test" / "good" / f"{k:03}.png", make(rng)[0])
    for name, paint in PAINTERS.items():
        for k in range(per_defect):
            image, mask = make(rng, paint)
            write_image(folder / "test" / name / f"{k:03}.png", image)
            write_image(folder / "ground_truth" / name / f"{k:03}_mask.png", mask.astype(np.uint8) * 255)
    return folder


def _picture(
    product: str, size: tuple[int, int], rng: np.random.Generator, paint: Painter | None = None
) -> tuple[Image, Mask]:
    """A picture of ``size`` (height, width) of a good part, or of one with a defect, and where that is."""
    anywhere = product in LIE_ANYWHERE
    height, width = _upright(*size) if anywhere else size
    good = partial((PRODUCTS | LIE_ANYWHERE)[product], height=height, width=width)
    part, mask = (
        _defective_part(good, paint, rng, anywhere) if paint else (good(rng), np.zeros((height, width), np.bool_))
    )
    return lay_down(part, mask, rng, *size) if anywhere else (part, mask)


def _defective_part(
    good: Callable[..., Image], paint: Painter, rng: np.random.Generator, on_metal: bool
) -> tuple[Image, Mask]:
    """A part with a defect that stands out: a chip in the dark table would be none. ``on_metal``: nothing beside it."""
    while True:
        part = good(rng)
        image, mask = paint(part, rng, rng.uniform(0.6, 1.0))
        if on_metal:
            mask &= part.max(axis=2) > 2 * TABLE.max()
            image = np.where(mask[..., None], image, part)
        if (cv2.absdiff(image, part).max(axis=2) >= CLEAR).sum() >= FEWEST_PIXELS:
            return image, mask


EXAMPLES = """dskd train.synthetic sets                         then: dskd train --data sets/brushed_plate
dskd train.synthetic sets --train 300 --seed 1
dskd train.synthetic sets --size 2048 2048        large pictures, to try tiles"""


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="dskd train.synthetic", description=__doc__, examples=EXAMPLES)
    parser.add_argument("out", type=Path, help="folder to write the set into")
    parser.add_argument("--train", type=int, default=60, help="good training images (default: %(default)s)")
    parser.add_argument("--test-good", type=int, default=16, help="good test images (default: %(default)s)")
    parser.add_argument("--per-defect", type=int, default=6, help="test images per defect (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another set (default: %(default)s)")
    parser.add_argument(
        "--product", choices=PRODUCTS | LIE_ANYWHERE, default=NAME, help="what is made (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"),
        help="pixels of a picture (default: 192 256); 2048 2048 to try tiles",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if min(options.size) < SMALLEST or max(options.size) > LARGEST:
        raise CallError(f"--size {options.size[0]} {options.size[1]}: sides lie between {SMALLEST} and {LARGEST}")
    size = (options.size[0], options.size[1])
    numbers = (options.train, options.test_good, options.per_defect, options.seed)
    folder = write_set(options.out, *numbers, options.product, size)
    print(f"wrote {folder}: {options.train} good for training, defects {', '.join(PAINTERS)}")
    return 0


if __name__ == "__main__":
    exit_with_code(main)
