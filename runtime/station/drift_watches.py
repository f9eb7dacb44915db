"""Drift of each camera's scores, against the held-out good images behind its thresholds.

A bundle that does not hold their scores, or too few, is compared with the camera's own first passes instead.
"""

from __future__ import annotations

import logging
import threading
import time

from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.result import Inspection, Verdict
from dskd.runtime.station.control import PartStatus
from dskd.runtime.station.drift import LEAST_REFERENCE, DriftWatch, first_passes
from dskd.runtime.station.recipe import Recipe
from dskd.runtime.store import Store

REFERENCE = 200  # passes that later ones are compared with
HELD_OUT_IMAGES = "held-out good images"
log = logging.getLogger(__name__)


class DriftWatches:
    """Fed by the recorder, ``refresh`` by housekeeping: reading the reference takes the store's time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._serves: dict[str, tuple[str, str]] = {}  # camera to bundle and backend
        self._recipes: dict[str, Recipe] = {}
        self._watches: dict[str, DriftWatch] = {}
        self._since: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()

    def feed(self, inspection: Inspection, recipe: Recipe) -> None:
        """Takes an inspection and the recipe it was made with; only passes count."""
        if inspection.verdict is not Verdict.PASS or inspection.bundle != recipe.bundle.id:
            return
        camera, serves = inspection.source, (inspection.bundle, inspection.backend)
        with self._lock:
            if self._serves.get(camera) != serves:
                self._serves[camera] = serves
                self._recipes[camera] = recipe
                self._watches.pop(camera, None)
            watch = self._watches.get(camera)
            found = None if watch is None else watch.feed(inspection.score, recipe.settings.review)
            if found is not None and found.drifted:
                self._since[camera] = time.time()
                log.warning("camera %s: %s", camera, found.sentence)

    def refresh(self) -> None:
        """Reads the references that are missing, as soon as there are any."""
        with self._lock:
            missing = [(camera, serves) for camera, serves in self._serves.items() if camera not in self._watches]
        for camera, serves in missing:
            try:
                watch = self._watch(camera, *serves)
            except DskdError as error:
                log.warning("drift of camera %s: %s", camera, one_line(str(error)))
                continue
            with self._lock:
                if watch is not None and self._serves.get(camera) == serves:
                    self._watches[camera] = watch
                    self._since[camera] = time.time()

    def _watch(self, camera: str, bundle: str, backend: str) -> DriftWatch | None:
        recipe, held_out = self._recipes[camera], list[float]()
        try:
            held_out = recipe.bundle.held_out_scores(recipe.graph)
            why = (
                f"bundle {bundle} holds {len(held_out)} held-out scores; export it again with {LEAST_REFERENCE} or more"
            )
        except DskdError as error:  # its folder holds another bundle by now
            why = one_line(str(error))
        if len(held_out) >= LEAST_REFERENCE:
            return DriftWatch(held_out, HELD_OUT_IMAGES)
        if (camera, bundle) not in self._told:
            self._told.add((camera, bundle))
            log.warning("drift of camera %s is told against its first %d passes: %s", camera, REFERENCE, why)
        first = first_passes(self._store, camera, bundle, backend, REFERENCE)
        return None if first is None else DriftWatch(first, f"first {REFERENCE} passes")

    def reference(self, camera: str) -> tuple[list[float], str] | None:
        """The scores that passes are compared with, and whose they are."""
        with self._lock:
            watch = self._watches.get(camera)
        return None if watch is None else (watch.reference.tolist(), watch.origin)

    def statuses(self) -> list[PartStatus]:
        """One line for each camera whose scores were compared."""
        with self._lock:
            checked = [(camera, watch.latest) for camera, watch in self._watches.items() if watch.latest]
            return [
                PartStatus(
                    f"{camera} drift",
                    "drift",
                    "warning" if drift.drifted else "ok",
                    drift.sentence,
                    self._since[camera],
                )
                for camera, drift in checked
            ]
