"""A small station for the page's tests: a real inspector on pictures from a folder, a real store, and faults at will."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.capture.image_files import list_images, read_image
from dskd.runtime.capture.picture_quality import Quality
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Dropped, Frame, Image, Inspection, Verdict
from dskd.runtime.sinks.archive import Archive, ArchiveConfig
from dskd.runtime.sinks.queued import Queued
from dskd.runtime.station.control import CameraStatus, Live, PartStatus, StationStatus
from dskd.runtime.station.threshold_change import ThresholdChange
from dskd.runtime.status import Health
from dskd.runtime.store import Store


class PictureStation:
    """Inspects the pictures of a folder in turn, one per ``step`` or every ``period`` seconds once started."""

    def __init__(self, bundle: Bundle, pictures: Path, data: Path, cameras: tuple[str, ...] = ("top",)) -> None:
        self.store = Store(data / "station.db")
        config = ArchiveConfig(kind="archive", keep="all", min_free_gb=0, map=True)
        self.archive = Archive(config, data / "archive")
        self.pictures = Queued("archive", "archive", self.archive)
        self.pictures.start()
        self.paths = list_images(pictures)
        graph = bundle.manifest.graphs["model.onnx"]
        backend = open_backend(bundle, threads=1)
        self.inspectors = {
            name: Inspector(bundle, backend, Settings.of(graph.thresholds), keep_maps=True) for name in cameras
        }
        self.bundle, self.recipes = bundle.id, dict.fromkeys(cameras, "standard")
        self.started, self.numbers = time.time(), itertools.count(1)
        self.last: dict[str, Live] = {}
        self.verdicts: dict[str, Counter[str]] = {name: Counter() for name in cameras}
        self.dropped: Counter[str] = Counter()
        self.lost: dict[str, str] = {}  # camera to sentence
        self.sinks: dict[str, tuple[Health, str]] = {"archive": ("ok", "keeps rejects and 1 in 100 passes")}
        self.stuck, self.released = threading.Event(), threading.Event()
        self._stop, self._lock = threading.Event(), threading.RLock()
        self._thread: threading.Thread | None = None

    def run(self, period: float) -> None:
        self._thread = threading.Thread(target=self._loop, args=(period,), name="pictures", daemon=True)
        self._thread.start()

    def _loop(self, period: float) -> None:
        for turn in itertools.count():
            if self._stop.wait(period):
                return
            for offset, camera in enumerate(self.inspectors):
                if camera not in self.lost:
                    self.step(camera, self.paths[(turn + 7 * offset) % len(self.paths)])

    def close(self) -> None:
        self._stop.set()
        self.released.set()
        if self._thread is not None:
            self._thread.join()
        self.pictures.stop()
        self.store.close()

    def step(self, camera: str, path: Path, part: str | None = None) -> int:
        """One part through the camera; returns the record's id."""
        with self._lock:
            number = next(self.numbers)
            image = read_image(path)
            frame = Frame(camera, f"{path.parent.name}/{path.name}#{number}", time.time(), image, None, part)
            found = replace(self.inspectors[camera].inspect(frame), part=part or f"{number:06}")
            answer = Answer(
                camera, found.part or "", found.verdict, Reason.INSPECTED, frame.captured, time.time(), found
            )
            record = self.store.add([found, answer])[0]
            self.pictures.offer((frame, found))
            self.last[camera] = Live(image, found, None)
            self.verdicts[camera][found.verdict.value] += 1
            return record

    def drop(self, camera: str, reason: str) -> None:
        """A part that could not be inspected."""
        with self._lock:
            part = f"{next(self.numbers):06}"
            now = time.time()
            answer = Answer(camera, part, Verdict.REJECT, Reason.UNUSABLE, now, now, detail=reason)
            self.store.add([Dropped(camera, part, now, Reason.UNUSABLE, reason, part), answer])
            self.dropped[camera] += 1

    def status(self) -> StationStatus:
        if self.stuck.is_set():
            self.released.wait(60)
        now = time.time()
        cameras = tuple(self._camera(name) for name in self.inspectors)
        parts = tuple(
            PartStatus(name, "sink", health, detail, self.started) for name, (health, detail) in self.sinks.items()
        )
        parts += (PartStatus("store", "store", "ok", "writes within 2 ms; 12.4 GB free", self.started),)
        worst: Health = "fault" if self.lost else "warning" if any(p.health != "ok" for p in parts) else "ok"
        return StationStatus("line-3", worst, self.started, now, cameras, parts, ("standard", "strict"))

    def _camera(self, name: str) -> CameraStatus:
        detail = self.lost.get(name)
        status = PartStatus(name, "camera", "fault" if detail else "ok", detail or "25 pictures a second", self.started)
        settings, counts = self.inspectors[name].settings, dict(self.verdicts[name])
        inspected, dropped = sum(counts.values()), self.dropped[name]
        latency = {"p50": 38.0, "p99": 61.0, "max": 84.0} if inspected else {}
        return CameraStatus(
            status, self.recipes[name], self.bundle, self.inspectors[name].backend.name, settings.review,
            settings.reject, not detail, inspected + dropped, inspected, dropped, 0, 0, 0, counts, latency,
        )  # fmt: skip

    def live(self, camera: str) -> Live | None:
        return self.last.get(camera)

    def trigger(self, camera: str, part: str | None) -> str:
        if camera in self.lost:
            raise DskdError(f"camera {camera} is not ready: {self.lost[camera]}")
        path = self.paths[next(self.numbers) % len(self.paths)]
        name = part or f"t{next(self.numbers):05}"
        self.step(camera, path, name)
        return name

    def set_thresholds(self, camera: str, review: float, reject: float, who: str, bundle: str | None = None) -> None:
        if bundle not in (None, self.bundle):
            raise DskdError(f"camera {camera} runs bundle {self.bundle} now")
        old = self.inspectors[camera].settings
        new = Settings(review, reject, old.min_area, old.roi)
        change = ThresholdChange(self.recipes[camera], (old.review, old.reject), (review, reject), self.bundle, camera)
        self.store.audit(who, "thresholds", str(change))
        with self._lock:
            self.inspectors[camera].settings = new

    def set_recipe(self, camera: str, recipe: str, who: str) -> None:
        if recipe not in ("standard", "strict"):
            raise CallError(f"there is no recipe {recipe}")
        self.store.audit(who, "recipe", f"camera {camera}: {self.recipes[camera]} -> {recipe}")
        self.recipes[camera] = recipe

    def accept_clock(self, who: str) -> None:
        self.store.audit(who, "clock", "accepted")

    def reference(self, camera: str) -> tuple[list[float], str] | None:
        return [0.1 * self.inspectors[camera].settings.review * k for k in range(1, 10)], "held-out good images"

    def quality(self, camera: str) -> list[Quality]:
        return [Quality(time.time() - 60 * k, 120.0 - k, 90.0, 300.0) for k in (2, 1, 0)]

    def rejudge(self, image: Image, camera: str) -> Inspection:
        frame = Frame(camera, "again", time.time(), np.ascontiguousarray(image))
        with self._lock:
            return self.inspectors[camera].inspect(frame)
