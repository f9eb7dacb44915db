"""A frame on its way to a PASS takes no new array, and leaves nothing behind."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from runtime.backends import open_backend
from runtime.bundle import Bundle
from runtime.decision import Settings
from runtime.inspector import Inspector
from runtime.result import Frame, Verdict

WARM, FRAMES = 200, 100  # after some hundred the free lists of Python and of the bindings are full


@pytest.fixture(params=["onnxruntime", "openvino"])
def inspector(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Inspector]:
    backend = open_backend(bundle, request.param, threads=1)
    yield Inspector(bundle, backend, Settings(1e9, 1e9))
    backend.close()


@pytest.mark.parametrize("size", [(512, 640), (160, 160), (64, 96)])  # halved first, made smaller, fits already
def test_no_array_is_made_for_a_frame(inspector: Inspector, size: tuple[int, int]) -> None:
    spec = inspector.bundle.manifest.input
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    frame = Frame("test", "0", 0.0, picture)
    peaks, held = np.zeros(FRAMES), np.zeros(FRAMES)
    tracemalloc.start()
    try:
        for _ in range(WARM):
            inspector.inspect(frame)
        for k in range(FRAMES):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            verdict = inspector.inspect(frame).verdict
            peaks[k] = tracemalloc.get_traced_memory()[1] - before
            held[k] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert verdict is Verdict.PASS
    assert np.median(peaks) < spec.height * spec.width * 3 / 2  # bytes: less than the smallest array on the way
    # Numbers that Python keeps for reuse may still fill up at first; what a frame leaves behind would go on to the end.
    assert np.median(held[-20:]) - np.median(held[FRAMES // 2 :][:20]) < FRAMES // 2  # bytes: not one a frame
