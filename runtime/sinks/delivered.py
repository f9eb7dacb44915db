"""Sinks of ``dskd runtime`` that deliver from a store: the one that was named, else one that goes with the run."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dskd.runtime.errors import DskdError
from dskd.runtime.result import Dropped, Result
from dskd.runtime.sinks.base import Sink, SinkConfig, SinkContext, SinkKind
from dskd.runtime.sinks.delivery import Delivery, Target
from dskd.runtime.store import Store

PATIENCE = 10.0  # seconds without a delivery after which the end of a run waits no longer
LOOK = 0.05  # seconds between looks at how far a sink is
KEPT = 10_000  # delivered records that stay in a temporary store
MOST_WAITING = 200_000  # undelivered ones in it: some 80 MB, so that a receiver that never comes back fills no disk
TIDY_EVERY = 60.0  # seconds
_log = logging.getLogger(__name__)


def deliver(asked: Sequence[tuple[str, SinkKind, SinkConfig]], opened: list[Sink]) -> None:
    """Adds the sinks ``asked`` for (name, kind, settings) to those that are ``opened``, behind a store, which comes first.

    Raises DskdError where one cannot be opened.
    """
    if not (opened and opened[0].store):
        opened.insert(0, TemporaryStore())
    store, lost = opened[0].store, isinstance(opened[0], TemporaryStore)
    assert store is not None
    for name, kind, config in asked:
        target = kind.open_target(config, SinkContext(name, store.identity))
        opened.append(Delivered(name, store, target, lost))


class TemporaryStore(Sink):
    """A store in a temporary folder, for a run that was given none: it goes with the run, old records before that."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dskd-"))
        self.store: Store = Store(self._folder / "store.db")
        self._tidied = time.monotonic()

    def write(self, results: Sequence[Result]) -> None:
        """Stores them until they are delivered."""
        self.store.add([result if isinstance(result, Dropped) else result[1] for result in results])
        if time.monotonic() - self._tidied > TIDY_EVERY:
            self._tidy()

    def _tidy(self) -> None:
        least = self.store.newest_known - MOST_WAITING
        for sink, position in self.store.cursors().items():
            if position < least:
                _log.warning("sink %s: over %d results wait for it; the oldest are let go", sink, MOST_WAITING)
                self.store.advance(sink, least)
        self.store.prune(KEPT)
        self._tidied = time.monotonic()

    def close(self) -> None:
        """Deletes it."""
        self.store.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Delivered(Sink):
    """A target that a thread delivers to from the store. ``lost``: what is not delivered at the end goes with the store."""

    def __init__(self, name: str, store: Store, target: Target, lost: bool) -> None:
        self._delivery, self._lost = Delivery(name, store, target), lost
        self._delivery.start()

    def write(self, results: Sequence[Result]) -> None:
        """The store, which comes before it, wakes its thread."""

    def close(self) -> None:
        """Waits as long as records get through. Raises DskdError where some did not."""
        behind, end = -1, 0.0
        while left := self._delivery.status().behind:
            if left != behind:
                behind, end = left, time.monotonic() + PATIENCE
            elif time.monotonic() > end:
                break
            time.sleep(LOOK)
        status = self._delivery.status()
        self._delivery.stop()
        if status.behind:
            keep = "add --sink sqlite://FILE to keep them" if self._lost else "the same command delivers them later"
            why = status.last_error or status.detail
            raise DskdError(f"sink {status.name}: {status.behind} records were not delivered ({why}); {keep}")
