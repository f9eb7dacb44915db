"""A frame on its way to a PASS takes no new array, tiled or flagged only what its maps need, and leaves nothing behind."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import SIDE, tiled, tiny_bundle

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.result import Frame, Verdict

WARM, FRAMES = 200, 100  # after some hundred the free lists of Python and of the bindings are full
TUPLES = 2200  # frames; of each length Python keeps up to 2,000 tuples, as of regions, before it uses one again
PASSES, FLAGS = Settings(1e9, 1e9), Settings(-1.0, -0.5)
Opened = Callable[[Bundle, Settings], Inspector]


@pytest.fixture(params=["onnxruntime", "openvino"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[[Bundle, Settings], Inspector]]:
    """Makes inspectors on that backend."""
    with ExitStack() as stack:

        def make(bundle: Bundle, settings: Settings) -> Inspector:
            backend = stack.enter_context(closing(open_backend(bundle, request.param, threads=1)))
            return Inspector(bundle, backend, settings)

        yield make


@dataclass(frozen=True)
class Traced:
    """Bytes of each of many frames: held at most meanwhile, and held afterwards in all."""

    peaks: NDArray[np.float64]
    held: NDArray[np.float64]
    verdict: Verdict

    @property
    def left_behind(self) -> float:
        """By a quarter of the frames, the one that left least: what each leaves goes on, what fills up once does not."""
        quarters = np.median(self.held.reshape(4, -1), axis=1)
        return float(np.diff(quarters).min())


def traced(inspector: Inspector, size: tuple[int, int], warm: int = WARM) -> Traced:
    frame = Frame("test", "0", 0.0, np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    peaks, held = np.zeros(FRAMES), np.zeros(FRAMES)
    gc.collect()
    gc.disable()  # a full collection empties Python's own stocks of small objects, which then fill up again
    tracemalloc.start()
    try:
        for _ in range(warm):
            inspector.inspect(frame)
        for k in range(FRAMES):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            verdict = inspector.inspect(frame).verdict
            peaks[k] = tracemalloc.get_traced_memory()[1] - before
            held[k] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    return Traced(peaks, held, verdict)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(512, 640), (160, 160), (64, 96)])  # halved first, made smaller, fits already
def test_no_array_is_made_for_a_frame(bundle: Bundle, opened: Opened, size: tuple[int, int]) -> None:
    spec = bundle.manifest.input
    found = traced(opened(bundle, PASSES), size)
    assert found.verdict is Verdict.PASS
    assert np.median(found.peaks) < spec.height * spec.width * 3 / 2  # bytes: less than the smallest array on the way
    assert found.left_behind < FRAMES // 4  # bytes: not one a frame


def test_a_flagged_frame_takes_a_few_maps(bundle: Bundle, opened: Opened) -> None:
    spec = bundle.manifest.input
    found = traced(opened(bundle, FLAGS), (160, 160), 20)
    assert found.verdict is Verdict.REJECT
    assert np.median(found.peaks) < 4 * spec.height * spec.width * 4  # bytes: its own, masks and labels


def test_a_flagged_frame_leaves_nothing_behind(tmp_path: Path, opened: Opened) -> None:
    found = traced(opened(tiny_bundle(tmp_path / "b"), FLAGS), (64, 64), TUPLES)
    assert found.verdict is Verdict.REJECT
    assert found.left_behind < FRAMES // 4


@pytest.mark.parametrize("tiles", [4, 8])
def test_a_tiled_frame_takes_the_maps_of_a_batch_however_many_tiles(tmp_path: Path, opened: Opened, tiles: int) -> None:
    bundle = tiled(tmp_path / "b")
    found = traced(opened(bundle, PASSES), (tiles * SIDE, tiles * SIDE), 50)
    assert found.verdict is Verdict.PASS
    assert np.median(found.peaks) < 2 * bundle.manifest.max_batch * SIDE * SIDE * 4  # bytes: half of it no maps
    assert found.left_behind < FRAMES // 4
