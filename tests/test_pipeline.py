"""Frames on their way from a source to the sinks."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import DskdError
from runtime.pipeline import LONGEST_TOGETHER, MOST_TOGETHER, read_ahead, write_behind
from runtime.result import Dropped, Frame, Result

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
                yield Dropped("f", str(k), 0.0, "unreadable") if k % 3 == 2 else Frame("f", str(k), 0.0, PICTURE)
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
    return Dropped("f", str(number), 0.0, "unreadable")


class Noting:
    """A sink that notes the ids of each write."""

    needs_map = False

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.writes, self.writing = list[list[str]](), threading.Event()

    def write(self, results: Sequence[Result]) -> None:
        self.writing.set()
        if self.failure is not None:
            raise self.failure
        self.writes.append([result.id for result in results if isinstance(result, Dropped)])

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


def test_nothing_is_told_that_could_not_be_stored() -> None:
    before, made, sink = threading.active_count(), list[int](), Noting(DskdError("the disk is full"))
    with pytest.raises(DskdError, match="the disk is full"):
        next(write_behind(slowly(100, made, sink), [sink]))
    assert len(made) <= 2
    assert threading.active_count() == before
