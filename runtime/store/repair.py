"""A damaged store: what can be read of it is copied into a new file, which takes its place; the damaged one stays beside it.

Records keep their ids and their store's identity, so receivers go on telling repetitions by their keys. Killed at any
moment, the next start finds the damaged file or the whole new one.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dskd.runtime.atomic import sync_directory
from dskd.runtime.errors import one_line
from dskd.runtime.store.file import FAILURES, StoreBroken, StoreError, connect, meaning
from dskd.runtime.store.records import COLUMNS, checksum, record_from, values_of
from dskd.runtime.store.schema import APPLICATION_ID, GIVEN, UNCHECKED

TABLES = {  # but the records: columns by which rows are told apart, all columns
    "quarters": (("start", "source", "outcome"), ("start", "source", "outcome", "number")),
    "cursors": (("sink",), ("sink", "position")),
    "labels": (("record",), ("record", "label", "who", "at", "defect", "note")),
    "audit": (("id",), ("id", "at", "who", "action", "detail")),
    "announced": (("camera", "part", "triggered"), ("camera", "part", "triggered")),
    "notes": (("name",), ("name", "value")),
}
GAP = 1000  # ids left out where it is not known how far they had come
ANY = 1 << 53  # no id is larger
CHUNK = 500  # records read at once
MOST_COPIED = 1_000_000  # newest records; with more a start would take minutes, older ones stay in the damaged file
CURSORS_LOST = "cursors lost"  # the note that lets a sink without a cursor begin with the oldest record
WHERE_ID = 68  # of the application's mark in a file's first bytes
_BESIDE = ("", "-wal", "-shm")


def is_store(path: Path) -> bool:
    """Whether the file bears our mark, however damaged it is otherwise."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(WHERE_ID + 4)[WHERE_ID:] == APPLICATION_ID.to_bytes(4, "big")
    return False


def finish_interrupted(path: Path) -> None:
    """Goes on where a repair was killed between its last two steps; what an earlier kill left is removed."""
    fresh = _fresh(path)
    if not os.path.exists(fresh):  # never raises, whatever the path holds
        return
    if path.exists():
        fresh.unlink()
        return
    aside = max(path.parent.glob(f"{escape(path.name)}.damaged-*[0-9]"), default=path)
    log = Path(f"{path}-wal")  # belongs to the damaged file; beside the new one SQLite would take it for that one's
    if log.exists():
        os.rename(log, f"{aside}-wal")
    Path(f"{path}-shm").unlink(missing_ok=True)  # made anew from the log
    os.rename(fresh, path)
    sync_directory(path.parent)


def repair(path: Path, newest: int, patience: float) -> str:
    """Puts a sound file in the damaged one's place; returns in a sentence what was done. Raises StoreError.

    ``newest`` is the largest id that is known to have been given.
    """
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    if aside.exists():  # a clock that was set back
        aside = aside.with_name(f"{aside.name}-{time.monotonic_ns()}")
    fresh = _fresh(path)
    try:
        for end in _BESIDE:
            fresh.with_name(fresh.name + end).unlink(missing_ok=True)
        with closing(_open_damaged(path)) as old, closing(connect(fresh, patience)) as new:
            copied, expected = _copy_all(old, new, newest)
            text = f"was damaged: {copied} of {expected} records copied, the damaged file is {aside.name}"
            row = time.time(), "station", "store repaired", text
            new.execute("INSERT INTO audit (at, who, action, detail) VALUES (?, ?, ?, ?)", row)
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            new.execute("PRAGMA journal_mode=DELETE")  # one file, whole
        os.rename(path, aside)
        finish_interrupted(path)
    except FAILURES as error:
        raise meaning(error, path, "cannot be repaired") from error
    except StoreError:
        raise
    except OSError as error:
        raise StoreBroken(f"store {path}: cannot be repaired ({one_line(str(error))}); move the file away") from error
    return text


def verify(database: sqlite3.Connection) -> None:
    """Reads all of a store. Raises sqlite3.DatabaseError where something in it is not what was written."""
    unchecked = _unchecked(database)
    for table, (_, columns) in TABLES.items():
        for row in _rows(database, f"SELECT {', '.join(columns)} FROM {table}"):  # noqa: S608
            _require(row, values_of)
    for row in _rows(database, "SELECT * FROM records ORDER BY id"):
        _require(row, lambda row: record_from(row, "", unchecked))


def _rows(database: sqlite3.Connection, question: str) -> Iterator[sqlite3.Row]:
    cursor = database.cursor()
    cursor.row_factory = sqlite3.Row
    yield from cursor.execute(question)


def _require(row: sqlite3.Row, made: Callable[[sqlite3.Row], object]) -> None:
    try:
        made(row)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise sqlite3.DatabaseError(f"malformed: {error}") from error


def _fresh(path: Path) -> Path:
    return path.with_name(f"{path.name}.repaired")


def _open_damaged(path: Path) -> sqlite3.Connection:
    """To read whatever can be read."""
    old = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    old.row_factory = sqlite3.Row
    old.execute("PRAGMA writable_schema=ON")  # a table whose description is damaged costs the others nothing
    return old


