"""The store's file while it is open to write: one transaction at a time, a log that may be taken away, damage, repair."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

from dskd.runtime.errors import one_line
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
from dskd.runtime.store.repair import CURSORS_LOST, finish_interrupted, is_store, repair, verify

OPEN_PATIENCE = 10.0  # seconds to wait for another program at the start
LOG_PATIENCE = 1.0  # seconds that those who read have to give their connections back
WRITE_PATIENCE = 5.0  # seconds for everything that is not on the way from camera to verdict
START_CHECK = 2.0  # seconds of a start that may go into looking for damage; the rest is looked at later
CHECKED = 100  # records looked at before a pause
NO_FILE = 0, 0  # device and inode of what is not there
REOPEN_PAUSE = 5.0  # seconds in which a store that cannot be read is not opened anew twice
REPAIR_PAUSE = 60.0  # seconds in which a file is not repaired twice
log = logging.getLogger(__name__)


class WritableFile(StoreReader):
    """Opens, watches and repairs the file; ``_transaction`` is the one way to change what is in it."""

    def __init__(self, path: Path, own: bool = False) -> None:
        self.path, self._own = path, own
        self.repaired, self._repaired_at = "", -REPAIR_PAUSE
        self._cursors_lost = False
        self._unreadable, self._reopened_at = False, -REOPEN_PAUSE  # readers fail though the file is sound
        self._damaged = False  # somebody met damage; looked at before anything else is written
        self._write_lock = threading.Lock()
        self._news = threading.Condition()
        self._database: sqlite3.Connection | None = None
        self._inode = NO_FILE
        self._log_inodes = [NO_FILE, NO_FILE]  # of the log and of its index
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
        self._damaged = self._unreadable = False
        lost = self._database.execute("SELECT 1 FROM notes WHERE name = ?", (CURSORS_LOST,)).fetchone()
        self._cursors_lost = lost is not None
        self._inode, self._log_inodes = _inode(self.path), self._present_log()

    def _present_log(self) -> list[tuple[int, int]]:
        return [_inode(Path(f"{self.path}{end}")) for end in ("-wal", "-shm")]

    def _find_log_again(self, patience: float) -> None:
        """Where the log is not the one at its path any more, what it holds goes into the file, and all is opened anew.

        Else SQLite would go on with a file that has no name: lost at a kill, and not to be read by anybody new. A log that was
        exchanged while SQLite opened it looks right; it shows by readers who fail.
        """
        unreadable = self._unreadable and time.monotonic() - self._reopened_at > REOPEN_PAUSE
        there = all(_still_there(*pair) for pair in zip(self._log_inodes, self._present_log(), strict=True))
        if there and not unreadable:
            return
        self._reopened_at = time.monotonic()
        found = "cannot be read while it is open" if there else "its log was moved or deleted while open"
        log.warning("store %s: %s; the store is opened anew", self.path, found)
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
        self._unreadable |= isinstance(failure, StoreBroken)
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
        if self._database is not None and not _still_there(self._inode, _inode(self.path)):
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
        return NO_FILE
    return status.st_dev, status.st_ino


def _still_there(opened: tuple[int, int], now: tuple[int, int]) -> bool:
    """Whether a file that is open lies at its path; not where it was gone before it could be looked at."""
    return opened == now != NO_FILE
