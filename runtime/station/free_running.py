"""Cameras that nothing triggers: each frame is a part, or the line hears when the verdict of several frames changes."""

from __future__ import annotations

import time
from collections import deque

from dskd.runtime.errors import CallError
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Dropped, Frame, Inspection, Verdict
from dskd.runtime.station.config import FreeTrigger
from dskd.runtime.station.part_tracker import Records, TrackedCamera

_SEVERITY = {Verdict.PASS: 0, Verdict.REVIEW: 1, Verdict.REJECT: 2}


class Debounce:
    """The worst verdict that at least ``need`` of the last ``window`` frames reach; a frame that was not inspected counts too."""

    def __init__(self, need: int, window: int) -> None:
        self._need, self._last = need, deque[Verdict](maxlen=window)
        self.verdict = Verdict.PASS

    def add(self, verdict: Verdict) -> bool:
        """Takes one frame's verdict; whether the debounced verdict changed."""
        self._last.append(verdict)
        before, self.verdict = self.verdict, Verdict.PASS
        for candidate in (Verdict.REVIEW, Verdict.REJECT):
            if sum(_SEVERITY[seen] >= _SEVERITY[candidate] for seen in self._last) >= self._need:
                self.verdict = candidate
        return self.verdict is not before


class FreeRunning:
    """Takes frames and inspections of one camera. ``live``: newer frames take the place of older ones.

    ``answers_wanted`` is set where an output listens to this camera.
    """

    busy = missed = 0  # parts that were announced and not answered; triggers missed

    def __init__(self, camera: TrackedCamera, records: Records, trigger: FreeTrigger, live: bool) -> None:
        self._camera, self._records, self._live = camera, records, live
        self._each = trigger.debounce == 1
        self._debounce = Debounce(trigger.debounce, trigger.window or trigger.debounce)
        self.answers_wanted = False

    @property
    def ready(self) -> bool:
        """Whether the next frame would be inspected."""
        return not self._camera.not_ready_reason()

    def trigger(self, part: str | None = None, triggered: float | None = None) -> str:
        """Raises CallError."""
        raise CallError(f"camera {self._camera.name}: takes no trigger; set its trigger in the station file")

    def expects(self, frame: Frame) -> bool:
        """Every frame is worth inspecting."""
        return True

    def inspected(self, frame: Frame, inspection: Inspection) -> None:
        """The inspection is stored before the line is answered."""
        self._records.put(inspection, frame)
        self._answer(frame.id, frame.captured, inspection.verdict, Reason.INSPECTED, inspection)

    def dropped(self, dropped: Dropped) -> None:
        """The fail-safe verdict; but a frame that a newer one overtook tells nothing that the newer one does not."""
        self._records.put(dropped)
        if not (self._live and dropped.reason is Reason.REPLACED):
            verdict = self._camera.fail_safe
            self._answer(dropped.id, dropped.captured, verdict, dropped.reason, detail=dropped.detail)

    def drain(self, timeout: float) -> bool:
        """Nothing waits for an answer."""
        return True

    def close(self) -> None:
        """Nothing is under way."""

    def _answer(
        self, frame: str, captured: float, verdict: Verdict, reason: Reason, inspection: Inspection | None = None,
        detail: str = "",
    ) -> None:  # fmt: skip
        changed, now = self._debounce.add(verdict), time.time()
        if self.answers_wanted and (changed or self._each):
            moment = time.monotonic() - max(now - captured, 0.0)
            verdict, camera = self._debounce.verdict, self._camera.name
            self._records.put(Answer(camera, frame, verdict, reason, captured, now, inspection, moment, detail))
