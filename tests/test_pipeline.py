"""Frames on their way from a source to the sinks."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
from broker import wait_for

from dskd.runtime.capture.newest_frames import newest_frames
from dskd.runtime.capture.sources import open_source
from dskd.runtime.errors import DskdError
from dskd.runtime.pipeline import (
    LONGEST_TOGETHER,
    MOST_OVERTAKEN,
    MOST_TOGETHER,
    read_ahead,
    write_at_once,
    write_behind,
)
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame, Inspection, Result, Verdict
from dskd.runtime.sinks import Sink

PICTURE = np.zeros((4, 4, 3), np.uint8)


class Counting:
    """Gives ``count`` frames, every third one unreadable, and says which one was asked for last."""

    def __init__(self, count: int, failing: bool = False) -> None:
        self.count, self.failing = count, failing
        self.asked, self.closed, self.threads = 0, False, set[int]()
        self.changed = threading.Condition()

    def frames(self) -> Generator[Frame | Dropped, None, None]:
        try:
            for k in range(self.count):
                with self.changed:
                    self.asked = k + 1
                    self.changed.notify_all()
                self.threads.add(threading.get_ident())
                yield (
                    Dropped("f", str(k), 0.0, Reason.UNUSABLE, "unreadable")
                    if k % 3 == 2
                    else Frame("f", str(k), 0.0, PICTURE)
                )
            if self.failing:
                raise DskdError("the folder is gone")
        finally:
            self.closed = True

    def wait_for(self, asked: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.asked >= asked, 10)


def test_one_frame_is_read_while_another_is_inspected_and_no_more() -> None:
    source = Counting(5)
    for k, found in enumerate(read_ahead(source.frames())):
        assert (found.id, isinstance(found, Dropped)) == (str(k), k % 3 == 2)
        assert k == 4 or source.wait_for(k + 2)
        assert source.asked <= k + 2
    assert k == 4
    assert source.closed
    assert threading.get_ident() not in source.threads


def test_a_failure_comes_after_the_frames_before_it() -> None:
    source = Counting(2, failing=True)
    ahead = read_ahead(source.frames())
    assert [next(ahead).id, next(ahead).id] == ["0", "1"]
    with pytest.raises(DskdError, match="the folder is gone"):
        next(ahead)
    assert source.closed


def test_who_stops_early_closes_the_source_and_leaves_no_thread() -> None:
    before = threading.active_count()
    source = Counting(10**6)
    ahead = read_ahead(source.frames())
    next(ahead)
    ahead.close()
    assert source.closed
    assert source.asked <= 2
    assert threading.active_count() == before


# ---------------------------------------------------------------------------------------------------- stored behind


def dropped(number: int) -> Dropped:
    return Dropped("f", str(number), 0.0, Reason.UNUSABLE, "unreadable")


def name_of(result: Result) -> str:
    return result.id if isinstance(result, Dropped) else result[0].id


class Noting(Sink):
    """A sink that notes the ids of each write."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.writes, self.writing = list[list[str]](), threading.Event()

    def write(self, results: Sequence[Result]) -> None:
        self.writing.set()
        if self.failure is not None:
            raise self.failure
        self.writes.append([name_of(result) for result in results])

    def close(self) -> None:
        """Nothing is held."""


def slowly(count: int, made: list[int], sink: Noting) -> Generator[Result, None, None]:
    """Each takes too long to be stored together with another, and waits until the one before is being stored."""
    for number in range(count):
        if number:
            assert sink.writing.wait(10)
            sink.writing.clear()
        time.sleep(LONGEST_TOGETHER)
        made.append(number)
        yield dropped(number)


def test_one_result_is_stored_while_the_next_is_made_and_told_after_it() -> None:
    made, sink = list[int](), Noting()
    for number, told in enumerate(write_behind(slowly(4, made, sink), [sink])):
        assert isinstance(told, Dropped)
        assert told.id == str(number)
        assert sink.writes[number] == [told.id]
    assert (made, sink.writes) == ([0, 1, 2, 3], [["0"], ["1"], ["2"], ["3"]])


def test_results_that_are_made_fast_are_stored_together_but_not_many() -> None:
    sink, told = Noting(), list[str]()
    for result in write_behind(map(dropped, range(1000)), [sink]):
        assert isinstance(result, Dropped)
        told.append(result.id)
        assert any(result.id in write for write in sink.writes)
    assert told == [name for write in sink.writes for name in write] == list(map(str, range(1000)))
    assert max(map(len, sink.writes)) == MOST_TOGETHER


def test_the_source_is_told_once_the_sinks_have_it() -> None:
    sink, told = Noting(), list[str]()

    def told_after(number: int) -> Dropped:
        def stored() -> None:
            assert any(str(number) in write for write in sink.writes)
            told.append(str(number))

        return replace(dropped(number), stored=stored)

    assert len(list(write_behind(map(told_after, range(10)), [sink]))) == 10
    assert told == list(map(str, range(10)))


