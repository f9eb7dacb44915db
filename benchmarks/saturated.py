"""Cameras that always have a frame, at a station's inspection thread: what goes through at most, and whether it is fair."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import cycle

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends import Backend, Candidate
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.result import Dropped, Frame, Inspection
from dskd.runtime.station.batching import InspectionThread

WARM_UP = 0.3  # seconds
PATIENCE = 60.0  # seconds for a first batch


class Camera:
    """One feed. Its frames are in memory: what a real one costs is its own business."""

    timed = False

    def __init__(self, name: str, frames: Sequence[Frame], settings: Settings) -> None:
        self.name, self._frames, self._settings = name, cycle(frames), settings
        self.judgements: list[float] = []  # when each frame was judged
        self.waits: list[float] = []  # seconds from taking a frame to its verdict
        self.fault, self.over = "", False

    def next_frame(self) -> tuple[Frame, Settings] | None:
        """A frame, until it is over."""
        if self.over:
            return None
        return Frame(self.name, "0", time.time(), next(self._frames).image), self._settings

    def take_result(self, frame: Frame, result: Inspection | Dropped) -> None:
        """Counts."""
        if isinstance(result, Dropped):
            self.fault = result.explanation
        self.judgements.append(time.perf_counter())
        self.waits.append(time.time() - frame.captured)


class Saturated:
    """One inspection thread, kept from turn to turn."""

    def __init__(
        self, bundle: Bundle, open_backend: Callable[[], Backend], frames: Sequence[Frame], settings: Settings
    ) -> None:
        self._frames, self._settings = frames, settings
        self._thread = InspectionThread(
            bundle, lambda: [Candidate("benchmark", open_backend)], latency_budget=0.0, keep_maps=False
        )
        self._thread.start()

    def run(self, number: int, seconds: float) -> dict[str, object]:
        """Frames a second and each camera's count, between two verdicts. Raises DskdError where a frame was dropped."""
        cameras = [Camera(f"camera {k}", self._frames, self._settings) for k in range(number)]
        for camera in cameras:
            self._thread.attach(camera)
        _wait_for(lambda: all(camera.judgements for camera in cameras))
        time.sleep(WARM_UP)
        warm = [len(camera.judgements) for camera in cameras]
        time.sleep(seconds)
        _wait_for(lambda: all(len(c.judgements) > n + 1 for c, n in zip(cameras, warm, strict=True)))
        stopped = time.perf_counter()
        for camera in cameras:
            camera.over = True
        for camera in cameras:
            self._thread.detach(camera)
        if fault := next((camera.fault for camera in cameras if camera.fault), ""):
            raise DskdError(f"a frame was dropped: {fault}")
        return counted(cameras, stopped)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.stop()


def counted(cameras: Sequence[Camera], stopped: float) -> dict[str, object]:
    """What was judged between the warm-up and the end: from one verdict to another."""
    every = sorted(moment for camera in cameras for moment in camera.judgements if moment <= stopped)
    begin, end = next((moment for moment in every if moment >= every[0] + WARM_UP), every[-1]), every[-1]
    counts = [sum(begin < moment <= end for moment in camera.judgements) for camera in cameras]
    waits = [1e3 * wait for camera in cameras for wait in camera.waits[len(camera.waits) // 4 :]]
    return {"rate": sum(counts) / (end - begin) if end > begin else 0.0, "counts": counts, "waits": waits}


def _wait_for(what: Callable[[], bool]) -> None:
    end, tick = time.monotonic() + PATIENCE, threading.Event()
    while not what():
        if time.monotonic() > end:
            raise DskdError(f"no verdict in {PATIENCE:.0f} seconds; run the bundle alone to see why")
        tick.wait(0.002)
