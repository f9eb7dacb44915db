"""One inspection thread per bundle and backend: takes frames from its cameras in turn and judges them in batches.

The thread opens the backend itself, because a GPU's context belongs to the thread that made it. Where the device works
beside the host, the next batch is prepared and given to it before the last one's answer is waited for, if there is one.
A backend that fails costs its frames a verdict, never gives them one; after some failures in a row it is closed and
opened again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from math import inf

from dskd.runtime.backoff import Backoff
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.errors import DeviceLost, DskdError, one_line
from dskd.runtime.inspection.backends import Backend, Candidate, first_that
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.golden import golden_check
from dskd.runtime.inspection.inspector import BackendFailed, Batch, Inspector
from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Frame, Inspection
from dskd.runtime.station.batch_assembly import BatchAssembly, Feed, Job
from dskd.runtime.status import Health, Status

FAILURES = 3  # in a row, after which a backend is opened anew: one may be a hiccup, three are a state
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts to open a backend
TICK = 0.5  # seconds after which an idle thread shows that it lives
REJUDGE_TIMEOUT = 30.0  # seconds
OPEN_TIMEOUT = 300.0  # seconds: an engine may have to be read from a slow disk
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _UnderWay:
    """Jobs that were taken, and their batch or why it was not begun; None where no backend is open."""

    jobs: list[Job]
    taken: float  # seconds since the epoch
    inspector: Inspector | None = None
    batch: Batch | Exception | None = None


class InspectionThread:
    """Runs one bundle on one backend for all cameras attached."""

    def __init__(
        self, bundle: Bundle, tried: Callable[[], list[Candidate]], latency_budget: float, keep_maps: bool
    ) -> None:
        self.bundle, self._tried, self._keep_maps = bundle, tried, keep_maps
        self._work = threading.Condition()
        self._next = BatchAssembly(bundle.manifest.max_batch, latency_budget)
        self._begun = self._ended = 0  # batches
        self._stopping = False
        self._inspector: Inspector | None = None
        self._failures, self._retry_at = 0, 0.0
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self.opened: Future[Backend] = Future()
        self.backend = ""  # name of the one in use, or of the last one
        self._status: Status[Health] = Status(f"bundle {bundle.id}", "ok", "the backend works", log)
        self._closed_by: NotInspected | None = None  # why no backend is open
        self.lost: DeviceLost | None = None  # the process cannot use the device any more
        self._lost_backend: Inspector | None = None
        self._closed_at: float | None = None  # when the backend was given up, in time.monotonic's seconds
        self.beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"inspect-{bundle.manifest.name}", daemon=True)

    def start(self) -> Backend:
        """Opens the backend and proves it on the golden frames. Raises DskdError."""
        self._thread.start()
        try:
            return self.opened.result(OPEN_TIMEOUT)
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
        return self.alive and self._inspector is not None

    @property
    def idle(self) -> float:
        """Seconds since it lost its backend; 0 while it has one."""
        at = self._closed_at
        return 0.0 if at is None else time.monotonic() - at

    @property
    def fault(self) -> str:
        """Why frames get no verdict now, empty where they do."""
        now = self._status.now
        return "" if now.state == "ok" else now.detail

    @property
    def model(self) -> tuple[str, str]:
        """Bundle id and graph, which never change; waits for the backend. Raises DskdError where none opened."""
        return self.bundle.id, self.opened.result().graph

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
            self._work.notify_all()  # what was gathered may wait for this camera alone
            begun = self._begun + bool(self._next.jobs)  # other cameras may never leave a gap between batches
            self._work.wait_for(lambda: self._ended >= begun or not self.alive, REJUDGE_TIMEOUT)

    def wake(self) -> None:
        """Says that a camera has a frame."""
        with self._work:
            self._work.notify_all()

    def judge(self, frame: Frame, settings: Settings) -> Inspection:
        """Judges one frame between two batches. Raises DskdError."""
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
        """Judges what was taken, then releases the backend."""
        with self._work:
            self._stopping = True
            self._work.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._inspector = self._open_inspector()
        except BaseException as error:
            self.opened.set_exception(error if isinstance(error, DskdError) else DskdError(f"backend: {error}"))
            return
        self.opened.set_result(self._inspector.backend)
        self._work_on(deque())
        self._close_backend()
        for _, _, answer in self._next.questions:
            answer.set_exception(DskdError("the station stops"))

    def _work_on(self, under_way: deque[_UnderWay]) -> None:
        """Until the station stops. Two batches are under way where the backend overlaps and works, else one."""
        while True:
            most = 2 if self._inspector is not None and self._inspector.overlaps and not self._failures else 1
            batch = self._next_batch(wait=not under_way) if len(under_way) < most else []
            if batch:
                under_way.append(self._begin(batch))
            elif under_way:
                self._finish(under_way.popleft())
            elif batch is None:
                return
            else:
                self._reopen()

    def _open_inspector(self) -> Inspector:
        backend, _ = first_that(self._prove, self._tried(), again=self.opened.done())
        self.backend, self._closed_at = backend.name, None
        graph = self.bundle.manifest.graphs[backend.graph]
        return Inspector(self.bundle, backend, Settings.of(graph.thresholds), self._keep_maps)

    def _prove(self, backend: Backend) -> None:
        """The golden check; and what is opened later is the first bundle and graph, whose thresholds are in use."""
        golden_check(self.bundle, backend)
        if not self.opened.done():
            return
        present, first = load_bundle(self.bundle.path, later=True).id, self.opened.result().graph
        if present != self.bundle.id:
            raise DskdError(
                f"{self.bundle.path}: holds {present} now, and the thresholds in use are those of {self.bundle.id}; "
                "start the station again to go on with it"
            )
        if backend.graph != first:
            raise DskdError(
                f"{backend.name} runs {backend.graph}, and the thresholds in use are those of {first}; "
                "start the station again to go on with it"
            )

    def _next_batch(self, wait: bool) -> list[Job] | None:
        """Frames of the cameras in turn, as many as fit and come within the budget; None to stop.

        Empty where the backend is to be opened again and, without ``wait``, where no batch is due now.
        """
        with self._work:
            while True:
                self.beat = time.monotonic()
                if batch := self._next.take(at_once=self._stopping):
                    self._begun += 1
                    return batch
                if not wait:
                    return []
                if self._stopping:
                    return None
                if self._inspector is None and time.monotonic() >= self._retry_at:
                    return []
                self._work.wait(min(max(self._next.left, 0.001), TICK))

    def _begin(self, jobs: list[Job]) -> _UnderWay:
        """Prepares a batch and gives it to the backend. What fails here is said when its turn comes."""
        if self._inspector is None:
            self._reopen()
        taken, inspector = time.time(), self._inspector
        if inspector is None:
            return _UnderWay(jobs, taken)
        try:
            return _UnderWay(jobs, taken, inspector, inspector.begin([(job.frame, job.settings) for job in jobs]))
        except Exception as error:
            return _UnderWay(jobs, taken, inspector, error)

    def _finish(self, under_way: _UnderWay) -> None:
        for job, result in zip(under_way.jobs, self._results(under_way), strict=True):
            job.finish(result, under_way.taken)
        with self._work:
            self._ended += 1
            self._work.notify_all()

    def _results(self, under_way: _UnderWay) -> Sequence[Inspection | DskdError]:
        """An inspection or a reason for each frame, whatever the backend does."""
        inspector, batch, many = under_way.inspector, under_way.batch, len(under_way.jobs)
        if inspector is None or batch is None:
            return [self._closed_by or NotInspected(Reason.BACKEND_CLOSED, "it was closed")] * many
        try:
            if isinstance(batch, Exception):
                raise batch
            results = inspector.finish(batch)
        except BackendFailed as error:
            self._failures += 1
            self._closed_by = error
            self._status.enter("fault", str(error))
            if self._failures >= FAILURES:  # more than are ever under way together
                self._close_backend()
                self._retry_at = time.monotonic()
            return [error] * many
        except DeviceLost as error:
            return [self._lose(error)] * many
        except Exception as error:  # a fault of ours must cost these frames, not the station
            log.exception("inspection: unexpected")
            why = NotInspected(Reason.INSPECTION_FAILED, f"{type(error).__name__}: {error}")
            return [why] * many
        self._failures = 0
        self._backoff.reset()
        self._status.enter("ok", "the backend works")
        return results

    def _reopen(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        try:
            self._inspector = self._open_inspector()
        except DeviceLost as error:
            self._lose(error)
        except Exception as error:  # a driver's own types
            self._retry_at = time.monotonic() + self._backoff.delay()
            self._closed_by = NotInspected(Reason.BACKEND_CLOSED, str(error))
            self._status.enter("fault", str(self._closed_by))
        else:
            self._failures = FAILURES - 1  # on probation: the next failure closes it again
            log.warning("bundle %s: backend opened again", self.bundle.id)

    def _lose(self, error: DeviceLost) -> NotInspected:
        """Nothing is tried again, and the backend is kept unclosed: its library may hang with a device that is lost."""
        why = NotInspected(Reason.BACKEND_FAILED, str(error))
        if self.lost is None:
            self.lost, self._lost_backend = error, self._inspector
            self._inspector, self._retry_at, self._closed_at = None, inf, time.monotonic()
        self._closed_by = why
        self._status.enter("fault", str(why))
        return why

    def _close_backend(self) -> None:
        if self._inspector is not None:
            self._closed_at = time.monotonic()
            try:
                self._inspector.backend.close()
            except Exception as error:  # it is to go anyway
                log.warning("backend does not close: %s", one_line(str(error)))
            self._inspector = None
