"""Frames on their way from a source to the sinks."""

from __future__ import annotations

import threading
from collections.abc import Generator

import numpy as np
import pytest

from runtime.errors import DskdError
from runtime.pipeline import read_ahead
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
