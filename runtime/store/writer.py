"""Writing to the store.

Write-ahead log with synchronous=FULL: when ``add`` returns, its records survive SIGKILL and a power cut. A cursor is
not synced on its own: a power cut may make a sink deliver some records twice, never lose one.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

from dskd.runtime.errors import one_line
from dskd.runtime.result import Announced, Answer, Dropped, Entry, Inspection
from dskd.runtime.store.file import (
    FAILURES,
    StoreBroken,
    StoreDamaged,
    StoreError,
    StoreLocked,
    connect,
    meaning,
    quick_check,
)
from dskd.runtime.store.reader import StoreReader
from dskd.runtime.store.records import COLUMNS, checksum, outcomes, plain_text, row_of
from dskd.runtime.store.repair import CURSORS_LOST, finish_interrupted, is_store, repair, verify
from dskd.runtime.store.retention import prune_oldest
from dskd.runtime.store.schema import GIVEN, number
from dskd.runtime.store.search import Label
from dskd.runtime.wall_clock import Span

OPEN_PATIENCE = 10.0  # seconds to wait for another program at the start
LOG_PATIENCE = 1.0  # seconds that those who read have to give their connections back
WRITE_PATIENCE = 5.0  # seconds for everything that is not on the way from camera to verdict
START_CHECK = 2.0  # seconds of a start that may go into looking for damage; the rest is looked at later
CHECKED = 100  # records looked at before a pause
REPAIR_PAUSE = 60.0  # seconds in which a file is not repaired twice

_COLUMNS = ("id", *COLUMNS, "checksum")
_INSERT = f"INSERT INTO records ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' for _ in _COLUMNS)})"  # noqa: S608
_COUNT = (
    "INSERT INTO quarters VALUES (?, ?, ?, ?) "
    "ON CONFLICT (start, source, outcome) DO UPDATE SET number = number + excluded.number"
)
log = logging.getLogger(__name__)


class Store(StoreReader):
    """The store opened to write, by one process. Any thread may call any method.

    Every method raises StoreLocked, StoreFull or StoreBroken; then nothing of the call was written and it may be
    tried again: a broken file is opened anew each time. A damaged one is moved aside and what can be read of it copied
    into a new one, which ``repaired`` tells. A file without our mark is another program's, unless ``own`` says that
    whatever lies there is to be a store.
    """

    def __init__(self, path: Path, own: bool = False) -> None:
        self.path, self._own = path, own
        self.repaired, self._repaired_at = "", -REPAIR_PAUSE
        self._cursors_lost = False
        self._damaged = False  # somebody met damage; looked at before anything else is written
        self._write_lock = threading.Lock()
        self._news = threading.Condition()
        self._database: sqlite3.Connection | None = None
        self._inode = (0, 0)
        self._log_inodes = [(0, 0), (0, 0)]  # of the log and of its index
        self._newest = 0
        self._sinks: set[str] = set()  # asked for by this process: they get cursors in a new file too
        self._open(OPEN_PATIENCE)
        try:
            try:
                self._begin_reading()
            except StoreDamaged:
                self._close_writer()
                self._damaged = True
                self._open(OPEN_PATIENCE)
                self._begin_reading()
        except BaseException:
            self._close_writer()
            raise

    def _begin_reading(self) -> None:
        super().__init__(self.path)
        self._newest = self._last()

    def add(self, records: Sequence[Entry], patience: float = WRITE_PATIENCE) -> list[int]:
        """Stores ``records`` in one commit and returns their ids, in order; 0 for one that is only announced.

        Waits at most ``patience`` seconds for others that write (the disk's own time to sync comes on top). An answer
        is tied to its inspection, which must come before it, in this call or an earlier one.
        """
        if not records:
            return []
        with self._transaction(patience) as database:
            following = 1 + max(number(database, GIVEN), 0)
            ids: list[int] = []
            inspections: dict[tuple[str, str, float], int] = {}
            for record in records:
                if isinstance(record, Announced):
                    values = plain_text(record.camera), plain_text(record.part), record.triggered
                    database.execute("INSERT OR IGNORE INTO announced VALUES (?, ?, ?)", values)
                    ids.append(0)
                    continue
                if isinstance(record, Answer):
                    values = plain_text(record.camera), plain_text(record.part), record.triggered
                    database.execute("DELETE FROM announced WHERE camera = ? AND part = ? AND triggered = ?", values)
                row = row_of(record, _inspection_of(record, inspections, database))
                database.execute(_INSERT, (following, *row, checksum(following, row)))
                ids.append(following)
                following += 1
                if isinstance(record, Inspection):
                    inspections[record.source, record.frame, record.captured] = ids[-1]
            database.executemany(_COUNT, [(*key, number) for key, number in outcomes(records).items()])
        with self._news:
            self._newest = max(self._newest, *ids)
            self._news.notify_all()
        return ids

    @property
    def newest_known(self) -> int:
        """The largest id that this process added or found at the start; costs nothing."""
        return self._newest

    def wait(self, cursor: int, timeout: float, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Waits until there are records over ``cursor``; false where none came within ``timeout`` seconds.

        After ``wake`` it also ends where ``stopping`` says so.
        """
        with self._news:
            self._news.wait_for(lambda: self._newest > cursor or stopping(), timeout)
            return self._newest > cursor

    def wake(self) -> None:
        """Lets all waiting threads see that they shall stop."""
        with self._news:
            self._news.notify_all()

    def cursor(self, sink: str) -> int:
        """The id up to which ``sink`` has delivered. A sink never seen before starts after the newest record."""
        with self._transaction(WRITE_PATIENCE) as database:
            start = 0 if self._cursors_lost else number(database, GIVEN)
            database.execute("INSERT INTO cursors VALUES (?, ?) ON CONFLICT (sink) DO NOTHING", (sink, start))
            self._sinks.add(sink)
            return number(database, "SELECT position FROM cursors WHERE sink = ?", (sink,))

    def advance(self, sink: str, position: int) -> None:
        """Says that ``sink`` has delivered all records up to the id ``position``."""
        with self._transaction(WRITE_PATIENCE, durable=False) as database:
            database.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (sink, position))

    def forget_sink(self, sink: str) -> None:
        """Removes the cursor of a sink that exists no more, which would hold all later records for ever."""
        with self._transaction(WRITE_PATIENCE) as database:
            database.execute("DELETE FROM cursors WHERE sink = ?", (sink,))
            self._sinks.discard(sink)

    def label(self, record: int, label: Label | None, who: str, defect: str = "", note: str = "") -> None:
        """Keeps what ``who`` said about an inspection, in the audit log too. A later label takes an earlier one's place.

        ``defect`` names the kind of defect. None takes the label away.
        """
        now = time.time()
        told = ", ".join(filter(None, ["no label" if label is None else label.value, defect, note]))
        with self._transaction(WRITE_PATIENCE) as database:
            database.execute("DELETE FROM labels WHERE record = ?", (record,))
            if label is not None:
                said = plain_text(who), now, plain_text(defect), plain_text(note)
                database.execute(
                    "INSERT INTO labels (record, label, who, at, defect, note) VALUES (?, ?, ?, ?, ?, ?)",
                    (record, label.value, *said),
                )
            _audit(database, now, who, "label", f"record {record}: {told}")

    def audit(self, who: str, action: str, detail: str) -> None:
        """Appends to the audit log."""
        with self._transaction(WRITE_PATIENCE) as database:
            _audit(database, time.time(), who, action, detail)

    def remember(self, name: str, value: str) -> None:
        """Keeps a small text under a name."""
        with self._transaction(WRITE_PATIENCE) as database:
            database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def prune(self, keep: int | None = None, before: float | None = None, spans: Sequence[Span] = ()) -> int:
        """Deletes old records and returns how many: all but the newest ``keep``, those captured ``before``, or both.

        Records of ``spans`` carry times that mean nothing; their age is that of the span. What a sink has not delivered
        yet stays, and so does what a person labelled. Counts and audit log stay. Takes its time, so that inspection does
        not notice.
        """
        deleted = 0
        while True:
            begun = time.monotonic()
            with self._transaction(WRITE_PATIENCE, durable=False) as database:  # after a power cut they go next time
                found = prune_oldest(database, keep, before, spans)
            deleted += found
            if not found:
                return deleted
            time.sleep(time.monotonic() - begun)  # a lock is not fair: whoever waits for it gets it now

    def close(self) -> None:
        """Folds the log into the file and releases it."""
        if self._cursors_lost:  # by now every sink has its cursor
            with suppress(StoreError), self._transaction(WRITE_PATIENCE) as database:
                database.execute("DELETE FROM notes WHERE name = ?", (CURSORS_LOST,))
        super().close()
        with self._write_lock:
            self._close_writer()

    def check(self, stopping: threading.Event) -> None:
        """Looks through the whole file, with pauses, for hours where it is large. Damage is repaired by the next write.

        Raises StoreDamaged where there is some. Ends early once ``stopping`` is set.
        """
        try:
            with self._connection() as connection:
                quick_check(connection, stopping)
        except FAILURES as error:
            raise self._noticed(meaning(error, self.path, "is damaged")) from error
        last, begun = 0, time.monotonic()
        while rows := self.after(last, CHECKED):
            last = rows[-1].id
            if stopping.wait(time.monotonic() - begun):  # half of the time is everybody else's
                return
            begun = time.monotonic()

    def _open(self, patience: float) -> None:
        """Opens the file. A damaged one is repaired before, where it is ours."""
        finish_interrupted(self.path)
        try:
            self._database = self._opened(patience)
        except StoreDamaged as error:
            if not self._own and not is_store(self.path):
                raise StoreBroken(str(error)) from error
            self._repair(error, patience)
            self._database = connect(self.path, patience)
        self._damaged = False
        lost = self._database.execute("SELECT 1 FROM notes WHERE name = ?", (CURSORS_LOST,)).fetchone()
        self._cursors_lost = lost is not None
        self._inode, self._log_inodes = _inode(self.path), self._present_log()

    def _present_log(self) -> list[tuple[int, int]]:
        return [_inode(Path(f"{self.path}{end}")) for end in ("-wal", "-shm")]

    def _find_log_again(self, patience: float) -> None:
        """Where the log is not the one at its path any more, what it holds goes into the file, and all is opened anew.

        Else SQLite would go on with a file that has no name: lost at a kill, and not to be read by anybody new.
        """
        known = zip(self._log_inodes, self._present_log(), strict=True)
        if all(before in ((0, 0), now) for before, now in known):
            return
        log.warning("store %s: its log was moved or deleted while open; the store is opened anew", self.path)
        with self._without_readers(patience):
            assert self._database is not None
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._close_writer()

    def _opened(self, patience: float) -> sqlite3.Connection:
        """The file, looked at for as long as a start may take; where damage was met before, all of it."""
        database = connect(self.path, patience)
        try:
            quick_check(database, threading.Event(), inf if self._damaged else START_CHECK)
            if self._damaged:
                verify(database)
        except FAILURES as error:
            database.close()
            raise meaning(error, self.path, "is damaged") from error
        return database

    def _repair(self, damage: StoreDamaged, patience: float) -> None:
        if time.monotonic() - self._repaired_at < REPAIR_PAUSE:
            raise damage
        self._repaired_at = time.monotonic()
        log.error("%s; it is repaired now", one_line(str(damage)))
        self.repaired = repair(self.path, self._newest, patience)
        log.warning("store %s: %s", self.path, self.repaired)

    def _noticed(self, failure: StoreError) -> StoreError:
        self._damaged |= isinstance(failure, StoreDamaged)
        return failure

    def _close_writer(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    @contextmanager
    def _transaction(self, patience: float, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One commit. Waits for the other threads and for other programs ``patience`` seconds in all."""
        end = time.monotonic() + patience
        if not self._write_lock.acquire(timeout=patience):
            raise StoreLocked(f"store {self.path}: another thread writes for over {patience:g} seconds; check the disk")
        try:
            database = self._ready(max(end - time.monotonic(), 0))
            database.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
        except FAILURES as error:
            failure = self._noticed(meaning(error, self.path, "cannot store"))
            self._roll_back(broken=isinstance(failure, StoreBroken))
            raise failure from error
        except BaseException:
            self._roll_back(broken=False)
            raise
        finally:
            self._write_lock.release()

    def _ready(self, patience: float) -> sqlite3.Connection:
        """The connection, opened anew where it broke or where its file is no longer the one at the path."""
        if self._closed:
            raise StoreBroken(f"store {self.path}: is closed; open it again")
        if self._damaged:
            self._close_writer()
            with self._idle_lock:
                self._forget_connections()
        if self._database is not None and _inode(self.path) != self._inode:
            self._close_writer()
            with self._idle_lock:
                self._forget_connections()
            raise StoreBroken(f"store {self.path}: was moved or deleted while open; a new one is begun")
        if self._database is not None:
            self._find_log_again(max(patience, LOG_PATIENCE))
        if self._database is None:
            self._open(patience)
            self._meet_another_file()
        assert self._database is not None
        self._database.execute(f"PRAGMA busy_timeout={int(1000 * patience)}")
        return self._database

    def _meet_another_file(self) -> None:
        """Where the file is not the one that was open before, ids begin anew, and all sinks are to hear of all of it."""
        assert self._database is not None
        rows = [(sink,) for sink in self._sinks]
        self._database.executemany("INSERT INTO cursors VALUES (?, 0) ON CONFLICT (sink) DO NOTHING", rows)
        before = self.identity
        self._meet()
        if self.identity != before:
            self._newest = self._last()

    def _last(self) -> int:
        """The id of the last record, 0 where there is none."""
        return max(self._ask("SELECT coalesce(max(id), 0) FROM records", (), lambda row: int(row[0])), default=0)

    def _roll_back(self, broken: bool) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
        if broken:
            self._close_writer()


def _inode(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _inspection_of(
    record: Inspection | Dropped | Answer, fresh: dict[tuple[str, str, float], int], database: sqlite3.Connection
) -> int | None:
    """The id of the inspection that an answer rests on."""
    if not isinstance(record, Answer) or record.inspection is None:
        return None
    key = record.inspection.source, record.inspection.frame, record.inspection.captured
    if key in fresh:
        return fresh[key]
    question = "SELECT max(id) FROM records WHERE captured = ? AND kind = 'inspection' AND source = ? AND frame = ?"
    values = key[2], plain_text(key[0]), plain_text(key[1])
    found: int | None = database.execute(question, values).fetchone()[0]
    return found


def _audit(database: sqlite3.Connection, at: float, who: str, action: str, detail: str) -> None:
    row = at, plain_text(who), plain_text(action), plain_text(detail)
    database.execute("INSERT INTO audit (at, who, action, detail) VALUES (?, ?, ?, ?)", row)
