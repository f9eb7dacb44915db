"""A bundle's backend that may fail: opened and proved, closed after some failures in a row, and opened again.

A backend that fails costs its frames a verdict, never gives them one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import inf

from dskd.runtime.backoff import Backoff
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.errors import DeviceLost, DskdError, one_line
from dskd.runtime.inspection.backends import Backend, Candidate, first_that
from dskd.runtime.inspection.backends.base import Warming
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.engine import built_here
from dskd.runtime.inspection.golden import golden_check
from dskd.runtime.inspection.inspector import BackendFailed, Batch, Inspector
from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Frame, Inspection
from dskd.runtime.status import Health, Status

FAILURES = 3  # in a row, after which a backend is opened anew: one may be a hiccup, three are a state
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts to open a backend
ENGINES = "tensorrt"  # the library that runs them, as its backends' names begin
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """Frames that were given to the backend, or why they were not. ``at`` is seconds since the epoch."""

    frames: Sequence[tuple[Frame, Settings]]
    at: float
    inspector: Inspector | None = None  # None where no backend is open
    batch: Batch | Exception | None = None


class SupervisedBackend:
    """The inspection thread uses it; other threads read its properties, and ``opened``."""

    def __init__(self, bundle: Bundle, tried: Callable[[], list[Candidate]], keep_maps: bool) -> None:
        self.bundle, self._tried, self._keep_maps = bundle, tried, keep_maps
        self.opened: Future[Backend] = Future()
        self.name = ""  # of the backend in use, or of the last one
        self.without_engine = ""  # why the bundle's engine for this machine is not used; empty: it is, or there is none
        self.lost: DeviceLost | None = None  # the process cannot use the device any more
        self._lost_inspector: Inspector | None = None
        self._inspector: Inspector | None = None
        self._failures, self._retry_at = 0, 0.0
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._status: Status[Health] = Status(f"bundle {bundle.id}", "ok", "the backend works", log)
        self._why: NotInspected | None = None  # no backend is open
        self._reopened = False  # and has not judged a frame since
        # when a backend was given up, in time.monotonic's seconds; None once one has judged a frame since
        self._failing_since: float | None = None

    @property
    def ready(self) -> bool:
        """Whether a backend is open that works, as far as is known."""
        return self._inspector is not None

    @property
    def most(self) -> int:
        """Frames of one batch."""
        return self.bundle.manifest.max_batch if self._inspector is None else self._inspector.most

    @property
    def overlaps(self) -> bool:
        """Whether a second batch may be begun before the first is finished; not while it fails."""
        return self._inspector is not None and self._inspector.overlaps and not self._failures

    @property
    def retry_is_due(self) -> bool:
        """Whether a backend is to be opened now."""
        return self._inspector is None and time.monotonic() >= self._retry_at

    @property
    def idle(self) -> float:
        """Seconds since a backend last judged a frame before it was given up; 0 while one is open."""
        at = self._failing_since
        return 0.0 if at is None or self._inspector is not None else time.monotonic() - at

    @property
    def fault(self) -> str:
        """Why frames get no verdict now, empty where they do."""
        now = self._status.now
        return "" if now.state == "ok" else now.detail

    def open(self) -> None:
        """The first time; ``opened`` has the backend, or the error, which is raised too."""
        try:
            self._inspector = self._open_inspector()
        except BaseException as error:
            self.opened.set_exception(error if isinstance(error, DskdError) else DskdError(f"backend: {error}"))
            raise
        self.opened.set_result(self._inspector.backend)

    def begin(self, frames: Sequence[tuple[Frame, Settings]]) -> Begun:
        """Prepares frames and gives them to the backend. What fails here is said when their turn comes."""
        self.reopen_if_due()
        at, inspector = time.time(), self._inspector
        if inspector is None:
            return Begun(frames, at)
        try:
            return Begun(frames, at, inspector, inspector.begin(frames))
        except Exception as error:
            return Begun(frames, at, inspector, error)

    def finish(self, begun: Begun) -> Sequence[Inspection | DskdError]:
        """An inspection, or why there is none, for each frame, whatever the backend does."""
        many = len(begun.frames)
        if begun.inspector is None or begun.batch is None:
            return [self._why or NotInspected(Reason.BACKEND_CLOSED, "it was closed")] * many
        try:
            if isinstance(begun.batch, Exception):
                raise begun.batch
            results = begun.inspector.finish(begun.batch)
        except BackendFailed as error:
            self._failures += 1
            self._complain(error)
            if self._failures >= FAILURES:  # more than are ever under way together
                self.close()
                # one that passes its check and then fails its first frame would be opened again without end
                self._retry_at = time.monotonic() + (self._backoff.delay() if self._reopened else 0.0)
            return [error] * many
        except DeviceLost as error:
            return [self._lose(error)] * many
        except Exception as error:  # a fault of ours must cost these frames, not the station
            log.exception("inspection: unexpected")
            return [NotInspected(Reason.INSPECTION_FAILED, f"{type(error).__name__}: {error}")] * many
        self._failures, self._reopened, self._failing_since = 0, False, None
        self._backoff.reset()
        self._status.enter("ok", "the backend works")
        return results

    def reopen_if_due(self) -> None:
        """Opens a backend where none is open and it is time to try."""
        if not self.retry_is_due:
            return
        try:
            self._inspector = self._open_inspector()
        except DeviceLost as error:
            self._lose(error)
        except Exception as error:  # a driver's own types
            self._retry_at = time.monotonic() + self._backoff.delay()
            self._complain(NotInspected(Reason.BACKEND_CLOSED, str(error)))
        else:
            self._failures, self._reopened = FAILURES - 1, True  # on probation: the next failure closes it again
            log.warning("bundle %s: backend opened again", self.bundle.id)

    def close(self) -> None:
        """Releases the backend, where one is open."""
        if self._inspector is not None:
            self._failing_since = self._failing_since or time.monotonic()
            try:
                self._inspector.backend.close()
            except Exception as error:  # it is to go anyway
                log.warning("backend does not close: %s", one_line(str(error)))
            self._inspector = None

    def _open_inspector(self) -> Inspector:
        refused = list[str]()

        def passed(candidate: Candidate, error: DskdError) -> None:
            if candidate.library == ENGINES and built_here(self.bundle):
                refused.append(one_line(str(error)))

        backend, _ = first_that(self._prove, self._tried(), again=self.opened.done(), passed=passed)
        self.name = backend.name
        self.without_engine = "" if backend.name.startswith(ENGINES) else "; ".join(refused)
        graph = self.bundle.manifest.graphs[backend.graph]
        return Inspector(self.bundle, backend, Settings.of(graph.thresholds), self._keep_maps)

    def _prove(self, backend: Backend) -> None:
        """The golden check; and what is opened later is the first bundle and graph, whose thresholds are in use."""
        golden_check(self.bundle, backend)
        if isinstance(backend, Warming):  # before the station says that it is ready
            backend.warm_up()
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

    def _lose(self, error: DeviceLost) -> NotInspected:
        """Nothing is tried again, and the backend is kept unclosed: its library may hang with a device that is lost."""
        if self.lost is None:
            self.lost, self._lost_inspector = error, self._inspector
            self._inspector, self._retry_at = None, inf
            self._failing_since = self._failing_since or time.monotonic()
        return self._complain(NotInspected(Reason.BACKEND_FAILED, str(error)))

    def _complain(self, why: NotInspected) -> NotInspected:
        self._why = why
        self._status.enter("fault", str(why))
        return why
