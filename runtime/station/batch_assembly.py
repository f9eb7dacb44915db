"""What an inspection thread takes next: frames of its cameras in turn, until they are a batch."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.reason import NotInspected
from dskd.runtime.result import Dropped, Frame, Inspection


class Feed(Protocol):
    """A camera as its inspection thread sees it."""

    name: str
    timed: bool  # its parts have deadlines: a batch takes one of them, for all of a batch wait for its last frame

    def next_frame(self) -> tuple[Frame, Settings] | None:
        """The next frame and how to judge it, None where there is none now."""
        ...

    def take_result(self, frame: Frame, result: Inspection | Dropped) -> None:
        """Takes what became of a frame."""
        ...


@dataclass(frozen=True)
class Job:
    """A frame to inspect for a camera, or for somebody who waits for the answer."""

    frame: Frame
    settings: Settings
    feed: Feed | None = None
    answer: Future[Inspection] | None = None

    def finish(self, result: Inspection | DskdError, taken: float) -> None:
        """Hands the result on. ``taken`` (seconds since the epoch) is when the frame left its camera's queue."""
        if self.answer is not None:
            self.answer.set_exception(result) if isinstance(result, DskdError) else self.answer.set_result(result)
        if self.feed is None:
            return
        if isinstance(result, DskdError):
            why = NotInspected.of(result)
            self.feed.take_result(self.frame, self.frame.dropped(why.reason, why.detail))
        else:
            waiting = round(1000 * max(taken - self.frame.captured, 0.0), 3)
            self.feed.take_result(self.frame, replace(result, timings_ms={"queue": waiting, **result.timings_ms}))


class BatchAssembly:
    """At most ``most`` frames, which wait for company until the oldest is ``budget`` seconds old.

    It holds no lock: all of its calls are one thread's, or made under a lock of the owner's.
    """

    def __init__(self, most: int, budget: float) -> None:
        self.feeds: deque[Feed] = deque()
        self.questions: deque[tuple[Frame, Settings, Future[Inspection]]] = deque()
        self.jobs: list[Job] = []
        self._most, self._budget, self._due = most, budget, float("inf")

    @property
    def left(self) -> float:
        """Seconds until the frames taken so far wait no longer; infinite where there are none."""
        return self._due - time.monotonic()

    def take(self, at_once: bool) -> list[Job]:
        """A batch, none where it may still grow in time; ``at_once`` takes what is there."""
        self._fill()
        complete = len(self.jobs) >= min(self._most, len(self.feeds))
        if not (self.jobs and (complete or at_once or self.left <= 0)):
            return []
        batch, self.jobs, self._due = self.jobs, [], float("inf")
        return batch

    def _fill(self) -> None:
        """Questions first, then one frame of each camera a round; the next batch begins with the next camera."""
        while self.questions and len(self.jobs) < self._most:
            frame, settings, answer = self.questions.popleft()
            self.jobs.append(Job(frame, settings, answer=answer))
        empty = 0  # cameras in a row that had none
        while len(self.jobs) < self._most and empty < len(self.feeds):
            feed = self.feeds[0]
            self.feeds.rotate(-1)
            served = feed.timed and any(job.feed is feed for job in self.jobs)
            taken = None if served else feed.next_frame()
            empty = 0 if taken is not None else empty + 1
            if taken is not None:
                self.jobs.append(Job(*taken, feed=feed))
        if self.jobs:  # by the monotonic clock: the wall clock may be set while a frame waits for company
            age = max(time.time() - job.frame.captured for job in self.jobs)
            self._due = min(self._due, time.monotonic() + self._budget - min(max(age, 0.0), self._budget))