@pytest.mark.parametrize("failure", [DskdError("the folder is gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("count", [1, MOST_TOGETHER, MOST_TOGETHER + 1])
def test_what_was_made_is_stored_and_told_before_the_failure_of_the_next(failure: BaseException, count: int) -> None:
    def results() -> Generator[Result, None, None]:
        yield from map(dropped, range(count))
        raise failure

    sink = Noting()
    behind = write_behind(results(), [sink])
    assert [next(behind) for _ in range(count)] == list(map(dropped, range(count)))
    assert [name for write in sink.writes for name in write] == list(map(str, range(count)))
    with pytest.raises(type(failure)):
        next(behind)


@contextmanager
def stopped_by(number: int) -> Iterator[threading.Event]:
    """As Ctrl-C is, without the terminal's own signal, which test runners keep for themselves. Says when it came."""
    came = threading.Event()

    def stop(*_: object) -> None:
        again = came.is_set()
        came.set()
        if not again:
            raise KeyboardInterrupt

    before = signal.signal(number, stop)
    try:
        yield came
    finally:
        signal.signal(number, before)


def interrupt_main(came: threading.Event) -> None:
    """Sends the signal until it is heard: one that comes just before the main thread begins to wait does not wake it."""
    end = time.monotonic() + 30
    while not came.wait(0.05):
        assert time.monotonic() < end
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def test_who_stops_while_the_store_takes_its_time_is_told_all_that_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dskd.runtime.pipeline.LONGEST_TOGETHER", 60.0)

    class Slow(Noting):
        def write(self, results: Sequence[Result]) -> None:
            if len(self.writes) == 2:
                wait_for(lambda: len(made) == 4 * MOST_TOGETHER)  # the next ones are made meanwhile and wait
                interrupt_main(came)
            super().write(results)

    made, told, sink = list[str](), list[str](), Slow()

    def results() -> Generator[Result, None, None]:
        for number in range(1000):
            made.append(str(number))
            yield dropped(number)

    with stopped_by(signal.SIGUSR1) as came, pytest.raises(KeyboardInterrupt):
        told.extend(map(name_of, write_behind(results(), [sink])))
    assert told == made == [name for write in sink.writes for name in write]
    assert len(made) == 4 * MOST_TOGETHER


def test_who_stops_between_results_leaves_none_that_was_made_out_of_the_store() -> None:
    made, sink = list[str](), Noting()

    def results() -> Generator[Result, None, None]:
        for number in range(1000):
            made.append(str(number))
            yield dropped(number)

    behind = write_behind(results(), [sink])
    next(behind)
    behind.close()
    assert made == [name for write in sink.writes for name in write]


def test_who_stops_twice_while_a_frame_is_read_does_not_hear_of_generators() -> None:
    reading, going_on = threading.Event(), threading.Event()

    def captured() -> Generator[Frame | Dropped, None, None]:
        reading.set()
        going_on.wait(10)
        yield dropped(0)

    def stop_twice() -> None:
        assert reading.wait(10)
        for _ in range(2):
            came.clear()
            interrupt_main(came)
        going_on.set()

    stopper = threading.Thread(target=stop_twice)
    with stopped_by(signal.SIGUSR1) as came:
        stopper.start()
        with pytest.raises(KeyboardInterrupt):
            next(read_ahead(captured()))
        stopper.join()
    while "read ahead_0" in [thread.name for thread in threading.enumerate()]:
        time.sleep(0.01)  # Python 3.11 joins no thread whose joining was interrupted before


def test_nothing_is_told_that_could_not_be_stored() -> None:
    before, made, sink = threading.active_count(), list[int](), Noting(DskdError("the disk is full"))
    with pytest.raises(DskdError, match="the disk is full"):
        next(write_behind(slowly(100, made, sink), [sink]))
    assert len(made) <= 2
    assert threading.active_count() == before


# ---------------------------------------------------------------------------------------------------- stored at once


def overtaken(number: int) -> Dropped:
    return Dropped("f", str(number), 0.0, Reason.REPLACED)


def test_frames_that_were_overtaken_are_stored_with_the_one_that_overtook_them() -> None:
    results: list[Result] = [dropped(0), overtaken(1), overtaken(2), dropped(3), dropped(4)]
    sink, told = Noting(), list[str]()
    for result in write_at_once(iter(results), [sink]):
        assert isinstance(result, Dropped)
        told.append(result.id)
        assert sink.writes[-1][-1] == {"0": "0", "1": "3", "2": "3", "3": "3", "4": "4"}[result.id]
    assert sink.writes == [["0"], ["1", "2", "3"], ["4"]]
    assert told == ["0", "1", "2", "3", "4"]


def test_a_camera_that_is_overtaken_for_long_still_tells() -> None:
    sink = Noting()
    next(write_at_once(map(overtaken, range(10**6)), [sink]))
    assert list(map(len, sink.writes)) == [MOST_OVERTAKEN]


@pytest.mark.parametrize("failure", [DskdError("the camera was lost"), KeyboardInterrupt()])
def test_what_was_overtaken_before_the_failure_is_stored_and_told(failure: BaseException) -> None:
    def results() -> Generator[Result, None, None]:
        yield from map(overtaken, range(3))
        raise failure

    sink = Noting()
    at_once = write_at_once(results(), [sink])
    assert [next(at_once) for _ in range(3)] == list(map(overtaken, range(3)))
    assert sink.writes == [["0", "1", "2"]]
    with pytest.raises(type(failure)):
        next(at_once)


def test_a_slow_disk_does_not_let_every_frame_be_overtaken() -> None:
    class Slow(Noting):
        def write(self, results: Sequence[Result]) -> None:
            time.sleep(0.05)  # five frames come meanwhile
            super().write(results)

    frames = newest_frames(open_source("test://pattern?size=32x32&fps=100"))
    kinds = Counter[bool]()
    with closing(frames):
        for result in write_at_once(map(as_result, frames), [Slow()]):
            kinds[isinstance(result, Dropped)] += 1
            if kinds[False] == 5 or kinds[True] == 400:
                break
    assert kinds[False] == 5


def as_result(captured: Frame | Dropped) -> Result:
    if isinstance(captured, Dropped):
        return captured
    score = Inspection("f", captured.id, captured.captured, Verdict.PASS, 0.0, 1.0, (), {}, "b", "c")
    return captured, score
