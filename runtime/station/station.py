"""A station: cameras, recipes, outputs and sinks of one file, put together, watched and stopped."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from runtime.atomic import sole_writer
from runtime.backends import open_backend
from runtime.bundle import load_bundle
from runtime.errors import CallError, DskdError, one_line
from runtime.fields import reveal
from runtime.preprocess import Image
from runtime.result import Answer, Frame, Inspection
from runtime.sources import open_source
from runtime.station.batching import InspectionThread
from runtime.station.camera import StationCamera
from runtime.station.config import StationConfig
from runtime.station.control import Health, Live, PartStatus, StationStatus
from runtime.station.recipe import Kept, Recipe, make_recipe
from runtime.station.recorder import Entry, Recorder
from runtime.store import Store

STORE = "store.db"
LEAST_FREE_BYTES = 200 << 20  # below it the station warns: the store needs some to go on
DRAIN = 10.0  # seconds a stop waits for what is under way
HANGS = 30.0  # seconds without a sign of life after which a thread counts as hanging; an engine may load that long
log = logging.getLogger(__name__)


class Station:
    """Implements ``StationControl``. ``start`` returns when every recipe in use has a proved backend.

    Raises CallError or DskdError where a bundle, backend, mask or the data folder cannot be used; a camera that is
    absent is waited for.
    """

    def __init__(self, config: StationConfig) -> None:
        self.config, self.started = config, time.time()
        try:
            config.data.mkdir(parents=True, exist_ok=True)
            self._owner = sole_writer(config.data)
            self._owner.__enter__()
        except OSError as error:
            raise CallError(f"{config.data}: cannot be used ({error.strerror}); name another data folder") from error
        self.store = Store(config.data / STORE)
        self.recorder = Recorder(self.store, self._hand_on)
        self._kept = Kept(config.data)
        self._threads: dict[tuple[object, ...], InspectionThread] = {}
        self._changing = threading.Lock()  # recipes change one at a time
        self._recipes: dict[str, Recipe] = {}
        self._stopped = False
        self.cameras: dict[str, StationCamera] = {}

    def start(self) -> None:
        """Opens everything. On failure nothing stays open."""
        try:
            self.recorder.start()
            for name, camera in self.config.cameras.items():
                wanted = self._kept.recipe(name, camera.recipe, self.config.recipes)
                recipe, thread = self._load(wanted)
                uri = reveal(camera.source, quoted=True)
                added = StationCamera(name, camera, lambda uri=uri: open_source(uri), self.recorder, recipe)  # type: ignore[misc]
                added.tell = True
                added.inspects = thread
                thread.attach(added)
                self.cameras[name] = added
            for added in self.cameras.values():
                added.capture.start()
        except BaseException:
            self.stop()
            raise
        log.info("station %s runs: %d camera(s), %s", self.config.name, len(self.cameras), ", ".join(self._recipes))

    def stop(self) -> None:
        """Takes no more, finishes what is under way, stores it and releases everything. May be called again."""
        if self._stopped:
            return
        self._stopped = True
        end = time.monotonic() + DRAIN
        for camera in self.cameras.values():
            camera.capture.stop()
        for camera in self.cameras.values():
            if camera.desk is not None:
                camera.desk.drain(max(min(2.0, end - time.monotonic()), 0.1))
        for thread in self._threads.values():
            thread.stop()
        for camera in self.cameras.values():
            if camera.desk is not None:
                camera.desk.close()
        left = self.recorder.close(DRAIN)
        self.store.close()
        self._owner.__exit__(None, None, None)
        log.info("station %s stopped%s", self.config.name, f"; {left} records could not be stored" if left else "")

    # ------------------------------------------------------------------------------------------------ StationControl

    def status(self) -> StationStatus:
        """The present state."""
        cameras = tuple(camera.status() for camera in self.cameras.values())
        parts = (self._store_status(), self._disk_status())
        worst = [camera.status.health for camera in cameras] + [part.health for part in parts]
        health: Health = "fault" if "fault" in worst else "warning" if "warning" in worst else "ok"
        return StationStatus(
            self.config.name, health, self.started, time.time(), cameras, parts, tuple(self.config.recipes)
        )

    def live(self, camera: str) -> Live | None:
        """The newest judged frame."""
        return self._camera(camera).live

    def trigger(self, camera: str, part: str | None) -> str:
        """Announces a part."""
        return self._camera(camera).trigger(part)

    def set_thresholds(self, camera: str, review: float, reject: float, who: str) -> None:
        """Changes the thresholds of the camera's recipe, for all cameras that use it, and keeps them."""
        with self._changing:
            before = self._camera(camera).recipe
            recipe = before.with_thresholds(review, reject)
            self._kept.keep_thresholds(recipe, self.config.recipes[recipe.name])
            self._recipes[recipe.name] = recipe
            for each in self.cameras.values():
                if each.recipe.name == recipe.name:
                    each.recipe = recipe
            old = before.settings
            detail = f"{recipe.name}: review {old.review:g} to {review:g}, reject {old.reject:g} to {reject:g}"
            self._audit(who, "thresholds", detail)

    def set_recipe(self, camera: str, recipe: str, who: str) -> None:
        """Loads and proves a recipe while the present one serves, then switches between two frames."""
        with self._changing:
            target = self._camera(camera)
            if recipe not in self.config.recipes:
                raise CallError(f"no recipe {recipe!r}; one of: {', '.join(self.config.recipes)}")
            before = target.recipe.name
            loaded, thread = self._load(recipe)
            old = target.inspects
            if old is not thread:
                if old is not None:
                    old.detach(target)
                target.recipe, target.inspects = loaded, thread
                thread.attach(target)
            else:
                target.recipe = loaded
            self._kept.keep_recipe(camera, recipe, self.config.cameras[camera].recipe)
            self._drop_unused()
            self._audit(who, "recipe", f"camera {camera}: {before} to {recipe}")

    def rejudge(self, image: Image, camera: str) -> Inspection:
        """Inspects a picture with the camera's recipe; nothing is stored or told."""
        target = self._camera(camera)
        if target.inspects is None:
            raise DskdError(f"camera {camera}: has no backend yet; try again")
        frame = Frame(camera, "rejudged", time.time(), image)
        return target.inspects.judge(frame, target.recipe.settings)

    # ------------------------------------------------------------------------------------------------------ liveness

    def hanging(self) -> list[str]:
        """Names of threads that died or give no sign of life: then the watchdog is no longer fed."""
        now = time.monotonic()
        found = [f"capture {name}" for name, camera in self.cameras.items() if not camera.capture.alive]
        for thread in list(self._threads.values()):
            if not thread.alive or now - thread.beat > HANGS:
                found.append(f"inspection of {thread.bundle.manifest.name}")
        if not self.recorder.alive or now - self.recorder.beat > HANGS:
            found.append("recorder")
        return found

    # ------------------------------------------------------------------------------------------------------- details

    def _camera(self, name: str) -> StationCamera:
        if name not in self.cameras:
            raise CallError(f"no camera {one_line(name)[:64]!r}; one of: {', '.join(self.cameras)}")
        return self.cameras[name]

    def _load(self, name: str) -> tuple[Recipe, InspectionThread]:
        """A recipe and the thread that runs its bundle, started where no camera uses it yet."""
        wanted, backend = self.config.recipes[name], self.config.backend
        bundle = load_bundle(wanted.bundle)
        key = (bundle.path, bundle.id, wanted.precision)
        thread = self._threads.get(key)
        if thread is None or not thread.alive:
            thread = InspectionThread(
                bundle,
                lambda: open_backend(bundle, backend.name, backend.threads, wanted.precision),
                backend.latency_budget_ms / 1000,
                keep_maps=True,
            )
        opened = thread.opened.result() if thread.opened.done() else thread.start()
        try:
            recipe = make_recipe(name, wanted, bundle, opened, self._kept)
        except BaseException:
            if key not in self._threads:
                thread.stop()
            raise
        self._threads[key] = thread
        self._recipes[name] = recipe
        return recipe, thread

    def _drop_unused(self) -> None:
        used = {id(camera.inspects) for camera in self.cameras.values()}
        for key, thread in list(self._threads.items()):
            if id(thread) not in used:
                del self._threads[key]
                thread.stop()

    def _hand_on(self, entries: Sequence[Entry]) -> None:
        """Called by the recorder once the entries are stored, or could not be in time."""
        for entry in entries:
            if isinstance(entry.record, Inspection) and entry.frame is not None:
                self.cameras[entry.record.source].show(entry.frame, entry.record)

    def _audit(self, who: str, action: str, detail: str) -> None:
        log.info("%s: %s by %s", action, detail, one_line(who))
        try:
            self.store.audit(one_line(who), action, detail)
        except DskdError as error:  # the change is made; that it is not on record must not stop the line
            log.warning("audit: %s", one_line(str(error)))

    def _store_status(self) -> PartStatus:
        spooled = self.recorder.spooled
        if self.recorder.fault:
            detail = f"{self.recorder.fault}; {spooled} records wait in memory"
            return PartStatus("store", "store", "fault", detail, self.recorder.since)
        return PartStatus("store", "store", "ok", f"{spooled} records wait", self.recorder.since)

    def _disk_status(self) -> PartStatus:
        try:
            usage = shutil.disk_usage(self.config.data)
        except OSError as error:
            return PartStatus("disk", "disk", "fault", f"{self.config.data}: {error.strerror}", self.started)
        text = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free"
        health: Health = "ok" if usage.free > LEAST_FREE_BYTES else "fault"
        return PartStatus("disk", "disk", health, text, self.started)


__all__ = ["Answer", "Station", "replace"]
