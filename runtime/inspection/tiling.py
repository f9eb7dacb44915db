"""Large frames in overlapping tiles: where the tiles lie, and how their maps become one map of the frame.

A tile is cut and resized by the one preprocessing. Where tiles overlap, each counts the more the farther its border is:
near a border a network sees padding instead of the picture.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends.base import Backend, Output, Overlapping
from dskd.runtime.inspection.preprocess import Crop, preprocess
from dskd.runtime.result import Image

Value = TypeVar("Value", np.float32, np.bool_)


@dataclass(frozen=True)
class Grid:
    """The tiles of a frame, row by row, as few as keep the overlap and evenly spread.

    ``size`` (height, width) of the frame and ``side`` of a tile in frame pixels, ``cells`` of a tile's map, ``rows``
    and ``columns`` of tiles.
    """

    size: tuple[int, int]
    side: int
    cells: int
    rows: int
    columns: int

    @classmethod
    def of(cls, size: tuple[int, int], spec: InputSpec) -> Grid:
        """The tiles of a frame of ``size``. Raises DskdError where it is smaller than one of them."""
        assert spec.tiling is not None
        side, overlap = spec.tiling.side, spec.tiling.overlap
        if min(size) < side:
            raise DskdError(
                f"the frame of {size[1]}x{size[0]} pixels is smaller than a tile of {side}x{side}; "
                "use the camera's trained resolution or a bundle trained with smaller tiles"
            )
        rows, columns = (-(-(length - overlap) // (side - overlap)) for length in size)
        return cls(size, side, spec.width, max(rows, 1), max(columns, 1))

    def __len__(self) -> int:
        return self.rows * self.columns

    @property
    def map_size(self) -> tuple[int, int]:
        """Cells (height, width) of the merged map: as fine as the tiles' maps."""
        height, width = (max(round(length * self.cells / self.side), self.cells) for length in self.size)
        return height, width

    def boxes(self) -> list[Crop]:
        """Every tile as (x, y, width, height) in frame pixels."""
        tops, lefts = _starts(self.size[0], self.side, self.rows), _starts(self.size[1], self.side, self.columns)
        return [(left, top, self.side, self.side) for top in tops for left in lefts]


class MergedMap:
    """One map of a frame, ``values`` [H, W], whole once the maps of all its tiles were added."""

    def __init__(self, grid: Grid) -> None:
        height, width = grid.map_size
        self._columns, self._cells = grid.columns, grid.cells
        self._tops, self._lefts = (
            _starts(height, grid.cells, grid.rows),
            _starts(width, grid.cells, grid.columns),
        )
        self._down, self._across = _shares(height, grid.cells, self._tops), _shares(width, grid.cells, self._lefts)
        self._counted = np.empty((grid.cells, grid.cells), np.float32)  # of one tile
        self.values = np.zeros((height, width), np.float32)

    def clear(self) -> None:
        """For the next frame, in the same memory."""
        self.values.fill(0)

    def add(self, first: int, maps: NDArray[np.float32]) -> None:
        """Adds the maps [N, cells, cells] of the tiles from number ``first`` on."""
        for k, tile in enumerate(maps, first):
            i, j = divmod(k, self._columns)
            top, left = self._tops[i], self._lefts[j]
            np.multiply(self._down[i][:, None], self._across[j], out=self._counted)
            self._counted *= tile
            self.values[top : top + self._cells, left : left + self._cells] += self._counted


def _starts(length: int, side: int, count: int) -> list[int]:
    """Where ``count`` pieces of ``side`` begin, evenly from 0 to the end of ``length``."""
    return [round(k * (length - side) / max(count - 1, 1)) for k in range(count)]


def _shares(length: int, side: int, starts: list[int]) -> NDArray[np.float32]:
    """What each piece counts at its cells, [pieces, side]: by the distance from its border, in sum 1 everywhere."""
    hat = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += hat
    return np.stack([hat / total[start : start + side] for start in starts]).astype(np.float32)


@dataclass(frozen=True)
class Seen:
    """A frame after all of its tiles: the merged map, and milliseconds. Merging counts as inference.

    The map is whole until ``Tiles`` has the next frame: copy what is to stay.
    """

    anomaly_map: NDArray[np.float32]
    preprocess: float
    inference: float


class Tiles:
    """The tiles of frames of one size, ``max_batch`` at a time, in memory that every frame takes again.

    The next tiles are cut while a device that works beside the host has the last ones.
    """

    def __init__(self, size: tuple[int, int], spec: InputSpec, max_batch: int) -> None:
        grid = Grid.of(size, spec)
        self.size, self._boxes, self._merged = size, grid.boxes(), MergedMap(grid)
        self._inputs = np.empty((2, max_batch, spec.height, spec.width, 3), np.uint8)  # on their way, and the next

    def infer(self, device: Overlapping, frame: Image, look: Callable[[Image], None] | None = None) -> Seen:
        """Runs a frame [H, W, 3] on ``device``, at most two batches of tiles on their way.

        ``look`` is shown the tiles [N, height, width, 3]. Raises what preprocessing, ``device`` and ``look`` raise.
        """
        begun, preparing, most = time.perf_counter(), 0.0, self._inputs.shape[1]
        self._merged.clear()
        going: deque[tuple[int, Any]] = deque()  # number of the first tile, ticket
        try:
            for number, first in enumerate(range(0, len(self._boxes), most)):
                before = time.perf_counter()
                batch = self._cut(frame, first, self._inputs[number % 2])
                if look is not None:
                    look(batch)
                preparing += time.perf_counter() - before
                going.append((first, device.submit(batch)))
                if len(going) > 1:
                    self._merge(device, *going.popleft())
            self._merge(device, *going.popleft())
        finally:
            for _, ticket in going:  # something failed: nothing stays on its way
                with suppress(Exception):
                    device.collect(ticket)
        return Seen(self._merged.values, 1000 * preparing, 1000 * (time.perf_counter() - begun - preparing))

    def _cut(self, frame: Image, first: int, room: Image) -> Image:
        boxes = self._boxes[first : first + len(room)]
        for tile, box in zip(room, boxes, strict=False):
            preprocess(frame, tile.shape[0], tile.shape[1], box, out=tile)
        return room[: len(boxes)]

    def _merge(self, device: Overlapping, first: int, ticket: Any) -> None:
        self._merged.add(first, device.collect(ticket).maps())


class _InTurn:
    """A backend that computes in the caller's thread, with the calls of one that overlaps."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def submit(self, batch: Image) -> Image:
        """The batch is its own ticket; it must stay as it is until it was collected."""
        return batch

    def collect(self, ticket: Image) -> Output:
        """Computes."""
        return self._backend.infer(ticket)


def infer_tiles(backend: Backend, frame: Image, spec: InputSpec, max_batch: int) -> Seen:
    """Runs one frame [H, W, 3] tile by tile, ``max_batch`` at a time: memory does not grow with their number.

    Raises DskdError where the frame is no picture or too small, and what the backend raises.
    """
    tiles = Tiles((frame.shape[0], frame.shape[1]), spec, max_batch)
    return tiles.infer(_InTurn(backend), frame)


def coarse(values: NDArray[Value], height: int, width: int) -> NDArray[Value]:
    """The largest value in each cell of a grid [height, width] over ``values`` [H, W]."""
    rows, columns = values.shape[0] * np.arange(height) // height, values.shape[1] * np.arange(width) // width
    return np.maximum.reduceat(np.maximum.reduceat(values, rows, axis=0), columns, axis=1)
