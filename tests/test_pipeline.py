"""Frames on their way from a source to the sinks."""

from __future__ import annotations

import threading
from collections.abc import Generator

import numpy as np
import pytest

from runtime.errors import DskdError
from runtime.pipeline import Result, read_ahead, write_behind
from runtime.result import Dropped, Frame

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


def test_one_result_is_stored_while_the_next_is_made_and_told_after_it() -> None:
    made, stored, storing = list[int](), list[str](), threading.Event()

    def results() -> Generator[Result, None, None]:
        for number in range(4):
            if number:
                assert storing.wait(10)  # the one before is being stored now: it did not wait for this one
                storing.clear()
            made.append(number)
            yield dropped(number)

    def store(result: Result) -> Result:
        assert isinstance(result, Dropped)
        storing.set()
        stored.append(result.id)
        return result

    for number, told in enumerate(write_behind(results(), store)):
        assert isinstance(told, Dropped)
        assert told.id == str(number)
        assert stored[number] == told.id
    assert (made, stored) == ([0, 1, 2, 3], ["0", "1", "2", "3"])


@pytest.mark.parametrize("failure", [DskdError("the folder is gone"), KeyboardInterrupt()])
def test_what_was_stored_is_told_before_the_failure_of_the_next(failure: BaseException) -> None:
    def results() -> Generator[Result, None, None]:
        yield dropped(0)
        raise failure

    behind = write_behind(results(), lambda result: result)
    assert next(behind) == dropped(0)
    with pytest.raises(type(failure)):
        next(behind)


def test_nothing_is_told_that_could_not_be_stored() -> None:
    before, made = threading.active_count(), list[int]()

    def results() -> Generator[Result, None, None]:
        for number in range(100):
            made.append(number)
            yield dropped(number)

    def store(result: Result) -> Result:
        raise DskdError("the disk is full")

    with pytest.raises(DskdError, match="the disk is full"):
        next(write_behind(results(), store))
    assert len(made) <= 2
    assert threading.active_count() == before
