"""Parts of one camera from trigger to answer: each is answered exactly once, in the order of the triggers.

A part that has no verdict at its deadline gets the fail-safe one. What is inspected after that is stored and marked, but
the line has its answer already.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

from dskd.runtime.errors import CallError, DskdError, one_line
from dskd.runtime.reason import Reason
from dskd.runtime.result import Announced, Answer, Dropped, Entry, Frame, Inspection, Verdict

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
    captured: bool = False  # its frame
    answer: Answer | None = None  # decided, waiting for the parts before it


class TrackedCamera(Protocol):
    """What a tracker needs of its camera."""

    name: str

    @property
    def fail_safe(self) -> Verdict:
        """The verdict of a part that could not be inspected."""
        ...

    def not_ready_reason(self) -> str:
        """Why no part can be inspected now (camera lost, store full), empty where one can."""
        ...

    def request_frame(self, part: str) -> None:
        """Asks for a part's frame, in the order of the triggers. Raises DskdError where it cannot come."""
        ...


class Records(Protocol):
    """Takes what is to be stored and then handed to the outputs, in order; the recorder."""

    def put(self, record: Entry, frame: Frame | None = None, due: float = 0.0) -> None:
        """Takes a record, the frame of an inspection, and when an answer is due (monotonic clock). Never waits."""
        ...


class PartTracker:
    """Takes triggers, frames and inspections of one camera from any thread. ``deadline`` is seconds from the trigger.

    At most ``queue`` parts are under way.
    """

    def __init__(self, camera: TrackedCamera, records: Records, *, deadline: float, queue: int) -> None:
        self._camera, self._records, self._deadline, self._queue = camera, records, deadline, queue
        self._parts: deque[_Part] = deque()
        self._change = threading.Condition()
        self._numbered, self._closed = 0, False
        self.missed = 0
        self._timer = threading.Thread(target=self._watch_deadlines, name=f"parts-{camera.name}", daemon=True)
        self._timer.start()

    @property
    def ready(self) -> bool:
        """Whether the next trigger would be taken."""
        return not self._closed and len(self._parts) < self._queue and not self._camera.not_ready_reason()

    @property
    def busy(self) -> int:
        """Parts that were announced and not answered yet."""
        return len(self._parts)

    def trigger(self, part: str | None = None, triggered: float | None = None) -> str:
        """Announces a part; returns its id. Raises NotReady, counted as a missed trigger, or CallError for a bad id."""
        now = time.time() if triggered is None else triggered
        if part is not None and (not part or len(part) > LONGEST_PART or not part.isprintable()):
            raise CallError(f"part id {one_line(part)[:80]!r}: must be 1 to {LONGEST_PART} printable characters")
        not_ready = self._camera.not_ready_reason()
        with self._change:
            reason = "the station stops" if self._closed else not_ready
            if not reason and len(self._parts) >= self._queue:
                reason = f"{len(self._parts)} parts are under way"
            if not reason and any(waiting.id == part for waiting in self._parts):
                reason = f"part {part} is under way already"
            self._numbered += 1
            name = part or f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{self._numbered:06d}"
            if not reason:
                try:
                    self._camera.request_frame(name)
                except DskdError as error:
                    reason = str(error)
            if reason:
                self.missed += 1
                raise NotReady(f"camera {self._camera.name}: not ready, the trigger is missed: {reason}")
            self._records.put(Announced(self._camera.name, name, now))
            late = max(time.time() - now, 0.0)  # an edge is taken from its queue a moment after it came
            self._parts.append(_Part(name, now, time.monotonic() + self._deadline - late))
            self._change.notify_all()
            return name

    def expects(self, frame: Frame) -> bool:
        """Whether a part's frame is still worth inspecting: its deadline has not answered for it.

        The frame was captured, so a deadline that is missed now is not the camera's fault.
        """
        with self._change:
            part = self._find(frame.part, frame.captured)
            if part is not None:
                part.captured = True
            return part is not None and part.answer is None

    def inspected(self, frame: Frame, inspection: Inspection) -> None:
        """Takes a part's verdict. The inspection is stored before the line is answered, marked where it comes too late."""
        with self._change:
            part = self._find(inspection.part, inspection.captured)
            past = None if part is None else time.monotonic() - part.due
            if part is None or part.answer is not None or (past is not None and past > 0):
                late = max(time.time() - inspection.captured - self._deadline, 0.0) if past is None else max(past, 0.0)
                timings = {**inspection.timings_ms, LATE: round(1000 * late, 3)}
                self._records.put(replace(inspection, timings_ms=timings), frame)
                if part is not None and part.answer is None:  # the timer has not come to it yet
                    self._decide(part, self._camera.fail_safe, Reason.NO_VERDICT)
                return
            self._records.put(inspection, frame)
            self._decide(part, inspection.verdict, Reason.INSPECTED, inspection)

    def dropped(self, dropped: Dropped) -> None:
        """Takes the news that a frame will not be inspected: its part gets the fail-safe verdict."""
        self._records.put(dropped)
        with self._change:
            part = self._find(dropped.part, dropped.captured)
            if part is not None and part.answer is None:
                self._decide(part, self._camera.fail_safe, dropped.reason, detail=one_line(dropped.detail))

    def close(self) -> None:
        """Answers what is under way with the fail-safe verdict and takes no more."""
        with self._change:
            self._closed = True
            for part in self._parts:
                if part.answer is None:
                    self._set(part, self._camera.fail_safe, Reason.STATION_STOPPED)
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
        part.answer = Answer(
            self._camera.name, part.id, verdict, reason, part.triggered, now, inspection, moment, detail
        )

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
                self._set(part, self._camera.fail_safe, Reason.NO_VERDICT)
            assert part.answer is not None
            self._records.put(replace(part.answer, answered=time.time()), due=part.due)
            self._parts.popleft()

    def _watch_deadlines(self) -> None:
        with self._change:
            while not self._closed:
                due = next((part.due for part in self._parts if part.answer is None), None)
                left = None if due is None else due - time.monotonic()
                if left is not None and left <= 0:
                    part = next(part for part in self._parts if part.answer is None)
                    self._decide(part, self._camera.fail_safe, Reason.NO_VERDICT if part.captured else Reason.NO_FRAME)
                else:
                    self._change.wait(left)
