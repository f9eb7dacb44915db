"""The store's file: its tables, who may open it, and what a failure of SQLite means."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from urllib.parse import quote

from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.imports import version as program_version
from dskd.runtime.store.schema import APPLICATION_ID, FIRST, WRITTEN_BY, newest_version, number, prepare

WATCH = 0.1  # seconds
LEAST_FREE = 1 << 20  # bytes: SQLite says "disk I/O error" where it cannot grow its shared memory on a full disk
LARGEST_LOG = 64 << 20  # bytes that the write-ahead log keeps after a long reader made it grow

_SIGNS_OF_DAMAGE = ("malformed", "not a database", "decode to UTF-8", "corrupt")

FAILURES = (sqlite3.Error, MemoryError, UnicodeDecodeError)  # the last: what SQLite says of a damaged name is no text


class StoreError(DskdError):
    """The store did not take or give what was asked; nothing of it was written."""


class StoreLocked(StoreError):
    """Somebody else holds the store; trying again soon is worth it."""


class StoreFull(StoreError):
    """The disk has no room; trying again is worth it once something was deleted."""


class StoreBroken(StoreError):
    """The file cannot be used: damaged, moved away, its rights changed, its disk gone."""


class StoreDamaged(StoreBroken):
    """The file holds what SQLite or this program cannot have written."""


def connect(path: Path, patience: float) -> sqlite3.Connection:
    """Opens ``path`` for writing, with tables of the newest version. Raises StoreError; a foreign file stays as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, isolation_level=None, timeout=patience, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreBroken(f"store {path}: cannot be opened ({error}); check the path and its rights") from error
    with _closed_on_failure(database, path):
        _refuse_foreign(database, path)
        if database.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise StoreBroken(f"store {path}: its file system takes no write-ahead log; name a local disk")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"PRAGMA journal_size_limit={LARGEST_LOG}")
        database.execute("PRAGMA cell_size_check=ON")
        prepare(database, program_version)
    return database


def connect_to_read(path: Path, patience: float) -> sqlite3.Connection:
    """Opens an existing store that this connection cannot change."""
    try:
        database = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro",
            uri=True,
            isolation_level=None,
            timeout=patience,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise StoreBroken(f"store {path}: cannot be opened ({error}); check the path and its rights") from error
    with _closed_on_failure(database, path):
        version = _refuse_foreign(database, path)
        if not version:
            raise StoreBroken(f"store {path}: holds no records; name the file that a station or --sink sqlite:// wrote")
        if version < newest_version():
            raise StoreBroken(
                f"store {path}: was written by an earlier dskd; open it once with dskd station or dskd runtime, which brings it up to date"
            )
        database.execute("PRAGMA cell_size_check=ON")
    return database


@contextmanager
def _closed_on_failure(database: sqlite3.Connection, path: Path) -> Iterator[None]:
    """What fails inside closes the connection; SQLite's own complaints become the store's."""
    try:
        yield
    except FAILURES as error:
        database.close()
        raise meaning(error, path, "is no usable SQLite file") from error
    except BaseException:
        database.close()
        raise


def meaning(error: Exception, path: Path, what: str) -> StoreError:
    """What a failure of SQLite asks of the caller: to wait, to make room, or to look at the file."""
    if isinstance(error, UnicodeDecodeError):
        return StoreDamaged(f"store {path}: {what} (a name in it is no text); check the disk, or move the file away")
    text = one_line(str(error)) or "out of memory"
    if "locked" in text:
        return StoreLocked(f"store {path}: {what}: another program holds it ({text}); end that program's transaction")
    if "disk is full" in text or ("disk I/O" in text and _no_room(path)):
        return StoreFull(f"store {path}: {what}: the disk is full; delete something")
    kind = StoreDamaged if any(sign in text for sign in _SIGNS_OF_DAMAGE) else StoreBroken
    return kind(f"store {path}: {what} ({text}); check the disk, or move the file away and name another")


def quick_check(database: sqlite3.Connection, stopping: threading.Event, seconds: float = inf) -> None:
    """SQLite's own look at the whole file. Raises sqlite3.DatabaseError for what is wrong in it.

    Ends without a word after ``seconds``, or once ``stopping`` is set.
    """
    done, end = threading.Event(), time.monotonic() + seconds

    def watch() -> None:
        while not done.wait(WATCH):
            if stopping.is_set() or time.monotonic() >= end:
                database.interrupt()

    watcher = threading.Thread(target=watch, name="store-check", daemon=True)
    watcher.start()
    try:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        return
    finally:
        done.set()
        watcher.join()
    if found != "ok":
        raise sqlite3.DatabaseError(f"malformed: {found}")


def _no_room(path: Path) -> bool:
    try:
        free = os.statvfs(path.parent)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < LEAST_FREE


def _refuse_foreign(database: sqlite3.Connection, path: Path) -> int:
    """Reads only: another program's file must stay as it is. Returns the version of the tables, 0 for a new file."""
    owner, version = number(database, "PRAGMA application_id"), number(database, "PRAGMA user_version")
    if owner != APPLICATION_ID:
        if owner or version or number(database, "SELECT count(*) FROM sqlite_master"):
            raise StoreBroken(f"store {path}: holds another program's tables; name another file")
        return 0
    if version < FIRST:
        raise StoreBroken(f"store {path}: its tables (version {version}) are older than any release; name another file")
    if version > newest_version():
        raise StoreBroken(
            f"store {path}: needs dskd {_written_by(database)} or newer: its tables are of version {version}, and this "
            f"dskd {program_version()} knows them up to {newest_version()}; update dskd, or name another file"
        )
    return version


def _written_by(database: sqlite3.Connection) -> str:
    try:
        row = database.execute("SELECT value FROM notes WHERE name = ?", (WRITTEN_BY,)).fetchone()
    except sqlite3.Error:
        row = None
    return one_line(str(row[0]))[:40] if row else "of a later version"
