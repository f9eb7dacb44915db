"""The recipes that cameras use now: loaded, changed between two frames, and kept; one thread runs each bundle."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from dskd.runtime.backends import candidates
from dskd.runtime.bundle import load_bundle
from dskd.runtime.errors import CallError, DskdError, one_line
from dskd.runtime.station.batching import InspectionThread
from dskd.runtime.station.camera import StationCamera
from dskd.runtime.station.config import StationConfig
from dskd.runtime.station.recipe import Kept, Recipe, make_recipe
from dskd.runtime.store import Store

STOP_PATIENCE = 5.0  # seconds that a stop waits for a recipe change that is under way
HANGS = 30.0  # seconds without a sign of life after which a thread counts as hanging; an engine may load that long
log = logging.getLogger(__name__)


class RecipesInUse:
    """Changes are made one at a time and stand in the store's audit log. ``cameras`` may still grow."""

    def __init__(self, config: StationConfig, cameras: Mapping[str, StationCamera], store: Store) -> None:
        self._config, self._cameras, self._store = config, cameras, store
        self._kept = Kept(config.data)
        self._threads: dict[tuple[object, ...], InspectionThread] = {}
        self._changing = threading.Lock()
        self._stopping = False

    def first(self, camera: str) -> tuple[Recipe, InspectionThread]:
        """What a camera begins with: the recipe that a person chose last, else that of the file."""
        configured = self._config.cameras[camera].recipe
        return self._load(self._kept.recipe(camera, configured, self._config.recipes))

    def set_thresholds(self, camera: StationCamera, review: float, reject: float, who: str) -> None:
        """Changes the thresholds of the camera's recipe, for all cameras that use it, and keeps them."""
        with self._changing:
            self._refuse_when_stopping()
            before = camera.recipe
            recipe = before.with_thresholds(review, reject)
            self._kept.keep_thresholds(recipe, self._config.recipes[recipe.name])
            for each in self._cameras.values():
                if each.recipe.name == recipe.name:
                    each.recipe = recipe
            old = before.settings
            detail = f"{recipe.name}: review {old.review:g} to {review:g}, reject {old.reject:g} to {reject:g}"
            self._audit(who, "thresholds", detail)

    def set_recipe(self, camera: StationCamera, recipe: str, who: str) -> None:
        """Loads and proves a recipe while the present one serves, then switches between two frames.

        Where it raises, the present one goes on.
        """
        with self._changing:
            self._refuse_when_stopping()
            if recipe not in self._config.recipes:
                raise CallError(f"no recipe {recipe!r}; one of: {', '.join(self._config.recipes)}")
            before = camera.recipe.name
            loaded, thread = self._load(recipe)
            try:
                self._refuse_when_stopping()  # loading may take minutes
                self._kept.keep_recipe(camera.name, recipe, self._config.cameras[camera.name].recipe)
            except BaseException:
                self._drop_unused()
                raise
            old = camera.inspects
            if old is not thread:
                if old is not None:
                    old.detach(camera)
                camera.recipe, camera.inspects = loaded, thread
                thread.attach(camera)
            else:
                camera.recipe = loaded
            self._drop_unused()
            self._audit(who, "recipe", f"camera {camera.name}: {before} to {recipe}")

    def set_job(self, camera: StationCamera, job: int, who: str) -> None:
        """Like ``set_recipe``, by the recipe's number. Raises CallError where none has it."""
        names = [name for name, recipe in self._config.recipes.items() if job and recipe.job == job]
        if not names:
            raise CallError(f"no recipe has the job number {job}")
        self.set_recipe(camera, names[0], who)

    def hanging(self) -> list[str]:
        """Inspection threads that died or give no sign of life."""
        threads, now = list(self._threads.values()), time.monotonic()
        lost = (thread for thread in threads if not thread.alive or now - thread.beat > HANGS)
        return [f"inspection of {thread.bundle.manifest.name}" for thread in lost]

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

    def _load(self, name: str) -> tuple[Recipe, InspectionThread]:
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
        opened = thread.opened.result() if thread.opened.done() else thread.start()
        try:
            recipe = make_recipe(name, wanted, bundle, opened, self._kept)
        except BaseException:
            if key not in self._threads:
                thread.stop()
            raise
        self._threads[key] = thread
        return recipe, thread

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
