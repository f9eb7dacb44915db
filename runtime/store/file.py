"""The store's file: its tables, who may open it, and what a failure of SQLite means."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from dskd.runtime.errors import DskdError

SCHEMA_VERSION = 2
APPLICATION_ID = 0x44534B44  # "DSKD" in ASCII: says whose file it is before anything in it is touched
LEAST_FREE = 1 << 20  # bytes: SQLite says "disk I/O error" where it cannot grow its shared memory on a full disk
LARGEST_LOG = 64 << 20  # bytes that the write-ahead log keeps after a long reader made it grow

_SCHEMA = """
CREATE TABLE records (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, source TEXT, frame TEXT, captured REAL, part TEXT,
    verdict TEXT, score REAL, threshold REAL, regions TEXT, timings_ms TEXT, bundle TEXT, backend TEXT, reason TEXT,
    triggered REAL, answered REAL, inspection INTEGER);
CREATE INDEX records_captured ON records (captured);
CREATE INDEX records_verdict ON records (kind, verdict);
CREATE INDEX records_part ON records (part) WHERE part IS NOT NULL;
CREATE VIEW inspections AS SELECT id, source, frame, captured, verdict, score, threshold, regions, timings_ms, bundle,
    backend, part FROM records WHERE kind = 'inspection';
CREATE VIEW dropped AS SELECT id, source, frame, captured, reason, part FROM records WHERE kind = 'dropped';
CREATE VIEW answers AS SELECT id, source AS camera, part, verdict, reason, triggered, answered, inspection
    FROM records WHERE kind = 'answer';
CREATE TABLE quarters (
    start INTEGER NOT NULL, source TEXT NOT NULL, outcome TEXT NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (start, source, outcome)) WITHOUT ROWID;
CREATE TABLE cursors (sink TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE labels (record INTEGER PRIMARY KEY, label TEXT NOT NULL, who TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

# Parts that were announced and not answered yet; whatever stands here at a start was under way at a kill.
_ANNOUNCED = """CREATE TABLE IF NOT EXISTS announced (
    camera TEXT NOT NULL, part TEXT NOT NULL, triggered REAL NOT NULL, PRIMARY KEY (camera, part, triggered)
    ) WITHOUT ROWID"""


class StoreError(DskdError):
    """The store did not take or give what was asked; nothing of it was written."""


class StoreLocked(StoreError):
    """Somebody else holds the store; trying again soon is worth it."""


class StoreFull(StoreError):
    """The disk has no room; trying again is worth it once something was deleted."""


class StoreBroken(StoreError):
    """The file cannot be used: damaged, moved away, its rights changed, its disk gone."""


def connect(path: Path, patience: float) -> sqlite3.Connection:
    """Opens ``path`` for writing and makes a new file's tables. Raises DskdError where the file is somebody else's."""
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
        _prepare(database)
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
        _refuse_foreign(database, path)
        if _number(database, "PRAGMA application_id") != APPLICATION_ID:
            raise StoreBroken(f"store {path}: holds no records; name the file that a station or --sink sqlite:// wrote")
    return database


@contextmanager
def _closed_on_failure(database: sqlite3.Connection, path: Path) -> Iterator[None]:
    """What fails inside closes the connection; SQLite's own complaints become the store's."""
    try:
        yield
    except sqlite3.Error as error:
        database.close()
        raise meaning(error, path, "is no usable SQLite file") from error
    except BaseException:
        database.close()
        raise


def meaning(error: sqlite3.Error, path: Path, what: str) -> StoreError:
    """What a failure of SQLite asks of the caller: to wait, to make room, or to look at the file."""
    text = str(error)
    if "locked" in text:
        return StoreLocked(f"store {path}: {what}: another program holds it ({text}); end that program's transaction")
    if "disk is full" in text or ("disk I/O" in text and _no_room(path)):
        return StoreFull(f"store {path}: {what}: the disk is full; delete something")
    return StoreBroken(f"store {path}: {what} ({text}); check the disk, or move the file away and name another")


def _no_room(path: Path) -> bool:
    try:
        free = os.statvfs(path.parent)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < LEAST_FREE


def _number(database: sqlite3.Connection, question: str) -> int:
    return int(database.execute(question).fetchone()[0])


def _refuse_foreign(database: sqlite3.Connection, path: Path) -> None:
    """Reads only: another program's file must stay as it is."""
    owner, version = _number(database, "PRAGMA application_id"), _number(database, "PRAGMA user_version")
    if owner != APPLICATION_ID and (owner or version or _number(database, "SELECT count(*) FROM sqlite_master")):
        raise StoreBroken(f"store {path}: holds another program's tables; name another file")
    if owner == APPLICATION_ID and version != SCHEMA_VERSION:
        raise StoreBroken(f"store {path}: was written by another version (schema {version}); name another file")


def _prepare(database: sqlite3.Connection) -> None:
    """Makes the tables in a new file; of two programs that start at once, one does."""
    database.execute("BEGIN IMMEDIATE")
    if _number(database, "PRAGMA application_id") != APPLICATION_ID:
        for statement in filter(str.strip, _SCHEMA.split(";")):
            database.execute(statement)
        database.execute("INSERT INTO notes VALUES ('store', ?)", (uuid.uuid4().hex[:12],))
        database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    database.execute(_ANNOUNCED)  # in a file of an earlier version too, which does not mind it
    database.execute("COMMIT")
