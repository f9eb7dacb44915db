"""Capture threads that come back quickly from a failure, and what tests ask of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dskd.runtime.backoff import Backoff
from dskd.runtime.capture.camera_thread import Capture, CaptureSettings, CaptureStatus
from dskd.runtime.capture.sources import Source
from dskd.runtime.result import Dropped, Frame


@contextmanager
def running(make: Callable[[], Source], **options: Any) -> Iterator[Capture]:
    others = {name: options.pop(name) for name in ("health", "listener") if name in options}
    capture = Capture("cam", make, CaptureSettings(**options), backoff=Backoff(0.05, 0.2), **others)
    capture.start()
    try:
        yield capture
    finally:
        assert capture.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> float:
    """Seconds until ``condition`` held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "never came"
        time.sleep(0.01)
    return time.monotonic() - began


def wait_until_still(value: Callable[[], int], seconds: float = 0.5) -> None:
    """Until ``value`` has not changed for so long: what was on its way has come."""
    began, last = time.monotonic(), value()
    while time.monotonic() - began < seconds:
        time.sleep(0.01)
        if (now := value()) != last:
            began, last = time.monotonic(), now


def balanced(status: CaptureStatus) -> bool:
    counts = status.counts
    return counts.captured == counts.handed_out + counts.dropped + counts.waiting and counts.dropped == sum(
        counts.drops.values()
    )


def drain(capture: Capture) -> list[Frame | Dropped]:
    return list(iter(lambda: capture.take(0.0), None))


def next_frame(capture: Capture, timeout: float = 5.0) -> Frame:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        taken = capture.take(0.1)
        if isinstance(taken, Frame):
            return taken
    raise AssertionError("no frame")
