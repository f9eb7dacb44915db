"""``python -m benchmarks.tile_worker``: one bundle on one backend, one large frame in tiles, inspected when asked.

The bundle's own tiles are taken; where it has none, tiles of the network's size that share an eighth. Cutting, network
and merging cost what they cost in either case. The frame is a mosaic of golden frames that passes: no regions.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from dskd.benchmarks.worker import say
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.bundle.manifest import InputSpec, Tiling
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.errors import CallError, Parser, exit_with_code
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.inspection.proved import open_proved
from dskd.runtime.inspection.tiling import Grid
from dskd.runtime.result import Frame, Image

SHARED = 8  # tiles share an eighth of their side: 32 of 256 pixels, as training does by default
PASSES = Settings(1e30, 1e30)


def in_tiles(bundle: Bundle) -> Bundle:
    """The bundle as if it had been trained on tiles. Raises CallError where its input is no square."""
    spec = bundle.manifest.input
    if spec.tiling is not None:
        return bundle
    if spec.height != spec.width:
        raise CallError(
            f"{bundle.path}: tiles are square and its input is {spec.width}x{spec.height}; name another bundle"
        )
    cut = InputSpec(height=spec.height, width=spec.width, tiling=Tiling(side=spec.width, overlap=spec.width // SHARED))
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"input": cut}))


def mosaic(bundle: Bundle, size: int) -> Image:
    """Golden frames side by side, each as large as a tile, cut to a square of ``size`` pixels."""
    tiling = bundle.manifest.input.tiling
    assert tiling is not None
    pictures = [cv2.resize(read_image(path), (tiling.side, tiling.side)) for path in bundle.golden().frames]
    row = np.concatenate(pictures, axis=1)
    times = -(-size // tiling.side), -(-size // row.shape[1])
    return np.ascontiguousarray(np.tile(row, (*times, 1))[:size, :size])


def main(arguments: list[str]) -> int:
    """Answers until nobody asks any more; returns the exit code."""
    parser = Parser(prog="python -m benchmarks.tile_worker", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--side", type=int, required=True, help="of the frame, in pixels")
    options = parser.parse_args(arguments)
    bundle = load_bundle(options.bundle)
    backend, _ = open_proved(bundle, options.backend, options.threads, options.precision)
    with closing(backend):
        cut = in_tiles(bundle)
        frame = Frame("benchmark", "0", 0.0, mosaic(cut, options.side))
        inspector = Inspector(cut, backend, PASSES)
        _answer(inspector, frame)
    return 0


def _answer(inspector: Inspector, frame: Frame) -> None:
    """One frame for each line that is asked, and the first one before anybody asks: its memory is new."""
    grid = Grid.of((frame.image.shape[0], frame.image.shape[1]), inspector.bundle.manifest.input)
    inspector.inspect(frame)
    cells = grid.map_size[0] * grid.map_size[1]
    say({"tiles": len(grid), "bytes": frame.image.nbytes + 4 * cells})
    for line in sys.stdin:
        json.loads(line)
        start = time.perf_counter()
        timings = inspector.inspect(frame).timings_ms
        milliseconds = 1e3 * (time.perf_counter() - start)
        times = {"frame to verdict": [milliseconds], "a tile": [milliseconds / len(grid)]}
        say({"times": times | {stage: [took] for stage, took in timings.items()}})


if __name__ == "__main__":
    exit_with_code(main)
