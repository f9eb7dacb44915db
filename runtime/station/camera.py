"""One camera of a station: frames in, inspections to the recorder, answers for its parts."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dskd.runtime.capture.camera_thread import PATIENCE, Capture, CaptureSettings, CaptureStatus
from dskd.runtime.capture.frame_health import FrameHealth, HealthLimits
from dskd.runtime.capture.frame_queue import Policy
from dskd.runtime.capture.picture_quality import PictureQuality
from dskd.runtime.capture.sources import Source
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame, Inspection, Verdict
from dskd.runtime.station.batching import InspectionThread
from dskd.runtime.station.config import Camera, FreeTrigger
from dskd.runtime.station.control import CameraStatus, Live, PartStatus, PlcState
from dskd.runtime.station.free_running import FreeRunning
from dskd.runtime.station.part_tracker import NotReady, PartTracker
from dskd.runtime.station.recipe import Recipe, Serving
from dskd.runtime.station.recorder import Recorder
from dskd.runtime.status import Health

ACKNOWLEDGE = 1.0  # seconds that the acknowledgement of a trigger waits for the store
LATENCIES = 4096  # of the last inspections
LATENCY_SECONDS = 300.0
LAST = 100  # verdicts by which a camera counts as slow
NO_DEADLINE = 5000.0  # milliseconds; without a deadline a verdict is late that the page shows as past when it comes
CAMERA_ERROR, BACKEND_ERROR, STORE_ERROR = 1, 2, 3  # as in the Modbus register map
QUEUE = 16  # frames that wait where none may be replaced


class StationCamera:
    """Capture, parts and recipe of one camera. ``closing``: no more triggers."""

    def __init__(
        self,
        name: str,
        config: Camera,
        make_source: Callable[[], Source],
        recorder: Recorder,
        serving: Serving,
        size: tuple[int, int] | None = None,
    ) -> None:
        """``size``: what the camera's pictures had before."""
        self.name, self.config = name, config
        self._serving = self._served = serving
        self.closing = False
        self.live: Live | None = None
        self.quality = PictureQuality()
        self._recorder = recorder
        self._counts = threading.Lock()
        self._verdicts: Counter[str] = Counter()
        self._dropped = 0
        self._latencies: deque[tuple[float, float]] = deque(maxlen=LATENCIES)
        self._announced: deque[Frame] = deque()
        trigger = config.trigger
        self.timed = not isinstance(trigger, FreeTrigger)
        policy: Policy = config.policy or ("every" if self.timed else "latest")
        settings = CaptureSettings(
            policy=policy,
            depth=QUEUE if isinstance(trigger, FreeTrigger) else max(QUEUE, trigger.queue),
            triggered=trigger.kind in ("software", "gpio"),
            patience=None if trigger.kind == "line" else PATIENCE,
        )
        self.health = FrameHealth(HealthLimits(**config.health.model_dump()), size)
        self.capture = Capture(name, make_source, settings, health=self.health, listener=self)
        self.parts: PartTracker | FreeRunning
        if isinstance(trigger, FreeTrigger):
            self.parts = FreeRunning(self, recorder, trigger, live=policy == "latest")
        else:
            self.parts = PartTracker(self, recorder, deadline=trigger.deadline_ms / 1000, queue=trigger.queue)

    @property
    def serving(self) -> Serving:
        """Recipe and inspection thread; whoever needs both takes this once."""
        return self._serving

    def serve(self, serving: Serving) -> None:
        """From the next frame on by this one. Frames that another thread inspects must be through with it."""
        if serving.recipe.model != self._serving.recipe.model:
            self._served = self._serving
        self._serving = serving

    @property
    def recipe(self) -> Recipe:
        """The recipe in use."""
        return self._serving.recipe

    @property
    def inspects(self) -> InspectionThread:
        """The thread that inspects."""
        return self._serving.thread

    def recipe_of(self, inspection: Inspection) -> Recipe:
        """The recipe that an inspection was made with: the one in use, or the one before while its last are stored."""
        now, before = self._serving.recipe, self._served.recipe
        return before if inspection.bundle == before.bundle.id != now.bundle.id else now

    @property
    def fail_safe(self) -> Verdict:
        """The verdict of a part that could not be inspected."""
        return self.recipe.fail_safe

    def not_ready_reason(self) -> str:
        """Why no part can be inspected now, empty where one can."""
        return self._not_ready()[1]

    def _not_ready(self) -> tuple[int, str]:
        """The same with the error code that a PLC gets."""
        if self.closing:
            return CAMERA_ERROR, "the station stops"
        state = self.capture.status()
        if state.state != "running":
            return CAMERA_ERROR, f"camera {state.state}: {state.detail}"
        if not self.inspects.ready:
            return BACKEND_ERROR, self.inspects.backend.fault or "the backend is not open"
        return (STORE_ERROR, "the store takes no records") if self._recorder.full else (0, "")

    def plc_state(self) -> PlcState:
        """What a PLC reads of this camera."""
        parts = self.parts
        ready = self.timed and parts.ready
        return PlcState(ready, parts.busy, self._not_ready()[0], self.recipe.job, parts.missed)

    def request_frame(self, part: str) -> None:
        """Asks the camera for the frame of a part, unless the camera's own input line started it."""
        if self.capture.settings.triggered:
            self.capture.trigger(part)

    def trigger(self, part: str | None = None) -> str:
        """Announces a part for somebody who wants to hear that; returns its id once a kill leaves a trace of it.

        Raises as ``announce`` does. Where the store refuses or hangs, which its health says, the part goes on all the
        same.
        """
        name = self.announce(part)
        self._recorder.await_stored(ACKNOWLEDGE)
        return name

    def announce(self, part: str | None = None, triggered: float | None = None) -> str:
        """Announces a part; returns its id. Raises CallError where nothing triggers this camera, NotReady."""
        if self.config.trigger.kind == "line":
            raise CallError(f"camera {self.name}: takes no trigger; set its trigger in the station file")
        return self.parts.trigger(part, triggered)

    def next_frame(self) -> tuple[Frame, Settings] | None:
        """For the inspection thread: the next frame and by which settings to inspect it."""
        while True:
            if self.config.trigger.kind == "line":
                captured: Frame | Dropped | None = self._announced.popleft() if self._announced else None
            else:
                captured = self.capture.take()
            if captured is None:
                return None
            if isinstance(captured, Dropped):
                self.parts.dropped(captured)
            elif self._recorder.full:
                detail = "it takes no records, and nothing inspected may be lost; check the disk"
                self.take_result(captured, captured.dropped(Reason.STORE_FULL, detail))
            elif self.parts.expects(captured):
                return captured, self.recipe.settings
            else:
                late = "the part was answered at its deadline"  # else every part behind it would come late too
                self.take_result(captured, captured.dropped(Reason.LATE, late))

    def take_result(self, frame: Frame, result: Inspection | Dropped) -> None:
        """Takes what became of a frame: to the store first, then to the line."""
        if isinstance(result, Dropped):
            with self._counts:
                self._dropped += 1
            self.parts.dropped(result)
            return
        self._recorder.await_room()
        now = time.time()
        with self._counts:
            self._verdicts[result.verdict.value] += 1
            self._latencies.append((now, 1000 * (now - result.captured)))
        self.parts.inspected(frame, result)

    def show(self, frame: Frame, inspection: Inspection) -> None:
        """Makes a frame the newest inspected one."""
        self.live = Live(frame.image, inspection, inspection.covers)
        self.quality.look(frame.image, frame.captured)

    def status(self) -> CameraStatus:
        """The present state and counts."""
        with self._counts:
            verdicts, dropped, latencies = dict(self._verdicts), self._dropped, list(self._latencies)
        capture = self.capture.status()  # after our own counts, so that nothing is waiting less than none
        counts = capture.counts
        inspected = sum(verdicts.values())
        not_ready, serving = self.not_ready_reason(), self._serving
        recent = [ms for moment, ms in latencies if moment > time.time() - LATENCY_SECONDS] or [0.0]
        health, detail = self._health(capture, not_ready, recent[-LAST:])
        p50, p99 = np.percentile(recent, [50, 99])
        return CameraStatus(
            status=PartStatus(self.name, "camera", health, detail, capture.since),
            recipe=serving.recipe.name,
            bundle=serving.recipe.bundle.id,
            backend=serving.thread.backend.name,
            review=serving.recipe.settings.review,
            reject=serving.recipe.settings.reject,
            ready=self.parts.ready,
            captured=counts.captured,
            inspected=inspected,
            dropped=counts.dropped + dropped,
            waiting=counts.captured - counts.dropped - dropped - inspected,
            missed_triggers=self.parts.missed,
            reconnects=capture.reconnects,
            verdicts={verdict.value: verdicts.get(verdict.value, 0) for verdict in Verdict},
            latency_ms={"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(max(recent), 3)},
        )

    def _health(self, capture: CaptureStatus, not_ready: str, last: Sequence[float]) -> tuple[Health, str]:
        if capture.state != "running":
            return ("fault" if capture.state == "lost" else "warning"), capture.detail
        if not_ready:
            return "fault", not_ready
        if capture.fault:  # of a file alone: the station works, and a watchdog must not restart it
            return "fault" if capture.live else "warning", capture.fault
        slow = [text for text in (self._without_engine(), self._late(last)) if text]
        return ("warning", "; ".join(slow)) if slow else ("ok", capture.detail)

    def _without_engine(self) -> str:
        backend = self.inspects.backend
        return f"engine present, runs on {backend.name}: {backend.without_engine}" if backend.without_engine else ""

    def _late(self, last: Sequence[float]) -> str:
        """Where more than one in a hundred of the ``last`` verdicts (milliseconds) came late, and more than one at all."""
        trigger = self.config.trigger
        deadline = NO_DEADLINE if isinstance(trigger, FreeTrigger) else float(trigger.deadline_ms)
        late = sum(ms > deadline for ms in last)
        if late < 2 or late <= len(last) / 100:
            return ""
        told = "the page calls live" if isinstance(trigger, FreeTrigger) else "the trigger's deadline_ms"
        return (
            f"{late} of the last {len(last)} verdicts came later than {deadline:.0f} ms ({told}), 99 in 100 within "
            f"{np.percentile(last, 99):.0f} ms; use a faster backend or precision, or less work for it"
        )

    def frame_ready(self) -> None:
        """Called by the capture thread. A frame that the camera's own input started announces its part itself."""
        if self.config.trigger.kind == "line":
            while (captured := self.capture.take()) is not None:
                self._announce(captured)
        self.inspects.wake()

    def _announce(self, captured: Frame | Dropped) -> None:
        try:
            part = self.parts.trigger(None, captured.captured)
        except DskdError as error:
            if isinstance(captured, Frame):
                with self._counts:
                    self._dropped += 1
                captured = captured.dropped(Reason.MISSED_TRIGGER, str(error))
            self._recorder.put(captured)
            return
        if isinstance(captured, Dropped):
            self.parts.dropped(replace(captured, part=part))
        else:
            self._announced.append(replace(captured, part=part))


__all__ = ["NotReady", "StationCamera"]
