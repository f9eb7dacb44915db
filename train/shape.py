"""Height and width of the network's input, from the shape of the good pictures.

A tall picture squeezed to a square loses the thin marks that run along it. So the input has the pictures' own aspect, as
many pixels as a square of ``SIDE``, and sides that the networks can halve five times.
"""

from __future__ import annotations

import statistics
from math import log, prod
from pathlib import Path

from dskd.runtime.bundle.manifest import Tiling
from dskd.runtime.capture.image_files import BadImage, read_image
from dskd.runtime.errors import DskdError
from dskd.train.data import InspectionSet
from dskd.train.settings import RunConfig, TrainInput

SIDE = 256  # of the square that has as many pixels as any chosen input
STEP = 32  # the networks halve the input five times
SMALLEST = 96
LARGER = 1.02  # the most pixels, as a share of the square's
LOOKED_AT = 64  # pictures, spread over all
COARSE = 4.0  # frame pixels to a side of one input pixel, from which on tiles are named
OVERLAP = int(Tiling.model_fields["overlap"].default)  # of tiles, in frame pixels
MOST_TILES = 16  # that are proposed: each costs as much as a whole picture
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
        sizes = sizes or sizes_of(images.good)
        height, width, reason = choose_shape(sizes, what)
        reason += coarse(sizes, height * width)
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


def coarse(sizes: list[tuple[int, int]], pixels: int) -> str:
    """What a large picture loses in so few ``pixels``, and which tiles would keep; empty where it loses little.

    Whether that matters depends on how small the defects are, which good pictures do not say, and tiles take their time
    on the line: so they are proposed and never chosen.
    """
    if not sizes:
        return ""
    height, width = (int(statistics.median(lengths)) for lengths in zip(*sizes, strict=True))
    covered = (height * width / pixels) ** 0.5
    found = [(side, _tiles(height, width, side)) for side in range(SIDE, min(height, width) + 1, SIDE)]
    if covered < COARSE or not found:
        return ""
    side, tiles = next((each for each in found if each[1] <= MOST_TILES), found[-1])
    return (
        f"; each of its pixels covers {covered:.0f} x {covered:.0f} of the picture's, and smaller marks may be lost: "
        f"--set input.tiling.side={side} makes that {side / SIDE:.0f} x {side / SIDE:.0f}, in {tiles} tiles, each of which "
        "takes as long as one picture does now"
    )


def _tiles(height: int, width: int, side: int) -> int:
    """How many tiles of ``side`` a picture is cut into."""
    return prod(max(1, -(-(length - OVERLAP) // (side - OVERLAP))) for length in (height, width))


def _sides() -> list[tuple[int, int]]:
    """Every height and width that the networks take and the budget of pixels allows."""
    sides = range(SMALLEST, SIDE**2 // SMALLEST + STEP, STEP)
    return [(height, width) for height in sides for width in sides if height * width <= LARGER * SIDE**2]


def _misfit(height: int, width: int, aspect: float) -> float:
    """How far the sides are from the aspect (a logarithm) and from the budget."""
    return abs(log(width / height) - aspect) + abs(log(height * width / SIDE**2))
