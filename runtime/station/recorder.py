"""Store first, then tell the line; but the line never waits long for a store that hangs.

What is inspected goes into a spool in memory. One thread commits the spool to the store and tries again for as long as
it takes; another waits for that and hands on to the outputs in order. It waits as long as a part's deadline allows,
``STORE_WAIT`` at least, and no longer than ``MOMENT`` once the store refuses. When the spool is full the station takes no
more frames, dropped ones become one record for each camera and kind, and answers are given and not stored. Only a kill
while the store hangs or refuses loses what the spool holds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dskd.runtime.backoff import Backoff
from dskd.runtime.errors import one_line
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Dropped, Entry, Frame, Inspection, no_op
from dskd.runtime.status import Health, Status
from dskd.runtime.store import Store, StoreError

STORE_WAIT = 0.05  # seconds an answer may wait for the store beyond its deadline
MOMENT = 0.5  # seconds that a store may refuse before answers go on without it: another thread's commit is no fault
LONGEST_WAIT = 2.0  # seconds, whatever the deadline: a disk that takes longer to sync is broken
SPOOL = 20_000  # records, some ten megabytes: minutes at full speed
MOST_FRAMES = 32  # pictures that wait to be handed on: some hundred megabytes at most
BATCH = 256  # records of one commit
STORE_PATIENCE = 0.25  # seconds one attempt waits for others that write; then the store counts as refusing
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts while the store refuses
TICK = 0.5  # seconds after which an idle thread shows that it lives
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """One record; for an inspection the frame it is about; for an answer when it is due (monotonic clock)."""

    record: Entry
    frame: Frame | None = None
    due: float = 0.0
    spooled: bool = True


class Recorder:
    """``hand_on`` gets every record once, in order, after it was stored or could not be in time. It must not block."""

    def __init__(self, store: Store, hand_on: Callable[[Sequence[Recorded]], None], spool: int = SPOOL) -> None:
        self._store, self._hand_on, self._limit = store, hand_on, spool
        self._change = threading.Condition()
        self._waiting: deque[Recorded] = deque()  # not handed on yet
        self._spool: deque[tuple[Entry, Callable[[], None]]] = deque()  # not stored yet
        self._unstorable: dict[tuple[str, Reason], list[Dropped]] = {}
        self._merged: dict[tuple[str, Reason], int] = {}
        self._stored = self._handed = self._frames = self._unstored_answers = self._taken = 0
        self._closing = False
        self.status: Status[Health] = Status("store", "ok", "takes records", log)
        self.beat = time.monotonic()
        self._threads = [
            threading.Thread(target=self._hand_over, name="recorder", daemon=True),
            threading.Thread(target=self._keep_storing, name="store-writer", daemon=True),
        ]

    def start(self) -> None:
        """Starts both threads."""
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether both threads run."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def spooled(self) -> int:
        """Records that are not in the store yet."""
        return len(self._spool)

    @property
    def full(self) -> bool:
        """Whether nothing more should be inspected."""
        return len(self._spool) >= self._limit

    @property
    def fault(self) -> str:
        """Why the store refuses, empty where it does not."""
        now = self.status.now
        return "" if now.state == "ok" else now.detail

    def await_room(self) -> None:
        """Waits where too many pictures are under way: outputs must not fill the memory."""
        with self._change:
            self._change.wait_for(lambda: self._frames < MOST_FRAMES or self._closing)

    def put(self, record: Entry, frame: Frame | None = None, due: float = 0.0) -> None:
        """Takes a record. Never waits."""
        with self._change:
            self._frames += frame is not None
            if isinstance(record, Dropped) and self.full:
                self._merge(record)
                return
            spooled = not (isinstance(record, Answer) and self.full)
            self._waiting.append(Recorded(record, frame, due, spooled))
            if spooled:
                self._keep(record, no_op if frame is None else frame.stored)
            self._unstored_answers += not spooled
            self._change.notify_all()

    def await_stored(self, timeout: float) -> bool:
        """Waits until all that was put so far is stored; false where it is not in time, or the store refuses for long."""
        with self._change:
            upto = self._taken
            self._change.wait_for(lambda: self._stored >= upto or self._refuses(timeout) or self._closing, timeout)
            return self._stored >= upto

    def _refuses(self, seconds: float) -> bool:
        """Whether the store has refused for that long: a moment's refusal is waited for."""
        now = self.status.now
        return now.state != "ok" and now.age > seconds

    def close(self, timeout: float) -> int:
        """Hands on and stores what is left; returns how many records the store did not take in time. They are logged."""
        with self._change:
            self._closing = True
            self._change.notify_all()
            done = self._change.wait_for(lambda: not self._spool and not self._waiting, timeout)
            left = [] if done else [record for record, _ in self._spool]
            self._spool.clear()
            self._change.notify_all()
        for thread in self._threads:
            if thread.ident is not None:  # a station that could not start
                thread.join(timeout)
        for record in left:
            log.error("not stored: %s", record.as_json() if isinstance(record, Inspection) else record)
        return len(left)

    def _merge(self, dropped: Dropped) -> None:
        """One record for many frames: a camera goes on while nothing can be stored, and memory is finite."""
        key = dropped.source, dropped.reason
        ends = self._unstorable.setdefault(key, [dropped, dropped])
        ends[1] = dropped
        self._merged[key] = self._merged.get(key, 0) + 1

    def _unmerge(self) -> None:
        for key, (first, last) in self._unstorable.items():
            name = first.id if first is last else f"{first.id} to {last.id}"
            merged = replace(first, id=name, frames=self._merged[key])
            self._waiting.append(Recorded(merged))
            self._keep(merged, no_op)
        self._unstorable.clear()
        self._merged.clear()
        if self._unstored_answers:
            log.error("store: %d answers were given while it was full, and are not stored", self._unstored_answers)
        self._unstored_answers = 0

    def _keep(self, record: Entry, stored: Callable[[], None]) -> None:
        if isinstance(record, Inspection):
            record = replace(record, anomaly_map=None)
        self._taken += 1
        self._spool.append((record, record.stored if isinstance(record, Dropped) else stored))

    def _hand_over(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing, TICK)
                self.beat = time.monotonic()
                if not self._waiting:
                    if self._closing:
                        return
                    continue
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                last = self._handed + sum(entry.spooled for entry in batch)
                due = min((entry.due for entry in batch if isinstance(entry.record, Answer)), default=0.0)
                wait = max(STORE_WAIT, min(due - time.monotonic(), LONGEST_WAIT))
                self._await_store(last, time.monotonic() + wait)
            try:
                self._hand_on(batch)
            except Exception:  # an output's fault must not cost the others their answers
                log.exception("outputs: unexpected")
            with self._change:
                self._handed = last
                self._frames -= sum(entry.frame is not None for entry in batch)
                self._change.notify_all()

    def _await_store(self, upto: int, end: float) -> None:
        """Waits until so much is stored, until ``end`` (monotonic), or until the store has refused for a moment."""
        while self._stored < upto and not self._refuses(MOMENT) and (left := end - time.monotonic()) > 0:
            self._change.wait(min(left, MOMENT / 5) if self.fault else left)

    def _keep_storing(self) -> None:
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            with self._change:
                self._change.wait_for(lambda: self._spool or self._closing, TICK)
                batch = [self._spool[k] for k in range(min(BATCH, len(self._spool)))]
                if not batch:
                    if self._closing:
                        return
                    continue
            try:
                self._store.add([record for record, _ in batch], STORE_PATIENCE)
            except StoreError as error:
                self._enter("fault", one_line(str(error)))
                with self._change:
                    self._change.wait_for(lambda: self._closing, backoff.delay())
                continue
            backoff.reset()
            self._enter("ok", "takes records")
            for _, stored in batch:
                stored()
            with self._change:
                for _ in range(min(len(batch), len(self._spool))):
                    self._spool.popleft()
                self._stored += len(batch)
                if (self._unstorable or self._unstored_answers) and not self.full:
                    self._unmerge()
                self._change.notify_all()

    def _enter(self, health: Health, detail: str) -> None:
        if self.status.enter(health, detail):
            with self._change:
                self._change.notify_all()
