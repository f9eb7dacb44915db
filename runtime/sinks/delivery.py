"""A thread per network sink that delivers records from the store: in order, at least once, through any outage.

Inspection writes to the store and goes on; how slow or dead a receiver is shows only in how far its sink is behind.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dskd.runtime.backoff import Backoff
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.status import Health, Status
from dskd.runtime.store import Record, Store

BATCH = 100  # records read from the store at once
IDLE = 0.5  # seconds between looks at an idle connection
KEEP_EVERY = 1.0  # seconds after which progress is written down: a crash repeats at most what came since
STEADY = 10.0  # seconds a connection must hold before its next loss counts as a first one
LARGEST_PAYLOAD = 65_536  # bytes; a frame with thousands of regions is told with its worst ones

_log = logging.getLogger(__name__)


class DeliveryFailed(DskdError):
    """The receiver did not take it now. ``hopeless`` where waiting alone will not mend it, such as a wrong password."""

    def __init__(self, message: str, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class Done(Protocol):
    """Called for each record that is off our hands, in order; ``refused`` says why the receiver will never take it."""

    def __call__(self, record: Record, refused: str = "") -> None:
        """Takes note."""
        ...


class Target(Protocol):
    """A receiver. All but ``interrupt`` are called from one thread; all but ``close`` may raise DeliveryFailed."""

    kind: str

    def open(self) -> None:
        """Connects. Called again after each failure, with ``close`` before it."""
        ...

    def wants(self, record: Record) -> bool:
        """Whether the receiver is to hear of this record."""
        ...

    def deliver(self, records: Sequence[Record], done: Done) -> None:
        """Delivers in order and calls ``done`` for each record that the receiver has acknowledged."""
        ...

    def check(self) -> None:
        """Called while there is nothing to deliver; raises where the connection is gone."""
        ...

    def interrupt(self) -> None:
        """From another thread: ends what is under way soon, for good."""
        ...

    def close(self) -> None:
        """Releases the connection; may be called again."""
        ...


@dataclass(frozen=True)
class SinkStatus:
    """How a sink is. ``since`` is seconds since the epoch; ``behind`` counts records in the store not yet delivered.

    ``delivered`` and ``refused`` count since start; ``refused`` are records that the receiver will never take, or, of
    the archive, pictures that found no place in its queue.
    """

    name: str
    kind: str
    health: Health
    detail: str
    since: float
    delivered: int
    refused: int
    behind: int
    last_error: str


class Delivery:
    """Delivers to ``target`` under the cursor ``name``, from the moment of construction on.

    Raises StoreError where the store does not give a cursor.
    """

    def __init__(self, name: str, store: Store, target: Target, backoff: Backoff | None = None) -> None:
        self.name, self.target, self._store = name, target, store
        self._backoff = backoff or Backoff(first=0.5, most=30.0)
        self._position = self._kept = 0
        self._kept_at = time.monotonic()
        self._identity = ""
        self._begin()
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards what follows
        self._status: Status[Health] = Status(f"sink {name}", "warning", "not connected yet", _log)
        self._last_error = ""
        self._delivered = self._refused = 0
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)

    def start(self) -> None:
        """Starts the thread; returns at once. A receiver that is absent is waited for."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """Ends after the record under way; whether it did in time. What is left stays in the store for the next start."""
        self._stopping.set()
        self._store.wake()
        self.target.interrupt()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def status(self) -> SinkStatus:
        """The present state."""
        with self._lock:
            behind, now = max(self._store.newest_known - self._position, 0), self._status.now
            return SinkStatus(
                self.name, self.target.kind, now.state, now.detail, now.since, self._delivered, self._refused,
                behind, self._last_error,
            )  # fmt: skip

    # --------------------------------------------------------------------------------------------- the sink's thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._connection()
            except Exception as error:  # a client library may raise anything; the thread must outlive it
                if self._stopping.is_set():
                    break
                if time.monotonic() - started > STEADY:
                    self._backoff.reset()
                delay = self._backoff.delay()
                self._failed(error, delay)
                self._stopping.wait(delay)
        self._keep(now=True)
        self._status.enter(self._status.now.state, "stopped")

    def _connection(self) -> None:
        """Delivers until something fails or ``stop`` is called."""
        try:
            self.target.open()
            self._status.enter("ok", "connected")
            while not self._stopping.is_set():
                if self._store.identity != self._identity:  # the file was moved away and another begun
                    self._begin()
                records = self._store.after(self._position, BATCH)
                if not records:
                    self._keep(now=True)
                    self._store.wait(self._position, IDLE, self._stopping.is_set)
                    self.target.check()
                    continue
                wanted = [record for record in records if self.target.wants(record)]
                if wanted:
                    self.target.deliver(wanted, self._done)
                if not self._stopping.is_set():
                    self._position = records[-1].id  # past those that the target did not want
                    self._keep()
        finally:
            self._keep(now=True)
            self.target.close()

    def _begin(self) -> None:
        self._position = self._kept = self._store.cursor(self.name)
        self._identity = self._store.identity
        self._kept_at = time.monotonic()

    def _done(self, record: Record, refused: str = "") -> None:
        with self._lock:
            self._position = record.id
            self._delivered += not refused
            self._refused += bool(refused)
        if refused:
            _log.warning("sink %s: record %s refused for good: %s", self.name, record.key, one_line(refused))
        self._backoff.reset()
        self._keep()

    def _keep(self, now: bool = False) -> None:
        """Writes the position down. Where the store does not take it, a later time will do."""
        if self._position == self._kept or (not now and time.monotonic() - self._kept_at < KEEP_EVERY):
            return
        try:
            self._store.advance(self.name, self._position)
        except DskdError as error:
            _log.debug("sink %s: position not kept: %s", self.name, one_line(str(error)))
            return
        self._kept, self._kept_at = self._position, time.monotonic()

    def _failed(self, error: Exception, delay: float) -> None:
        known = isinstance(error, DskdError)
        reason = one_line(str(error) if known else f"{type(error).__name__}: {error}")
        hopeless = not known or (isinstance(error, DeliveryFailed) and error.hopeless)
        with self._lock:
            self._last_error = reason
        self._status.enter("fault" if hopeless else "warning", reason, f"next try in {delay:.1f} s, nothing is lost")


def payload(record: Record, most: int = LARGEST_PAYLOAD) -> bytes:
    """The record as JSON of at most ``most`` bytes: regions beyond that are left out, the worst stay, and it says so."""
    fields = record.as_dict()
    data = json.dumps(fields, allow_nan=False).encode()
    kept = list(record.regions)
    while len(data) > most and kept:
        kept = kept[: len(kept) // 2]
        fields["regions"] = [{"box": list(r.box), "area": r.area, "peak": r.peak} for r in kept]
        fields["regions_left_out"] = len(record.regions) - len(kept)
        data = json.dumps(fields, allow_nan=False).encode()
    return data