def _copy_all(old: sqlite3.Connection, new: sqlite3.Connection, newest: int) -> tuple[int, int]:
    """Copies what can be read, in one transaction. Returns how many records were copied, of how many."""
    new.execute("PRAGMA synchronous=OFF")  # killed before its end, the new file is thrown away
    new.execute("BEGIN IMMEDIATE")
    for table, (by, columns) in TABLES.items():
        marks = ", ".join("?" for _ in columns)
        rows = ([row[column] for column in columns] for row in _rows_from_both_ends(old, table, by, columns))
        new.executemany(f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)  # noqa: S608
    given = _number(old, GIVEN)
    columns = ("id", *COLUMNS, "checksum")
    insert = f"INSERT OR IGNORE INTO records ({', '.join(columns)}) VALUES ({', '.join('?' for _ in columns)})"  # noqa: S608
    copied, last = 0, 0
    behind = _number(
        new, "SELECT min(position) FROM cursors", ANY
    )  # what a sink was not told of goes along in any case
    first = max(0, min(max(given, newest) - MOST_COPIED, behind))
    for chunk in _records(old, first, max(given, newest)):
        new.executemany(insert, chunk)
        copied, last = copied + len(chunk), chunk[-1][0]
    known = given >= max(last, newest)
    end = given if known else max(last, newest) + GAP
    _set_sequence(new, end)
    if _unchecked(old) == ANY:
        new.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (UNCHECKED, str(end)))
    if not known or not _sound_cursors(old):
        new.execute("INSERT OR REPLACE INTO notes VALUES (?, '')", (CURSORS_LOST,))
    new.execute("DELETE FROM cursors WHERE position > ? OR position < 0", (end,))
    new.execute("COMMIT")
    new.execute("PRAGMA synchronous=FULL")
    return copied, max(_number(old, "SELECT count(*) FROM records"), copied)


def _number(old: sqlite3.Connection, question: str, otherwise: int = 0) -> int:
    try:
        row = old.execute(question).fetchone()
    except FAILURES:
        return otherwise
    return row[0] if row is not None and isinstance(row[0], int) and 0 <= row[0] <= ANY else otherwise


def _set_sequence(new: sqlite3.Connection, end: int) -> None:
    new.execute("DELETE FROM sqlite_sequence WHERE name = 'records'")
    new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('records', ?)", (end,))


def _sound_cursors(old: sqlite3.Connection) -> bool:
    try:
        old.execute("SELECT sink, position FROM cursors").fetchall()
    except FAILURES:
        return False
    return True


def _rows_from_both_ends(
    old: sqlite3.Connection, table: str, by: Sequence[str], columns: Sequence[str]
) -> Iterator[dict[str, object]]:
    """Rows up to the first damage, and from the other end down to the last. A column of later versions is empty text."""
    present = _columns(old, table)
    chosen = ", ".join(name if name in present or not present else f"'' AS {name}" for name in columns)
    for order in ("", " DESC"):
        question = f"SELECT {chosen} FROM {table} ORDER BY {', '.join(f'{c}{order}' for c in by)}"  # noqa: S608
        with suppress(*FAILURES):
            for row in old.execute(question):
                with suppress(ValueError):
                    values = values_of(row)
                    if None not in values.values():
                        yield values
            return


def _records(old: sqlite3.Connection, first: int, newest: int) -> Iterator[list[list[Any]]]:
    """Chunks of rows over the id ``first`` that are what was written, in order. What cannot be read is stepped over, in steps that double."""
    columns, present, unchecked = ("id", *COLUMNS, "checksum"), _columns(old, "records"), _unchecked(old)
    chosen = ", ".join(name if name in present else f"NULL AS {name}" for name in columns)
    question = f"SELECT {chosen} FROM records WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608
    last, limit, step = first, CHUNK, 1
    newest = max(newest, _number(old, "SELECT max(id) FROM records"))
    while True:
        try:
            rows = old.execute(question, (last, limit)).fetchall()
        except FAILURES:
            if limit > 1:
                limit = 1
                continue
            last, step = last + step, 2 * step
            if last >= newest:
                return
            continue
        numbers = [row["id"] for row in rows if isinstance(row["id"], int) and row["id"] > last]
        if not numbers:
            return
        kept = [
            list(row) for row in rows if isinstance(row["id"], int) and row["id"] > last and _is_sound(row, unchecked)
        ]
        if kept:
            yield kept
        last, limit, step = max(numbers), CHUNK, 1


def _columns(old: sqlite3.Connection, table: str) -> set[str]:
    try:
        return {str(row["name"]) for row in old.execute(f"PRAGMA table_info({table})")}
    except FAILURES:
        return set()


def _unchecked(old: sqlite3.Connection) -> int:
    """The last id without a checksum; where that cannot be told, any may be."""
    return _number(old, f"SELECT CAST(value AS INTEGER) FROM notes WHERE name = '{UNCHECKED}'", ANY)  # noqa: S608


def _is_sound(row: sqlite3.Row, unchecked: int) -> bool:
    try:
        number, *values, expected = row
        if isinstance(expected, int) and expected >= 0:  # what was written could be read; taking it apart takes long
            return expected == checksum(number, values)
        record_from(row, "", unchecked)
    except (LookupError, TypeError, ValueError, OverflowError):
        return False
    return True
