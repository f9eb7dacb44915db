"""The ways to lay a picture that good parts lie in as well, and the copies of good pictures that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np

from dskd.runtime.errors import CallError
from dskd.runtime.result import Image

Turned = Literal["auto", "none", "mirrored", "flipped", "half", "half_mirrored", "quarter", "quarter_mirrored"]
Way = tuple[int, bool]  # quarter turns to the left, of the picture that was mirrored left to right before or was not
AS_IT_LIES: Way = (0, False)
MIRRORED, FLIPPED, HALF = (0, True), (2, True), (2, False)
QUARTERS: tuple[Way, ...] = ((1, False), (3, False))
# What a setting adds to the picture as it lies. Any two of its ways after one another are one of its ways again.
WAYS: dict[Turned, tuple[Way, ...]] = {
    "quarter_mirrored": (HALF, *QUARTERS, MIRRORED, FLIPPED, (1, True), (3, True)),
    "quarter": (HALF, *QUARTERS),
    "half_mirrored": (HALF, MIRRORED, FLIPPED),
    "half": (HALF,),
    "mirrored": (MIRRORED,),
    "flipped": (FLIPPED,),
    "none": (),
    "auto": (),  # until it is decided
}
LOOKS = 600  # pictures and copies from which what is usual is known well
SEED = 0


def turn(pictures: Image, way: Way) -> Image:
    """Pictures [..., H, W, 3] laid another way."""
    turns, mirrored = way
    return np.rot90(pictures[..., ::-1, :] if mirrored else pictures, turns, (-3, -2))


def drawn(picture: Image, turned: Turned, rng: np.random.Generator) -> Image:
    """A picture [H, W, 3] laid one of its ways, each alike often; where there is one only, nothing is drawn."""
    ways = (AS_IT_LIES, *WAYS[turned])
    return turn(picture, ways[int(rng.integers(len(ways)))]) if len(ways) > 1 else picture


def require_square(turned: Turned, height: int, width: int) -> None:
    """Raises CallError where pictures of this size cannot be turned so."""
    if height != width and any(turns % 2 for turns, _ in WAYS[turned]):
        raise CallError(
            f"data.turned {turned}: the input is {width} x {height} pixels, and only a square turns by a quarter; "
            "set --size to a square, or take half or half_mirrored"
        )


def plan(count: int, turned: Turned) -> list[tuple[int, Way]]:
    """(index, way) of every look at ``count`` pictures, in their order.

    Few pictures are looked at in all ways, many in some drawn by chance, from ``LOOKS`` pictures on each in one.
    """
    ways, rng = (AS_IT_LIES, *WAYS[turned]), np.random.default_rng(SEED)
    if len(ways) == 1 or not count:
        return [(index, AS_IT_LIES) for index in range(count)]
    each = min(max(LOOKS // count, 1), len(ways))
    return [(index, ways[k]) for index in range(count) for k in sorted(rng.permutation(len(ways))[:each].tolist())]


class Pictures(Protocol):
    """Network inputs [H, W, 3], one after another."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Image]: ...


class Copies:
    """Good pictures [N, H, W, 3] with their copies, as ``plan`` has them. Only what is asked for is in memory."""

    def __init__(self, pictures: Pictures, turned: Turned) -> None:
        self._pictures, self._plan = pictures, plan(len(pictures), turned)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, part: slice) -> Image:
        """[K, H, W, 3]. Needs pictures that can be had by number."""
        return np.stack([turn(self._pictures[index], way) for index, way in self._plan[part]])  # type: ignore[index]

    def __iter__(self) -> Iterator[Image]:
        """Each [H, W, 3]; every picture is asked for once."""
        ways: dict[int, list[Way]] = {}
        for index, way in self._plan:
            ways.setdefault(index, []).append(way)
        for index, picture in enumerate(self._pictures):
            for way in ways[index]:
                yield np.ascontiguousarray(turn(picture, way))
