"""The recipes that cameras use now: loaded, changed between two frames, and kept; one thread runs each bundle."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dskd.runtime.bundle.loading import load_bundle
from dskd.runtime.errors import CallError, DskdError, one_line
from dskd.runtime.inspection.backends import candidates
from dskd.runtime.station.batching import InspectionThread
from dskd.runtime.station.camera import StationCamera
from dskd.runtime.station.config import StationConfig
from dskd.runtime.station.recipe import OperatorOverrides, Serving, make_recipe
from dskd.runtime.station.threshold_change import ThresholdChange
from dskd.runtime.store import Store

STOP_PATIENCE = 5.0  # seconds that a stop waits for a recipe change that is under way
MOST_IDLE = 300.0  # seconds without any backend after which a new process is tried
HANGS = 30.0  # seconds without a sign of life after which a thread counts as hanging; an engine may load that long
log = logging.getLogger(__name__)


class RecipesInUse:
    """Changes are made one at a time and stand in the store's audit log. ``cameras`` may still grow.

    All cameras of a recipe run the same bundle, whatever happens to the files: a recipe that is loaded again is loaded
    for all of them.
    """

    def __init__(self, config: StationConfig, cameras: Mapping[str, StationCamera], store: Store) -> None:
        self._config, self._cameras, self._store = config, cameras, store
        self._overrides = OperatorOverrides(config.data)
        self._threads: dict[tuple[object, ...], InspectionThread] = {}
        self._changing = threading.Lock()
        self._stopping = False

    def first(self, camera: str) -> Serving:
        """What a camera begins with: the recipe that a person chose last, else that of the file."""
        name = self._overrides.recipe(camera, self._config.cameras[camera].recipe, self._config.recipes)
        loaded = [each.serving for each in self._cameras.values() if each.recipe.name == name]
        return loaded[0] if loaded else self._load(name)

    def set_thresholds(
        self, camera: StationCamera, review: float, reject: float, who: str, bundle: str | None = None
    ) -> None:
        """Changes the thresholds of the camera's recipe, for all cameras that use it, and keeps them.

        Raises DskdError where they are meant for another ``bundle`` (its id) than the one that the camera runs.
        """
        with self._changing:
            self._refuse_when_stopping()
            before = camera.recipe
            if bundle not in (None, before.bundle.id):
                raise DskdError(
                    f"camera {camera.name} runs bundle {before.bundle.id} now, and these thresholds are for {bundle}; "
                    "look at its scores and set them again"
                )
            recipe = before.with_thresholds(review, reject)
            alike = [each for each in self._cameras_of(recipe.name) if each.recipe.model == recipe.model]
            self._overrides.save_thresholds(recipe, self._config.recipes[recipe.name])
            for each in alike:
                each.serve(replace(each.serving, recipe=each.recipe.with_thresholds(review, reject)))
            old = before.settings
            change = ThresholdChange(
                recipe.name, (old.review, old.reject), (review, reject), recipe.bundle.id,
                ", ".join(each.name for each in alike),
            )  # fmt: skip
            self._audit(who, "thresholds", str(change))

    def set_recipe(self, camera: StationCamera, recipe: str, who: str) -> None:
        """Loads and proves a recipe while the present one serves, then switches between two frames.

        The recipe's other cameras take what was loaded too: its folder may hold another bundle than they run. Where it
        raises, all of them go on as before.
        """
        with self._changing:
            self._refuse_when_stopping()
            if recipe not in self._config.recipes:
                raise CallError(f"no recipe {recipe!r}; one of: {', '.join(self._config.recipes)}")
            loaded = self._load(recipe)
            try:
                self._refuse_when_stopping()  # loading may take minutes
                self._overrides.save_recipe(camera.name, recipe, self._config.cameras[camera.name].recipe)
            except BaseException:
                self._drop_unused()
                raise
            others = [each for each in self._cameras_of(recipe) if each is not camera]
            detail = f"camera {camera.name}: {camera.recipe.name} to {recipe}, bundle {loaded.recipe.bundle.id}"
            for each in others:
                if each.recipe.model != loaded.recipe.model:
                    detail += f"; camera {each.name}: {recipe}, from bundle {each.recipe.bundle.id} to the same"
            self._switch([camera, *others], loaded)
            self._drop_unused()
            self._audit(who, "recipe", detail)
            self._tell_of_others(loaded)

    def set_job(self, camera: StationCamera, job: int, who: str) -> None:
        """Like ``set_recipe``, by the recipe's number. Raises CallError where none has it."""
        names = [name for name, recipe in self._config.recipes.items() if job and recipe.job == job]
        if not names:
            raise CallError(f"no recipe has the job number {job}")
        self.set_recipe(camera, names[0], who)

    def hanging(self) -> list[str]:
        """Inspection threads that died or give no sign of life."""
        used = [camera.inspects for camera in list(self._cameras.values())]
        threads, now = dict.fromkeys([*self._threads.values(), *used]), time.monotonic()
        lost = (thread for thread in threads if not thread.alive or now - thread.beat > HANGS)
        return [f"inspection of {thread.bundle.manifest.name}" for thread in lost]

    def beyond_repair(self) -> DskdError | None:
        """Why the process must end and start again: a device is lost to it, or for long no camera had a backend."""
        threads = list(dict.fromkeys(camera.inspects for camera in list(self._cameras.values())))
        for thread in threads:
            if thread.backend.lost is not None:
                return thread.backend.lost
        if threads and all(thread.backend.idle > MOST_IDLE for thread in threads):
            minutes, fault = MOST_IDLE / 60, threads[0].backend.fault
            return DskdError(f"nothing was inspected for {minutes:.0f} minutes, because there is no backend: {fault}")
        return None

    def stop(self) -> None:
        """Judges what was taken and releases all backends; recipes change no more."""
        self._stopping = True
        changed = self._changing.acquire(timeout=STOP_PATIENCE)
        try:
            for thread in list(self._threads.values()):  # a change that takes longer stops what it loads by itself
                thread.stop()
        finally:
            if changed:
                self._changing.release()

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise DskdError("the station stops")

    def _cameras_of(self, recipe: str) -> list[StationCamera]:
        return [camera for camera in self._cameras.values() if camera.recipe.name == recipe]

    def _switch(self, cameras: Sequence[StationCamera], to: Serving) -> None:
        """All at once: none takes a frame by the new recipe while another still does by the old one."""
        moved = [camera for camera in cameras if camera.inspects is not to.thread]
        for camera in moved:
            camera.inspects.detach(camera)
        for camera in cameras:
            camera.serve(to)
        for camera in moved:
            to.thread.attach(camera)

    def _tell_of_others(self, loaded: Serving) -> None:
        """Recipes of the same folder that still run what it held before."""
        bundle = loaded.recipe.bundle
        for other in sorted({camera.recipe.name for camera in self._cameras.values()}):
            running = self._cameras_of(other)[0].recipe.bundle
            if running.path == bundle.path and running.id != bundle.id:
                log.warning(
                    "recipe %s goes on with bundle %s; %s holds %s now: load the recipe again to use it",
                    other, running.id, bundle.path, bundle.id,
                )  # fmt: skip

    def _load(self, name: str) -> Serving:
        """A recipe and the thread that runs its bundle, started where no camera uses it yet."""
        wanted, backend = self._config.recipes[name], self._config.backend
        bundle = load_bundle(wanted.bundle)
        key = (bundle.path, bundle.id, wanted.precision)
        thread = self._threads.get(key)
        if thread is None or not thread.alive:
            thread = InspectionThread(
                bundle,
                lambda: candidates(bundle, backend.name, backend.threads, wanted.precision),
                backend.latency_budget_ms / 1000,
                keep_maps=True,
            )
        opened = thread.backend.opened.result() if thread.backend.opened.done() else thread.start()
        try:
            serving = Serving(make_recipe(name, wanted, bundle, opened, self._overrides), thread)
        except BaseException:
            if self._threads.get(key) is not thread:
                thread.stop()
            raise
        self._threads[key] = thread
        return serving

    def _drop_unused(self) -> None:
        used = {id(camera.inspects) for camera in self._cameras.values()}
        for key, thread in list(self._threads.items()):
            if id(thread) not in used:
                del self._threads[key]
                thread.stop()

    def _audit(self, who: str, action: str, detail: str) -> None:
        log.info("%s: %s by %s", action, detail, one_line(who))
        try:
            self._store.audit(one_line(who), action, detail)
        except DskdError as error:  # the change is made; that it is not on record must not stop the line
            log.warning("audit: %s", one_line(str(error)))
