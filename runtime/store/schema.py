"""The store's tables, and the steps from each version of them to the next one.

A new file is made at ``FIRST`` and taken through the same steps as an old one. A step is added at the end and never
changed: what it makes stands in files of the field.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable

APPLICATION_ID = 0x44534B44  # "DSKD" in ASCII: says whose file it is before anything in it is touched
FIRST = 2  # the oldest version that is read
UNCHECKED = "unchecked up to"  # the note that holds the last id without a checksum
BY_HAND = -1  # in place of the checksum where somebody changed the record
GIVEN = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'records'), 0)"  # the largest id ever given
WRITTEN_BY = "written by"  # the note that names the program whose tables these are

_FIRST_TABLES = """
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


def _announced(database: sqlite3.Connection) -> None:
    """3: parts that were announced and not answered yet; whatever stands here at a start was under way at a kill."""
    database.execute(
        "CREATE TABLE IF NOT EXISTS announced (camera TEXT NOT NULL, part TEXT NOT NULL, triggered REAL NOT NULL, "
        "PRIMARY KEY (camera, part, triggered)) WITHOUT ROWID"
    )


def _checksums(database: sqlite3.Connection) -> None:
    """4: a checksum per record, so that a damaged byte is never taken for data.

    Records of before have none; a note says up to which id. What somebody changes by hand is marked by that.
    """
    database.execute("ALTER TABLE records ADD COLUMN checksum INTEGER")
    database.execute(
        "CREATE TRIGGER record_changed AFTER UPDATE ON records WHEN new.checksum IS old.checksum "
        "BEGIN UPDATE records SET checksum = -1 WHERE id = new.id; END"
    )
    database.execute("INSERT INTO notes VALUES (?, ?)", (UNCHECKED, str(number(database, GIVEN))))


def _remarks(database: sqlite3.Connection) -> None:
    """5: the kind of defect and a note beside a label."""
    for column in ("defect", "note"):
        database.execute(f"ALTER TABLE labels ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")


STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_announced, _checksums, _remarks)


def newest_version() -> int:
    """The version of the tables that this program writes."""
    return FIRST + len(STEPS)


def prepare(database: sqlite3.Connection, program: Callable[[], str]) -> None:
    """Makes the tables of a new file, or takes older ones to the newest version, in one transaction.

    Killed in the middle, the file is what it was. Of two programs that start at once, one does it. ``program`` names
    this one, for whoever cannot read its tables.
    """
    database.execute("BEGIN IMMEDIATE")
    if number(database, "PRAGMA application_id") != APPLICATION_ID:
        for statement in filter(str.strip, _FIRST_TABLES.split(";")):
            database.execute(statement)
        database.execute("INSERT INTO notes VALUES ('store', ?)", (uuid.uuid4().hex[:12],))
        database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        version = FIRST
    else:
        version = number(database, "PRAGMA user_version")
    steps = STEPS[version - FIRST :]
    for step in steps:
        step(database)
    if steps:
        database.execute(f"PRAGMA user_version={newest_version()}")
        database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (WRITTEN_BY, program()))
    database.execute("COMMIT")


def number(database: sqlite3.Connection, question: str, values: tuple[object, ...] = ()) -> int:
    """The number that ``question`` gives. Raises sqlite3.DatabaseError where it gives none."""
    row = database.execute(question, values).fetchone()
    if row is None or not isinstance(row[0], int):
        raise sqlite3.DatabaseError("malformed: a number is missing")
    return row[0]
