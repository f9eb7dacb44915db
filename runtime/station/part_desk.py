"""Parts of one camera from trigger to answer: each is answered exactly once, in the order of the triggers.

A part that has no verdict at its deadline gets the fail-safe one. What is inspected after that is kept and marked, but
the line has its answer already and hears of it no more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from dskd.runtime.errors import CallError, DskdError, one_line
from dskd.runtime.reason import Reason
from dskd.runtime.result import Announced, Answer, Dropped, Inspection, Verdict

LONGEST_PART = 64  # characters of a part id: fits a Modbus register block, a file name and a screen
LATE = "late"  # key in an inspection's timings: milliseconds after the answer was given


class NotReady(DskdError):
    """A trigger that cannot be served now: a missed one."""


@dataclass
class _Part:
    """A part under way. ``triggered`` is seconds since the epoch, ``due`` of the monotonic clock."""

    id: str
    triggered: float
    due: float
    seen: bool = False  # its frame was captured
    answer: Answer | None = None  # decided, waiting for the parts before it


class PartDesk:
    """Takes triggers, frames and inspections from any thread.

    ``answer`` is called in order, under the desk's lock, with when the answer is due (monotonic clock). ``fail_safe`` gives the verdict of a part that could not be inspected. ``hindrance`` says why no part can be taken
    now (camera lost, store full), empty where one can. ``ask`` asks the camera for a part's frame, and raises DskdError
    where it cannot; it is called in the order of the triggers. ``announce`` gets each part before any answer to it.
    """

    def __init__(
        self,
        camera: str,
        deadline: float,
        queue: int,
        fail_safe: Callable[[], Verdict],
        answer: Callable[[Answer, float], None],
        hindrance: Callable[[], str],
        ask: Callable[[str], None] = lambda part: None,
        announce: Callable[[Announced], None] = lambda announced: None,
    ) -> None:
        self.camera, self._deadline, self._queue = camera, deadline, queue
        self._fail_safe, self._answer, self._hindrance, self._ask = fail_safe, answer, hindrance, ask
        self._announce = announce
        self._parts: deque[_Part] = deque()
        self._change = threading.Condition()
        self._numbered, self._closed = 0, False
        self.missed = 0
        self._timer = threading.Thread(target=self._watch_deadlines, name=f"desk-{camera}", daemon=True)
        self._timer.start()

    @property
    def ready(self) -> bool:
        """Whether the next trigger would be taken."""
        return not self._closed and len(self._parts) < self._queue and not self._hindrance()

    @property
    def busy(self) -> int:
        """Parts that were announced and not answered yet."""
        return len(self._parts)

    def trigger(self, part: str | None = None, triggered: float | None = None) -> str:
        """Announces a part; returns its id. Raises NotReady, counted as a missed trigger, or CallError for a bad id."""
        now = time.time() if triggered is None else triggered
        if part is not None and (not part or len(part) > LONGEST_PART or not part.isprintable()):
            raise CallError(f"part id {one_line(part)[:80]!r}: must be 1 to {LONGEST_PART} printable characters")
        hindrance = self._hindrance()
        with self._change:
            reason = "the station stops" if self._closed else hindrance
            if not reason and len(self._parts) >= self._queue:
                reason = f"{len(self._parts)} parts are under way"
            if not reason and any(waiting.id == part for waiting in self._parts):
                reason = f"part {part} is under way already"
            self._numbered += 1
            name = part or f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{self._numbered:06d}"
            if not reason:
                try:
                    self._ask(name)
                except DskdError as error:
                    reason = str(error)
            if reason:
                self.missed += 1
                raise NotReady(f"camera {self.camera}: not ready, the trigger is missed: {reason}")
            self._announce(Announced(self.camera, name, now))
            late = max(time.time() - now, 0.0)  # an edge is taken from its queue a moment after it came
            self._parts.append(_Part(name, now, time.monotonic() + self._deadline - late))
            self._change.notify_all()
            return name

    def seen(self, part: str, captured: float) -> None:
        """Says that a part's frame was captured: a missed deadline is not the camera's then."""
        with self._change:
            found = self._find(part, captured)
            if found is not None:
                found.seen = True

    def waits(self, part: str, captured: float) -> bool:
        """Whether a part's frame is still worth judging: its deadline has not answered for it."""
        with self._change:
            found = self._find(part, captured)
            return found is not None and found.answer is None

    def inspected(self, inspection: Inspection, keep: Callable[[Inspection], None]) -> None:
        """Takes a part's verdict. ``keep`` gets the inspection before the line does, marked where it comes too late."""
        with self._change:
            part = self._find(inspection.part, inspection.captured)
            past = None if part is None else time.monotonic() - part.due
            if part is None or part.answer is not None or (past is not None and past > 0):
                late = max(time.time() - inspection.captured - self._deadline, 0.0) if past is None else max(past, 0.0)
                keep(replace(inspection, timings_ms={**inspection.timings_ms, LATE: round(1000 * late, 3)}))
                if part is not None and part.answer is None:  # the timer has not come to it yet
                    self._decide(part, self._fail_safe(), Reason.NO_VERDICT)
                return
            keep(inspection)
            self._decide(part, inspection.verdict, Reason.INSPECTED, inspection)

    def dropped(self, dropped: Dropped) -> None:
        """Takes the news that a part's frame cannot be judged."""
        with self._change:
            part = self._find(dropped.part, dropped.captured)
            if part is not None and part.answer is None:
                self._decide(part, self._fail_safe(), dropped.reason, detail=one_line(dropped.detail))

    def close(self) -> None:
        """Answers what is under way with the fail-safe verdict and takes no more."""
        with self._change:
            self._closed = True
            for part in self._parts:
                if part.answer is None:
                    self._set(part, self._fail_safe(), Reason.STATION_STOPPED)
            self._flush()
            self._change.notify_all()
        self._timer.join()

    def drain(self, timeout: float) -> bool:
        """Waits until nothing is under way."""
        with self._change:
            return self._change.wait_for(lambda: not self._parts, timeout)

    def _find(self, name: str | None, captured: float) -> _Part | None:
        """A part by its id; an older frame is of an earlier part that was called the same."""
        return next((part for part in self._parts if part.id == name and captured >= part.triggered), None)

    def _set(
        self, part: _Part, verdict: Verdict, reason: Reason, inspection: Inspection | None = None, detail: str = ""
    ) -> None:
        moment, now = part.due - self._deadline, time.time()
        part.answer = Answer(self.camera, part.id, verdict, reason, part.triggered, now, inspection, moment, detail)

    def _decide(
        self, part: _Part, verdict: Verdict, reason: Reason, inspection: Inspection | None = None, detail: str = ""
    ) -> None:
        self._set(part, verdict, reason, inspection, detail)
        self._flush()
        self._change.notify_all()

    def _flush(self) -> None:
        """Gives away all answers that no earlier part holds up; one that was held up past its deadline is fail-safe."""
        while self._parts and self._parts[0].answer is not None:
            part = self._parts[0]
            if part.answer is not None and part.answer.inspection is not None and time.monotonic() > part.due:
                self._set(part, self._fail_safe(), Reason.NO_VERDICT)
            assert part.answer is not None
            self._answer(replace(part.answer, answered=time.time()), part.due)
            self._parts.popleft()

    def _watch_deadlines(self) -> None:
        with self._change:
            while not self._closed:
                due = next((part.due for part in self._parts if part.answer is None), None)
                left = None if due is None else due - time.monotonic()
                if left is not None and left <= 0:
                    part = next(part for part in self._parts if part.answer is None)
                    self._decide(part, self._fail_safe(), Reason.NO_VERDICT if part.seen else Reason.NO_FRAME)
                else:
                    self._change.wait(left)
