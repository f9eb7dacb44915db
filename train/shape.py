"""Height and width of the network's input, from the shape of the good pictures.

A tall picture squeezed to a square loses the thin marks that run along it. So the input has the pictures' own aspect, as
many pixels as a square of ``SIDE``, and sides that the networks can halve five times.
"""

from __future__ import annotations

import statistics
from math import log
from pathlib import Path

from dskd.runtime.capture.image_files import BadImage, read_image
from dskd.runtime.errors import DskdError
from dskd.train.data import InspectionSet
from dskd.train.settings import RunConfig, TrainInput

SIDE = 256  # of the square that has as many pixels as any chosen input
STEP = 32  # the networks halve the input five times
SMALLEST = 96
LARGER = 1.02  # the most pixels, as a share of the square's
LOOKED_AT = 64  # pictures, spread over all
ALIKE = 0.15  # largest median deviation of the logarithm of the aspect for pictures that have one shape


def settle_input(config: RunConfig, images: InspectionSet) -> tuple[RunConfig, str]:
    """``config`` with height and width as numbers, and why; those that were given stay."""
    given = config.input
    if given.shape == "given":
        return config, f"{given.height} x {given.width} (height x width): as asked for"
    height, width, reason = SIDE, SIDE, f"tiles are square, {SIDE} pixels a side"
    if given.tiling is None:
        found = given.fixture
        sizes = [(found.height, found.width)] if found else [(given.crop[3], given.crop[2])] if given.crop else []
        what = "the part as the fixture cuts it out is" if found else "the crop is" if given.crop else ""
        height, width, reason = choose_shape(sizes or sizes_of(images.good), what)
    fields = given.model_dump() | {"height": height, "width": width, "shape": "given"}
    settled = config.model_copy(update={"input": TrainInput.model_validate(fields)})
    return settled, f"{height} x {width} (height x width): {reason}"


def sizes_of(paths: list[Path]) -> list[tuple[int, int]]:
    """(height, width) of some of the pictures; files that cannot be read are left out."""
    found = []
    for path in paths[:: -(-len(paths) // LOOKED_AT) or 1]:
        try:
            height, width = read_image(path).shape[:2]
        except (BadImage, DskdError):
            continue  # named later, where every picture is read
        found.append((height, width))
    return found


def choose_shape(sizes: list[tuple[int, int]], what: str = "") -> tuple[int, int, str]:
    """Height, width and the reason for pictures of these (height, width); ``what`` has that size, if not the pictures."""
    aspects = [log(width / height) for height, width in sizes]
    if not aspects:
        return SIDE, SIDE, "no picture could be read"
    middle = statistics.median(aspects)
    if statistics.median(abs(aspect - middle) for aspect in aspects) > ALIKE:
        return SIDE, SIDE, "the pictures have many shapes"
    height, width = min(_sides(), key=lambda sides: _misfit(sides[0], sides[1], middle))
    typical = min(sizes, key=lambda size: abs(log(size[1] / size[0]) - middle))
    what = what or ("the pictures are" if len(set(sizes)) == 1 else "a typical picture is")
    return height, width, f"{what} {typical[0]} x {typical[1]}"


def _sides() -> list[tuple[int, int]]:
    """Every height and width that the networks take and the budget of pixels allows."""
    sides = range(SMALLEST, SIDE**2 // SMALLEST + STEP, STEP)
    return [(height, width) for height in sides for width in sides if height * width <= LARGER * SIDE**2]


def _misfit(height: int, width: int, aspect: float) -> float:
    """How far the sides are from the aspect (a logarithm) and from the budget."""
    return abs(log(width / height) - aspect) + abs(log(height * width / SIDE**2))
