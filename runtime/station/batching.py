"""One inspection thread per bundle and backend: takes frames from its cameras in turn and inspects them in batches.

The thread opens the backend itself, because a GPU's context belongs to the thread that made it. Where the device works
beside the host, the next batch is prepared and given to it before the last one's answer is waited for, if there is one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import Protocol

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends import Backend, Candidate
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.reason import NotInspected
from dskd.runtime.result import Dropped, Frame, Inspection
from dskd.runtime.station.supervised_backend import Begun, SupervisedBackend

TICK = 0.5  # seconds after which an idle thread shows that it lives
REJUDGE_TIMEOUT = 30.0  # seconds
OPEN_TIMEOUT = 300.0  # seconds: an engine may have to be read from a slow disk


class Feed(Protocol):
    """A camera as its inspection thread sees it."""

    name: str
    timed: bool  # its parts have deadlines: a batch takes one of them, for all of a batch wait for its last frame

    def next_frame(self) -> tuple[Frame, Settings] | None:
        """The next frame and by which settings to inspect it, None where there is none now."""
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
        self.most, self._budget, self._due = most, budget, float("inf")

    @property
    def left(self) -> float:
        """Seconds until the frames taken so far wait no longer; infinite where there are none."""
        return self._due - time.monotonic()

    def take(self, at_once: bool) -> list[Job]:
        """A batch, none where it may still grow in time; ``at_once`` takes what is there."""
        self._fill()
        complete = len(self.jobs) >= min(self.most, len(self.feeds))
        if not (self.jobs and (complete or at_once or self.left <= 0)):
            return []
        batch, self.jobs, self._due = self.jobs, [], float("inf")
        return batch

    def _fill(self) -> None:
        """Questions first, then one frame of each camera a round; the next batch begins with the next camera."""
        while self.questions and len(self.jobs) < self.most:
            frame, settings, answer = self.questions.popleft()
            self.jobs.append(Job(frame, settings, answer=answer))
        empty = 0  # cameras in a row that had none
        while len(self.jobs) < self.most and empty < len(self.feeds):
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


class InspectionThread:
    """Runs one bundle on one backend for all cameras attached."""

    def __init__(
        self, bundle: Bundle, tried: Callable[[], list[Candidate]], latency_budget: float, keep_maps: bool
    ) -> None:
        self.bundle, self.backend = bundle, SupervisedBackend(bundle, tried, keep_maps)
        self._work = threading.Condition()
        self._next = BatchAssembly(bundle.manifest.max_batch, latency_budget)
        self._begun = self._ended = 0  # batches
        self._stopping = False
        self.beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"inspect-{bundle.manifest.name}", daemon=True)

    def start(self) -> Backend:
        """Opens the backend and proves it on the golden frames. Raises DskdError."""
        self._thread.start()
        try:
            return self.backend.opened.result(OPEN_TIMEOUT)
        except FutureTimeout as error:
            with self._work:
                self._stopping = True  # what opens after all is released again
            raise DskdError(f"the backend did not open in {OPEN_TIMEOUT:.0f} seconds; look at the device") from error

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether it has a backend that works, as far as is known."""
        return self.alive and self.backend.ready

    @property
    def model(self) -> tuple[str, str]:
        """Bundle id and graph, which never change; waits for the backend. Raises DskdError where none opened."""
        return self.bundle.id, self.backend.opened.result().graph

    @property
    def cameras(self) -> int:
        """How many cameras it works for."""
        return len(self._next.feeds)

    def attach(self, feed: Feed) -> None:
        """Works for a camera too."""
        with self._work:
            self._next.feeds.append(feed)
            self._work.notify_all()

    def detach(self, feed: Feed) -> None:
        """Works no more for a camera; returns when none of its frames is under way here."""
        with self._work:
            if feed in self._next.feeds:
                self._next.feeds.remove(feed)
            self._work.notify_all()  # a batch may wait for this camera alone
            begun = self._begun + bool(self._next.jobs)  # other cameras may never leave a gap between batches
            self._work.wait_for(lambda: self._ended >= begun or not self.alive, REJUDGE_TIMEOUT)

    def wake(self) -> None:
        """Says that a camera has a frame."""
        with self._work:
            self._work.notify_all()

    def inspect(self, frame: Frame, settings: Settings) -> Inspection:
        """Inspects one frame between two batches. Raises DskdError."""
        answer: Future[Inspection] = Future()
        with self._work:
            if self._stopping or not self.alive:
                raise DskdError("the inspection thread stops; start the station again")
            self._next.questions.append((frame, settings, answer))
            self._work.notify_all()
        try:
            return answer.result(REJUDGE_TIMEOUT)
        except FutureTimeout as error:
            raise DskdError(f"no answer in {REJUDGE_TIMEOUT:.0f} seconds; the backend is overloaded") from error

    def stop(self) -> None:
        """Inspects what was taken, then releases the backend."""
        with self._work:
            self._stopping = True
            self._work.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self.backend.open()
            self._next.most = self.backend.most
        except BaseException:  # ``start`` raises it
            return
        self._work_on(deque())
        self.backend.close()
        for _, _, answer in self._next.questions:
            answer.set_exception(DskdError("the station stops"))

    def _work_on(self, under_way: deque[tuple[list[Job], Begun]]) -> None:
        """Until the station stops. Two batches are under way where the backend overlaps and works, else one."""
        while True:
            jobs = self._next_jobs(wait=not under_way) if len(under_way) <= self.backend.overlaps else []
            if jobs:
                under_way.append((jobs, self.backend.begin([(job.frame, job.settings) for job in jobs])))
            elif under_way:
                jobs, begun = under_way.popleft()
                for job, result in zip(jobs, self.backend.finish(begun), strict=True):
                    job.finish(result, begun.at)
                self._batch_ended()
            elif jobs is None:
                return
            else:
                self.backend.reopen_if_due()

    def _next_jobs(self, wait: bool) -> list[Job] | None:
        """Frames of the cameras in turn, as many as fit and come within the budget; None to stop.

        Empty where the backend is to be opened again and, without ``wait``, where no batch is due now.
        """
        with self._work:
            while True:
                self.beat = time.monotonic()
                if jobs := self._next.take(at_once=self._stopping):
                    self._begun += 1
                    return jobs
                if not wait:
                    return []
                if self._stopping:
                    return None
                if self.backend.retry_is_due:
                    return []
                self._work.wait(min(max(self._next.left, 0.001), TICK))

    def _batch_ended(self) -> None:
        with self._work:
            self._ended += 1
            self._work.notify_all()
