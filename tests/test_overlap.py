"""A device that works beside the host: the next batch is prepared meanwhile, and every frame keeps its own answer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from station_files import wait_for
from tensorrt_fakes import HEIGHT, LARGEST, ORIN, WIDTH, FakeMemory, FakeTensorRt, make_bundle, maps_of, scores_of

from dskd.runtime.inspection import inspector
from dskd.runtime.inspection.backends import Backend, Candidate
from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.result import Dropped, Frame, Inspection
from dskd.runtime.station import supervised_backend
from dskd.runtime.station.batching import InspectionThread
from dskd.runtime.station.supervised_backend import FAILURES

LAX, STRICT = Settings(9, 9), Settings(0, 0)  # no map is asked for; every map is
Picture = NDArray[np.uint8]


class Feed:
    """A camera with different pictures ready."""

    timed = False

    def __init__(self, name: str, frames: int, settings: Settings, seed: int = 0) -> None:
        self.name, self.settings, self.seed = name, settings, seed
        self.pictures: list[Picture] = []
        self.frames: deque[Frame] = deque()
        self.order, self.results = list[str](), list[Inspection | Dropped]()
        self.add(frames)

    def add(self, frames: int) -> None:
        for _ in range(frames):
            random = np.random.default_rng([self.seed, len(self.pictures)])
            picture = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            self.frames.append(Frame(self.name, str(len(self.pictures)), time.time(), picture))
            self.pictures.append(picture)

    def next_frame(self) -> tuple[Frame, Settings] | None:
        return (self.frames.popleft(), self.settings) if self.frames else None

    def take_result(self, frame: Frame, result: Inspection | Dropped) -> None:
        self.order.append(frame.id)
        self.results.append(result)

    @property
    def inspected(self) -> list[Inspection]:
        return [result for result in self.results if isinstance(result, Inspection)]

    def check(self) -> None:
        """Each result is that of its own picture, in the order of the pictures."""
        assert self.order == [str(k) for k in range(len(self.results))]
        for number, result in zip(self.order, self.results, strict=True):
            if isinstance(result, Dropped):
                continue
            assert result.frame == number
            picture = self.pictures[int(result.frame)][None]
            assert result.score == scores_of(picture)[0]
            assert result.anomaly_map is not None
            np.testing.assert_array_equal(result.anomaly_map, maps_of(picture)[0])
            if self.settings is STRICT:
                assert result.regions[0].peak == maps_of(picture).max()


class Line:
    """An inspection thread with a TensorRT backend on fakes."""

    def __init__(self, folder: Path) -> None:
        self.memory, self.backends = FakeMemory(ORIN), list[TensorRtBackend]()
        self.trt, self.plan, self.bundle = FakeTensorRt(self.memory), folder / "candidate.plan", make_bundle(folder)
        self.plan.write_bytes(b"plan")
        self.thread = self.made(keep_maps=True)

    def made(self, keep_maps: bool) -> InspectionThread:
        return InspectionThread(self.bundle, lambda: [Candidate("tensorrt", self.open)], 0.0, keep_maps)

    def open(self) -> Backend:
        self.memory = self.trt.memory = FakeMemory(ORIN)
        self.backends.append(TensorRtBackend(self.bundle, "fp16", self.plan, self.memory, self.trt))
        return self.backends[-1]

    def run(self, *feeds: Feed) -> None:
        for feed in feeds:
            self.thread.attach(feed)
        self.thread.start()
        wait_for(lambda: all(len(feed.results) == len(feed.pictures) for feed in feeds))

    def working(self) -> bool:
        """Whether the device has something to do."""
        return bool(self.memory.streams[1000].queue)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    made = Line(tmp_path)
    monkeypatch.setattr(
        supervised_backend, "golden_check", lambda bundle, backend: None
    )  # the fake bundle has no golden frames
    monkeypatch.setattr(
        supervised_backend, "load_bundle", lambda path, later: made.bundle
    )  # nor a manifest on the disk
    monkeypatch.setattr(TensorRtBackend, "warm_up", lambda backend: None)  # calls of the device are counted here
    yield made
    made.thread.stop()


def failing(line: Line, monkeypatch: pytest.MonkeyPatch, step: str, calls: range) -> None:
    """Has the device fail in those calls of ``submit`` or of ``collect``."""
    real, count = getattr(TensorRtBackend, step), iter(range(10_000))

    def call(backend: TensorRtBackend, given: Any) -> Any:
        if next(count) in calls:
            line.memory.fail = "wait"
            line.trt.fail = "execute"
        try:
            return real(backend, given)
        finally:
            line.memory.fail, line.trt.fail = None, ""

    monkeypatch.setattr(TensorRtBackend, step, call)


def test_the_next_batch_is_prepared_while_the_device_works(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    real, meanwhile = inspector.preprocess, list[bool]()

    def preprocess(*arguments: Any, **more: Any) -> Picture:
        meanwhile.append(line.working())
        return real(*arguments, **more)

    monkeypatch.setattr(inspector, "preprocess", preprocess)
    feed = Feed("top", 3 * LARGEST, LAX)
    line.run(feed)
    assert meanwhile == [False] * LARGEST + [True] * 2 * LARGEST
    feed.check()


def test_a_frame_alone_does_not_wait_for_the_next_one(line: Line) -> None:
    feed = Feed("top", 1, LAX)
    line.run(feed)
    assert len(feed.inspected) == 1
    assert not line.working()


def test_every_frame_of_every_camera_gets_its_own_score_and_map(line: Line) -> None:
    feeds = [Feed("top", 40, STRICT, 1), Feed("side", 40, LAX, 2), Feed("below", 7, STRICT, 3)]
    line.run(*feeds)
    for feed in feeds:
        assert len(feed.inspected) == len(feed.pictures)
        feed.check()


def test_maps_leave_the_device_only_for_frames_that_need_them(line: Line) -> None:
    line.thread = line.made(keep_maps=False)
    feed = Feed("top", 5 * LARGEST, LAX)
    line.run(feed)
    assert line.memory.counts["to_host"] == 0  # scores are not copied where memory is shared
    feed.settings = STRICT
    feed.add(2 * LARGEST)
    line.thread.wake()
    wait_for(lambda: len(feed.results) == 7 * LARGEST)
    assert line.memory.counts["to_host"] == 2


@pytest.mark.parametrize("step", ["submit", "collect"])
def test_a_batch_that_fails_costs_its_own_frames_and_no_others(
    line: Line, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    failing(line, monkeypatch, step, range(2, 3))
    feed = Feed("top", 6 * LARGEST, STRICT)
    line.run(feed)
    lost = [k for k, result in enumerate(feed.results) if isinstance(result, Dropped)]
    assert lost == list(range(2 * LARGEST, 3 * LARGEST))
    feed.check()
    assert len(line.backends) == 1
    assert line.thread.backend.fault == ""


@pytest.mark.parametrize("step", ["submit", "collect"])
def test_after_some_failures_it_is_opened_anew_with_nothing_on_its_way(
    line: Line, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real, left = TensorRtBackend.close, list[bool]()

    def close(backend: TensorRtBackend) -> None:
        left.append(any(slot.pending for slot in backend._slots))
        real(backend)

    monkeypatch.setattr(TensorRtBackend, "close", close)
    failing(line, monkeypatch, step, range(2, 2 + FAILURES))
    feed = Feed("top", 8 * LARGEST, STRICT)
    line.run(feed)
    assert len(feed.inspected) == (8 - FAILURES) * LARGEST
    assert left == [False]
    assert len(line.backends) == 2


def test_what_was_taken_is_judged_before_it_stops(line: Line) -> None:
    feed = Feed("top", 50 * LARGEST, STRICT)
    line.thread.attach(feed)
    line.thread.start()
    wait_for(lambda: bool(feed.results))
    line.thread.stop()
    assert len(feed.results) + len(feed.frames) == len(feed.pictures)
    feed.check()
