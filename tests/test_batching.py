"""One inspection thread: fair to its cameras, each by its own settings, and a backend that may fail."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from station_files import wait_for
from tiny_bundle import tiny_bundle

from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle, load_bundle, write_manifest
from dskd.runtime.errors import DeviceLost, DskdError
from dskd.runtime.inspection.backends import Backend, Candidate, Output, open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.result import Dropped, Frame, Image, Inspection, Verdict
from dskd.runtime.station import batching
from dskd.runtime.station.batching import InspectionThread
from dskd.runtime.station.supervised_backend import FAILURES


class Feed:
    """A camera with frames ready."""

    timed = False

    def __init__(self, name: str, settings: Settings, order: list[str] | None = None) -> None:
        self.name, self.settings = name, settings
        self.order = [] if order is None else order
        self.frames: deque[Frame] = deque()
        self.results: list[Inspection | Dropped] = []

    def add(self, number: int) -> None:
        for _ in range(number):
            picture = np.random.default_rng(0).integers(90, 160, (40, 40, 3), dtype=np.uint8)
            self.frames.append(Frame(self.name, str(len(self.results) + len(self.frames)), time.time(), picture))

    def next_frame(self) -> tuple[Frame, Settings] | None:
        return (self.frames.popleft(), self.settings) if self.frames else None

    def take_result(self, frame: Frame, result: Inspection | Dropped) -> None:
        self.results.append(result)
        self.order.append(self.name)


class Flaky:
    """A real backend with a switch."""

    def __init__(self, bundle: Bundle) -> None:
        self.real: Backend = open_backend(bundle, threads=1)
        self.name, self.graph = self.real.name, self.real.graph
        self.broken: Exception | None = None
        self.batches: list[int] = []
        self.closed = False

    def infer(self, batch: Image) -> Output:
        if self.broken is not None:
            raise self.broken
        self.batches.append(len(batch))
        return self.real.infer(batch)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


class Bench:
    def __init__(self, bundle: Bundle, budget: float = 0.0) -> None:
        self.bundle, self.opened = bundle, list[Flaky]()
        self.cannot_open: Exception | None = None
        self.graph: str | None = None  # of what is opened from now on; None: as it is
        self.thread = InspectionThread(bundle, lambda: [Candidate("bench", self.open)], budget, keep_maps=False)

    def open(self) -> Backend:
        if self.cannot_open is not None:
            raise self.cannot_open
        flaky = Flaky(self.bundle)
        flaky.graph = self.graph or flaky.graph
        self.opened.append(flaky)
        return flaky


@pytest.fixture
def bench(small: Bundle) -> Iterator[Bench]:
    made = Bench(small)
    yield made
    made.thread.stop()


def test_cameras_take_turns_and_each_has_its_own_thresholds(bench: Bench) -> None:
    order: list[str] = []
    lax, strict = Feed("lax", Settings(9, 9), order), Feed("strict", Settings(0, 0), order)
    lax.add(200)
    strict.add(8)
    bench.thread.attach(lax)
    bench.thread.attach(strict)
    bench.thread.start()
    wait_for(lambda: len(lax.results) == 200)
    assert order[:16].count("strict") == 8  # turns, though the other one has a queue
    assert Counter(r.verdict for r in lax.results if isinstance(r, Inspection)) == {Verdict.PASS: 200}
    assert Counter(r.verdict for r in strict.results if isinstance(r, Inspection)) == {Verdict.REJECT: 8}
    assert max(bench.opened[0].batches) == bench.bundle.manifest.max_batch
    assert [r.frame for r in lax.results if isinstance(r, Inspection)] == [str(k) for k in range(200)]


def test_more_cameras_than_a_batch_takes_are_served_alike(bench: Bench) -> None:
    order: list[str] = []
    feeds = [Feed(str(k), Settings(9, 9), order) for k in range(2 * bench.bundle.manifest.max_batch + 1)]
    for feed in feeds:
        feed.add(20)
        bench.thread.attach(feed)
    bench.thread.start()
    wait_for(lambda: len(order) == 20 * len(feeds))
    for start in range(0, len(order), len(feeds)):
        assert len(set(order[start : start + len(feeds)])) == len(feeds)  # each once, before any has its next turn


def test_a_batch_is_judged_like_its_frames_alone(bench: Bench) -> None:
    feed = Feed("top", Settings(0.1, 0.2))
    bench.thread.attach(feed)
    bench.thread.start()
    feed.add(1)
    bench.thread.wake()
    wait_for(lambda: len(feed.results) == 1)
    feed.add(7)
    bench.thread.wake()
    wait_for(lambda: len(feed.results) == 8)
    assert len({(r.score, r.verdict, r.regions) for r in feed.results if isinstance(r, Inspection)}) == 1


def test_a_batch_takes_one_part_of_a_camera_whose_parts_have_deadlines(bench: Bench) -> None:
    timed = Feed("timed", Settings(9, 9))
    timed.timed = True
    timed.add(3)
    bench.thread.attach(timed)
    bench.thread.start()
    wait_for(lambda: len(timed.results) == 3)
    assert bench.opened[0].batches[-3:] == [1, 1, 1]


def test_batches_are_no_larger_than_the_engine_takes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flaky, "largest", 1, raising=False)
    feed = Feed("top", Settings(9, 9))
    feed.add(5)
    bench.thread.attach(feed)
    bench.thread.start()
    wait_for(lambda: len(feed.results) == 5)
    assert set(bench.opened[0].batches) == {1}
    assert all(isinstance(result, Inspection) for result in feed.results)


def test_a_backend_is_warm_before_it_is_said_to_be_open(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[bool]()
    warm_up = lambda self: opened.append(bench.thread.backend.opened.done())  # noqa: E731
    monkeypatch.setattr(Flaky, "warm_up", warm_up, raising=False)
    bench.thread.start()
    assert opened == [False]


def lose_backend(bench: Bench, feed: Feed) -> None:
    """It fails until it is closed, a frame at a time."""
    bench.opened[0].broken = RuntimeError("device lost")
    for _ in range(FAILURES + 1):
        feed.add(1)
        bench.thread.wake()
        known = len(feed.results)
        wait_for(lambda seen=known: len(feed.results) > seen)  # type: ignore[misc]


def test_a_backend_with_another_graph_does_not_take_over_thresholds(tmp_path: Path) -> None:
    """Its scores differ: the same threshold would reject another share of good parts."""
    folder = tmp_path / "tiny"
    manifest = tiny_bundle(folder).manifest
    graphs = {**manifest.graphs, "model.onnx@bf16": manifest.graphs["model.onnx"]}
    write_manifest(folder, manifest.model_copy(update={"graphs": graphs}))
    bench, feed = Bench(load_bundle(folder)), Feed("top", Settings(9, 9))
    bench.thread.attach(feed)
    bench.thread.start()
    bench.graph = "model.onnx@bf16"
    try:
        lose_backend(bench, feed)
        wait_for(lambda: len(bench.opened) > 1)
        wait_for(lambda: "runs model.onnx@bf16, and the thresholds in use are those of" in bench.thread.backend.fault)
        assert bench.opened[1].closed
        bench.graph = None
        wait_for(lambda: bench.thread.ready)
    finally:
        bench.thread.stop()


def test_a_bundle_that_was_exchanged_on_the_disk_does_not_take_over_thresholds(tmp_path: Path) -> None:
    bench, feed = Bench(tiny_bundle(tmp_path / "tiny")), Feed("top", Settings(9, 9))
    tiny_bundle(tmp_path / "new", shift=0.3)
    bench.thread.attach(feed)
    bench.thread.start()
    with atomic.replacing_directory(tmp_path / "tiny") as folder:
        shutil.copytree(tmp_path / "new", folder, dirs_exist_ok=True)
    try:
        lose_backend(bench, feed)
        wait_for(lambda: "holds tiny-" in bench.thread.backend.fault)
        assert "start the station again" in bench.thread.backend.fault
        assert all(isinstance(result, Dropped) for result in feed.results)
    finally:
        bench.thread.stop()


def test_frames_of_a_failing_backend_are_dropped_and_it_is_opened_again(bench: Bench) -> None:
    feed = Feed("top", Settings(9, 9))
    bench.thread.attach(feed)
    bench.thread.start()
    bench.opened[0].broken = RuntimeError("CUDA error: device lost")
    for number in range(FAILURES):
        feed.add(1)
        bench.thread.wake()
        wait_for(lambda number=number: len(feed.results) == number + 1)  # type: ignore[misc]
    assert all(isinstance(r, Dropped) and "CUDA error: device lost" in r.detail for r in feed.results)
    wait_for(lambda: len(bench.opened) == 2)
    assert bench.opened[0].closed
    feed.add(1)
    bench.thread.wake()
    wait_for(lambda: len(feed.results) == FAILURES + 1)
    assert isinstance(feed.results[-1], Inspection)
    assert not bench.thread.backend.fault


def test_a_backend_that_passes_its_check_and_fails_each_frame_is_opened_less_and_less_often(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("dskd.runtime.station.supervised_backend.time.monotonic", lambda: now[0])
    backend = bench.thread.backend
    backend.open()
    feed = Feed("top", Settings(9, 9))
    feed.add(1)
    frames = [(feed.frames[0], feed.settings)]
    moments: list[float] = []
    while len(moments) < 6:
        if not backend.ready:
            moments.append(now[0])
            assert backend.idle == now[0] - 1000.0, "nothing was judged since"
            while not backend.retry_is_due:
                now[0] += 0.05
            backend.reopen_if_due()
        bench.opened[-1].broken = RuntimeError("CUDA error")
        backend.finish(backend.begin(frames))
        assert backend.fault
        now[0] += 0.01 if len(bench.opened) > 1 else 0.0
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses[0] < 0.1, "the first time it is opened again at once"
    assert all(later > earlier for earlier, later in pairwise(pauses))
    assert pauses[-1] > 2.0
    bench.opened[-1].broken = None
    while not backend.retry_is_due:
        now[0] += 0.05
    backend.finish(backend.begin(frames))
    assert not backend.fault
    assert backend.idle == 0


def test_a_lost_device_is_not_tried_again_and_its_frames_have_no_verdict(bench: Bench) -> None:
    """Every further call of this process would fail alike; and closing may hang."""
    feed = Feed("top", Settings(9, 9))
    bench.thread.attach(feed)
    bench.thread.start()
    bench.opened[0].broken = lost = DeviceLost("the GPU failed (cuStreamSynchronize: CUDA_ERROR_LAUNCH_FAILED)")
    assert bench.thread.backend.idle == 0
    for number in range(3):
        feed.add(1)
        bench.thread.wake()
        wait_for(lambda number=number: len(feed.results) == number + 1)  # type: ignore[misc]
    assert all(isinstance(r, Dropped) and "LAUNCH_FAILED" in r.detail for r in feed.results)
    assert (bench.thread.backend.lost, bench.thread.alive, bench.thread.ready) == (lost, True, False)
    assert bench.thread.backend.idle > 0
    assert len(bench.opened) == 1
    bench.thread.stop()
    assert not bench.opened[0].closed


def test_a_device_that_is_lost_when_it_is_opened_again_gives_no_way_to_another_backend(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    feed = Feed("top", Settings(9, 9))
    tried = [Candidate("bench", bench.open), Candidate("other", bench.open)]
    bench.thread = InspectionThread(bench.bundle, lambda: tried, 0.0, keep_maps=False)
    bench.thread.attach(feed)
    bench.thread.start()
    bench.cannot_open = DeviceLost("the GPU failed")
    bench.opened[0].broken = RuntimeError("no memory")
    feed.add(FAILURES * bench.bundle.manifest.max_batch)
    bench.thread.wake()
    wait_for(lambda: bench.thread.backend.lost is not None)
    assert len(bench.opened) == 1
    assert "passed over" not in capsys.readouterr().err


def test_a_backend_that_cannot_be_opened_is_tried_again_with_pauses(bench: Bench) -> None:
    feed = Feed("top", Settings(9, 9))
    bench.thread.attach(feed)
    bench.thread.start()
    bench.cannot_open = DskdError("no GPU")
    bench.opened[0].broken = RuntimeError("gone")
    feed.add(FAILURES * bench.bundle.manifest.max_batch)
    bench.thread.wake()
    wait_for(lambda: not bench.thread.ready)
    feed.add(1)
    bench.thread.wake()
    wait_for(lambda: not feed.frames)
    assert "no GPU" in bench.thread.backend.fault
    bench.cannot_open = None
    wait_for(lambda: bench.thread.ready)
    feed.add(1)
    bench.thread.wake()
    wait_for(lambda: isinstance(feed.results[-1], Inspection))


def test_a_backend_whose_answers_are_wrong_is_refused_at_the_start(tmp_path: Path) -> None:
    bench = Bench(tiny_bundle(tmp_path / "tiny", golden_error=1.0))
    with pytest.raises(DskdError, match="golden frames"):
        bench.thread.start()
    bench.thread.stop()


def test_a_backend_that_hangs_while_it_opens_is_said_and_let_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    opens = bench.open

    def hangs() -> Backend:
        go_on.wait(20)
        return opens()

    monkeypatch.setattr(bench, "open", hangs)
    bench.thread = InspectionThread(bench.bundle, lambda: [Candidate("bench", bench.open)], 0.0, keep_maps=False)
    monkeypatch.setattr(batching, "OPEN_TIMEOUT", 0.2)
    with pytest.raises(DskdError, match="did not open in"):
        bench.thread.start()
    go_on.set()
    wait_for(lambda: not bench.thread.alive or not bench.thread._thread.is_alive())
    assert bench.opened[-1].closed


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_clock_that_is_set_holds_no_frame_up(small: Bundle, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """A frame waits for company as long as the budget allows, whatever the wall clock says of when it was captured."""
    bench = Bench(small, budget=0.3)
    top, side = Feed("top", Settings(9, 9)), Feed("side", Settings(9, 9))
    for feed in (top, side):
        bench.thread.attach(feed)
    bench.thread.start()
    top.add(1)
    top.frames[0] = replace(top.frames[0], captured=time.time() - step)  # the clock was set after it was captured
    start = time.monotonic()
    wait_for(lambda: len(top.results) == 1)
    assert time.monotonic() - start < 5.0
    bench.thread.stop()


def test_a_blank_frame_costs_only_itself(bench: Bench) -> None:
    feed = Feed("top", Settings(9, 9))
    feed.add(3)
    feed.frames[1] = Frame("top", "1", time.time(), np.full((40, 40, 3), 77, np.uint8))
    bench.thread.attach(feed)
    bench.thread.start()
    wait_for(lambda: len(feed.results) == 3)
    kinds = [type(result) for result in feed.results]
    assert kinds == [Inspection, Dropped, Inspection]


def test_somebody_else_may_ask_between_two_batches(bench: Bench) -> None:
    bench.thread.start()
    picture = np.random.default_rng(0).integers(90, 160, (40, 40, 3), dtype=np.uint8)
    found = bench.thread.inspect(Frame("x", "x", time.time(), picture), Settings(0, 0))
    assert found.verdict is Verdict.REJECT
    with pytest.raises(DskdError, match="blank"):
        bench.thread.inspect(Frame("x", "x", time.time(), picture * 0), Settings(0, 0))
    bench.thread.stop()
    with pytest.raises(DskdError, match="stops"):
        bench.thread.inspect(Frame("x", "x", time.time(), picture), Settings(0, 0))


def test_detached_means_no_frame_is_under_way(bench: Bench) -> None:
    feed = Feed("top", Settings(9, 9))
    bench.thread.attach(feed)
    bench.thread.start()
    feed.add(50)
    bench.thread.wake()
    bench.thread.detach(feed)
    judged = len(feed.results)
    time.sleep(0.1)
    assert len(feed.results) == judged
    assert judged + len(feed.frames) == 50


def test_a_frame_that_waits_for_company_is_under_way_too(small: Bundle) -> None:
    bench = Bench(small, budget=5.0)
    feeds = [Feed(name, Settings(9, 9)) for name in ("top", "side")]
    for feed in feeds:
        bench.thread.attach(feed)
    bench.thread.start()
    feeds[0].add(1)
    bench.thread.wake()
    wait_for(lambda: not feeds[0].frames)
    bench.thread.detach(feeds[0])
    assert len(feeds[0].results) == 1
    bench.thread.stop()


def test_a_camera_is_detached_though_the_other_never_leaves_a_gap(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dskd.runtime.station.batching.REJUDGE_TIMEOUT", 2.0)

    class Endless(Feed):
        def next_frame(self) -> tuple[Frame, Settings] | None:
            self.add(1)
            return super().next_frame()

    feeds = [Endless(name, Settings(9, 9)) for name in ("left", "right")]
    bench.thread.attach(feeds[1])
    bench.thread.start()
    backend = bench.opened[0]
    quick = backend.real.infer
    backend.real.infer = lambda batch: time.sleep(0.005) or quick(batch)  # type: ignore[method-assign,func-returns-value]
    wait_for(lambda: bool(feeds[1].results))
    waited = []
    for _ in range(20):
        bench.thread.attach(feeds[0])
        begun = len(backend.batches)
        bench.thread.detach(feeds[0])
        waited.append(len(backend.batches) - begun)
    bench.thread.detach(feeds[1])
    assert max(waited) <= 400  # of 5 ms: the one under way, and what a thread of a busy machine needs to wake up
