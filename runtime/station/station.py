"""A station: cameras, recipes, outputs and sinks of one file, put together, watched and stopped."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from dskd.runtime.atomic import sole_writer
from dskd.runtime.capture.decoding_process import DecodingProcess
from dskd.runtime.capture.picture_quality import Quality
from dskd.runtime.capture.pixel_limit import limit_megapixels
from dskd.runtime.capture.sources import Trigger, open_source
from dskd.runtime.configuration.fields import reveal, split_address
from dskd.runtime.errors import CallError, DskdError, one_line
from dskd.runtime.metrics import CameraNumbers, Metrics, Snapshot
from dskd.runtime.metrics_listener import MetricsListener
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Dropped, Frame, Image, Inspection, Verdict
from dskd.runtime.station.camera import StationCamera
from dskd.runtime.station.config import StationConfig
from dskd.runtime.station.control import Live, PartStatus, StationStatus, health_fields
from dskd.runtime.station.drift_watches import DriftWatches
from dskd.runtime.station.frame_size import FrameSizes
from dskd.runtime.station.free_running import FreeRunning
from dskd.runtime.station.housekeeping import Housekeeping, kept_clock
from dskd.runtime.station.outputs.guarded import open_guarded
from dskd.runtime.station.outputs.kinds import OUTPUTS, Output, OutputConfig, OutputContext
from dskd.runtime.station.recipes_in_use import HANGS, RecipesInUse
from dskd.runtime.station.recorder import Recorded, Recorder
from dskd.runtime.station.station_sinks import StationSinks, part_status
from dskd.runtime.station.triggers import EdgeTrigger
from dskd.runtime.status import Health
from dskd.runtime.store import Store
from dskd.runtime.wall_clock import WallClock

STORE = "store.db"
DRAIN = 2.0  # seconds a stop waits for parts under way, and for each output
STORE_DRAIN = 10.0  # seconds it waits for a store that hangs
log = logging.getLogger(__name__)


class Station:
    """Implements ``StationControl``. ``start`` returns when every recipe in use has a proved backend.

    Raises CallError or DskdError where a bundle, backend, mask or the data folder cannot be used; a camera that is
    absent is waited for.
    """

    def __init__(self, config: StationConfig) -> None:
        self.config, self.started = config, time.time()
        if config.max_megapixels is not None:
            limit_megapixels(config.max_megapixels)
        self.cameras: dict[str, StationCamera] = {}
        self._owner = ExitStack()
        try:
            config.data.mkdir(parents=True, exist_ok=True)
            self._owner.enter_context(sole_writer(config.data))
        except OSError as error:
            raise CallError(f"{config.data}: cannot be used ({error.strerror}); name another data folder") from error
        try:
            self.store = Store(config.data / STORE, own=True)
            self.clock = WallClock(
                kept_clock(self.store, config.data), self.store.last_moment(), newest=lambda: self.store.newest_known
            )
            self.recipes = RecipesInUse(config, self.cameras, self.store)
        except BaseException:
            self._owner.close()
            raise
        self.recorder = Recorder(self.store, self._hand_on)
        self._stopped = threading.Event()
        self.outputs: list[Output] = []
        self.sinks: StationSinks | None = None
        self.drift = DriftWatches(self.store)
        self.housekeeping = Housekeeping(self.store, config.store, config.data, self.clock)
        self.frame_sizes = FrameSizes(config.data)
        self._readers: list[DecodingProcess] = []
        self._metrics: Metrics | None = None
        self._listener: MetricsListener | None = None
        self._triggers: list[EdgeTrigger] = []

    def start(self) -> None:
        """Opens everything. On failure nothing stays open."""
        try:
            if self.config.metrics is not None:  # an address that is taken is told before anything runs
                self._metrics = Metrics(list(self.config.cameras), self._numbers)
                self._listener = self._metrics.listen(*split_address(self.config.metrics.listen), self._health_page)
            self.recorder.start()
            for name in self.config.cameras:
                self._add_camera(name)
            self._answer_lost()
            self.sinks = StationSinks(self.config, self.store, self, self.clock)
            self.housekeeping.keep_clock()
            for name, output in self.config.outputs.items():
                self.outputs.append(self._open_output(name, output))
            for camera in self.cameras.values():
                if isinstance(camera.parts, FreeRunning):
                    camera.parts.answers_wanted = any(output.hears(camera.name) for output in self.outputs)
            if self._listener is not None:
                self._listener.start()
            self.sinks.start()
            for camera in self.cameras.values():
                camera.capture.start()
            for trigger in self._triggers:
                trigger.start()
            self.housekeeping.start(self.sinks.settle, self.drift.refresh, self._keep_sizes)
        except BaseException:
            self.stop()
            raise
        log.info("station %s runs with %d camera(s)", self.config.name, len(self.cameras))

    def stop(self) -> None:
        """Takes no more triggers, finishes what is under way, stores and tells it, releases everything."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        cameras = list(self.cameras.values())
        for camera in cameras:
            camera.closing = True
        for trigger in self._triggers:
            trigger.stop()
        for camera in cameras:
            camera.parts.drain(DRAIN)
        self._stop_capturing()
        self.recipes.stop()
        for camera in cameras:
            camera.parts.close()
        left = self.recorder.close(STORE_DRAIN)
        for output in self.outputs:
            output.drain(DRAIN)
            output.close()
        if self.sinks is not None:
            self.sinks.stop()
        if self._listener is not None:
            self._listener.stop()
        self.housekeeping.stop()
        self._keep_sizes()
        self.store.close()
        self._owner.close()
        self._tell_end(left)

    def _stop_capturing(self) -> None:
        for camera in self.cameras.values():
            camera.capture.stop()
        for reader in self._readers:
            reader.close()

    # ------------------------------------------------------------------------------------------------ StationControl

    def status(self) -> StationStatus:
        """The present state."""
        cameras = tuple(camera.status() for camera in self.cameras.values())
        sinks = [] if self.sinks is None else [part_status(sink) for sink in self.sinks.statuses()]
        lines = [*(output.status() for output in self.outputs), *(trigger.status() for trigger in self._triggers)]
        parts = (
            self._store_status(),
            self.housekeeping.disk_status(),
            self.housekeeping.clock_status(),
            *lines,
            *sinks,
            *self.drift.statuses(),
        )
        worst = [camera.status.health for camera in cameras] + [part.health for part in parts]
        health: Health = "fault" if "fault" in worst else "warning" if "warning" in worst else "ok"
        return StationStatus(
            self.config.name, health, self.started, time.time(), cameras, parts, tuple(self.config.recipes)
        )

    def live(self, camera: str) -> Live | None:
        """The newest inspected frame."""
        return self._camera(camera).live

    def quality(self, camera: str) -> list[Quality]:
        """Of the camera's pictures over the last day."""
        return self._camera(camera).quality.measured()

    def trigger(self, camera: str, part: str | None) -> str:
        """Announces a part."""
        return self._camera(camera).trigger(part)

    def set_thresholds(self, camera: str, review: float, reject: float, who: str, bundle: str | None = None) -> None:
        """Changes the thresholds of the camera's recipe, for all cameras that use it, and keeps them."""
        self.recipes.set_thresholds(self._camera(camera), review, reject, who, bundle)

    def set_recipe(self, camera: str, recipe: str, who: str) -> None:
        """Loads and proves a recipe while the present one serves, then switches between two frames."""
        self.recipes.set_recipe(self._camera(camera), recipe, who)

    def reference(self, camera: str) -> tuple[list[float], str] | None:
        """What the drift watch compares with."""
        return self.drift.reference(camera)

    def rejudge(self, image: Image, camera: str) -> Inspection:
        """Inspects a picture with the camera's recipe; nothing is stored, and no output hears of it."""
        serving = self._camera(camera).serving
        frame = Frame(camera, "rejudged", time.time(), image)
        return serving.thread.inspect(frame, serving.recipe.settings)

    def accept_clock(self, who: str) -> None:
        """A person says that the clock is right although it jumped: what is old by it may be deleted again."""
        self.housekeeping.accept_clock(who)

    # ------------------------------------------------------------------------------------------------------ liveness

    def hanging(self) -> list[str]:
        """Names of threads that died or give no sign of life: then the watchdog is no longer fed."""
        found = [f"capture {name}" for name, camera in self.cameras.items() if not camera.capture.alive]
        found += self.recipes.hanging()
        if not self.recorder.alive or time.monotonic() - self.recorder.beat > HANGS:
            found.append("recorder")
        return found

    def beyond_repair(self) -> DskdError | None:
        """Why only a new process can go on; None where this one can."""
        return self.recipes.beyond_repair()

    # ------------------------------------------------------------------------------------------------------- details

    def _camera(self, name: str) -> StationCamera:
        if name not in self.cameras:
            raise CallError(f"no camera {one_line(name)[:64]!r}; one of: {', '.join(self.cameras)}")
        return self.cameras[name]

    def _add_camera(self, name: str) -> None:
        config = self.config.cameras[name]
        serving = self.recipes.first(name)
        uri = reveal(config.source, quoted=True)
        trigger: Trigger = "software" if config.trigger.kind == "gpio" else config.trigger.kind
        reader = DecodingProcess()  # a process only where files are read
        self._readers.append(reader)
        size = self.frame_sizes.known(name, config.source)
        added = StationCamera(
            name, config, lambda: open_source(uri, trigger, reader.read), self.recorder, serving, size
        )
        serving.thread.attach(added)
        self.cameras[name] = added
        if config.trigger.kind == "gpio":
            self._triggers.append(EdgeTrigger(name, config.trigger, added.announce))

    def _keep_sizes(self) -> None:
        self.frame_sizes.keep(self.cameras.values())

    def _answer_lost(self) -> None:
        """Parts that were under way at a kill: the line has had no answer, and now they are listed as not inspected."""
        lost = self.store.announced()
        safe = {name: camera.recipe.fail_safe for name, camera in self.cameras.items()}
        answers = [
            Answer(
                p.camera, p.part, safe.get(p.camera, Verdict.REJECT), Reason.STATION_KILLED, p.triggered, time.time()
            )
            for p in lost
        ]
        if answers:
            self.store.add(answers)
            log.warning(
                "%d part(s) were under way when the station was killed; they are stored as not inspected", len(lost)
            )

    def _open_output(self, name: str, config: OutputConfig) -> Output:
        def set_job(camera: str, job: int, who: str) -> None:
            self.recipes.set_job(self._camera(camera), job, who=who)

        kind, context = OUTPUTS[config.kind], OutputContext(name, self.cameras, set_job)
        return kind.open(config, context) if config.kind in OUTPUTS.built_in else open_guarded(kind, config, context)

    def _tell_end(self, left: int) -> None:
        for state in (camera.status() for camera in self.cameras.values()):
            counts = state.captured, state.inspected, state.dropped
            log.info("camera %s: %d captured, %d inspected, %d dropped", state.status.name, *counts)
        log.info("station %s stopped%s", self.config.name, f"; {left} records could not be stored" if left else "")

    def _hand_on(self, entries: Sequence[Recorded]) -> None:
        """Called by the recorder once the entries are stored, or could not be in time."""
        for entry in entries:
            record = entry.record
            if isinstance(record, Answer):
                for output in self.outputs:
                    if output.hears(record.camera):
                        output.answer(record)
        for entry in entries:  # the line first, then those who only look
            record = entry.record
            if isinstance(record, Inspection) and entry.frame is not None:
                self._look_at(record, entry.frame)
            elif isinstance(record, Dropped):
                if self.sinks is not None:
                    self.sinks.offer(record)
                if self._metrics is not None:
                    self._metrics.dropped(record)

    def _look_at(self, inspection: Inspection, frame: Frame) -> None:
        camera = self.cameras[inspection.source]
        recipe = camera.recipe_of(inspection)
        camera.show(frame, inspection)
        if self.sinks is not None:
            self.sinks.offer((frame, inspection))
        if self._metrics is not None:
            self._metrics.inspected(inspection, time.time() - inspection.captured)
        self.drift.feed(inspection, recipe)

    def _numbers(self) -> Snapshot:
        """For Prometheus, at each scrape."""
        states = [camera.status() for camera in self.cameras.values()]
        cameras = {
            state.status.name: CameraNumbers(state.ready, state.waiting, state.missed_triggers, state.reconnects)
            for state in states
        }
        sinks = [] if self.sinks is None else self.sinks.statuses()
        return Snapshot(cameras, sinks, self.recorder.spooled, shutil.disk_usage(self.config.data).free)

    def _health_page(self) -> tuple[bytes, bool]:
        """For watchdogs, beside the metrics: the operator's page may be busy."""
        status = self.status()
        return json.dumps(health_fields(status)).encode(), status.health != "fault"

    def _store_status(self) -> PartStatus:
        now, waiting = self.recorder.status.now, f"{self.recorder.spooled} records wait"
        if now.state != "ok":
            return PartStatus("store", "store", now.state, f"{now.detail}; {waiting} in memory", now.since)
        if self.store.repaired:
            detail = f"{self.store.repaired}; check the disk, and restart the station to clear this"
            return PartStatus("store", "store", "warning", detail, now.since)
        return PartStatus("store", "store", "ok", waiting, now.since)
