"""Drift of each camera's scores, against its own first passes with the present bundle."""

from __future__ import annotations

import logging
import threading
import time

from runtime.drift import DriftWatch, first_passes
from runtime.errors import DskdError, one_line
from runtime.result import Inspection, Verdict
from runtime.station.control import PartStatus
from runtime.store import Store

REFERENCE = 200  # passes that later ones are compared with
log = logging.getLogger(__name__)


class DriftWatches:
    """Fed by the recorder, ``refresh`` by housekeeping: reading the reference takes the store's time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._serves: dict[str, tuple[str, str]] = {}  # camera to bundle and backend
        self._watches: dict[str, DriftWatch] = {}
        self._since: dict[str, float] = {}

    def feed(self, inspection: Inspection, review: float) -> None:
        """Takes an inspection; only passes count."""
        if inspection.verdict is not Verdict.PASS:
            return
        camera, serves = inspection.source, (inspection.bundle, inspection.backend)
        with self._lock:
            if self._serves.get(camera) != serves:
                self._serves[camera] = serves
                self._watches.pop(camera, None)
            watch = self._watches.get(camera)
            found = None if watch is None else watch.feed(inspection.score, review)
            if found is not None and found.drifted:
                self._since[camera] = time.time()
                log.warning("camera %s: %s", camera, found.sentence)

    def refresh(self) -> None:
        """Reads the references that are missing, as soon as there are enough passes."""
        with self._lock:
            missing = [(camera, *serves) for camera, serves in self._serves.items() if camera not in self._watches]
        for camera, bundle, backend in missing:
            try:
                reference = first_passes(self._store, camera, bundle, backend, REFERENCE)
            except DskdError as error:
                log.warning("drift of camera %s: %s", camera, one_line(str(error)))
                continue
            with self._lock:
                if reference is not None and self._serves.get(camera) == (bundle, backend):
                    self._watches[camera] = DriftWatch(reference, f"first {REFERENCE} passes")
                    self._since[camera] = time.time()

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
