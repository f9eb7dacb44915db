"""The store: one SQLite file with every inspection and every dropped frame.

Write-ahead log with synchronous=FULL: when ``write`` returns, the row survives SIGKILL and a power cut.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from runtime.errors import DskdError
from runtime.result import Dropped, Frame, Inspection

SCHEMA_VERSION = 1
APPLICATION_ID = 0x44534B44  # "DSKD" in ASCII: says whose file it is before anything in it is touched
_SCHEMA = """
CREATE TABLE inspections (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL, frame TEXT NOT NULL, captured REAL NOT NULL,
    verdict TEXT NOT NULL, score REAL NOT NULL, threshold REAL NOT NULL, regions TEXT NOT NULL,
    timings_ms TEXT NOT NULL, bundle TEXT NOT NULL, backend TEXT NOT NULL);
CREATE INDEX inspections_captured ON inspections (captured);
CREATE TABLE dropped (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL, frame TEXT NOT NULL, captured REAL NOT NULL, reason TEXT NOT NULL);
"""


class SqliteSink:
    """Commits each inspection on its own."""

    needs_map = False

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, timeout=10)
        except (OSError, sqlite3.Error) as error:
            raise DskdError(f"sink {path}: cannot be opened ({error}); check the path and its rights") from error
        try:
            self._refuse_foreign()
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._prepare()
        except DskdError:
            self._database.close()
            raise
        except sqlite3.Error as error:
            self._database.close()
            raise DskdError(f"sink {path}: is no usable SQLite file ({error}); move it away or name another") from error

    def _number(self, question: str) -> int:
        return int(self._database.execute(question).fetchone()[0])

    def _refuse_foreign(self) -> None:
        """Reads only: another program's file must stay as it is."""
        owner, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
        if owner != APPLICATION_ID and (owner or version or self._number("SELECT count(*) FROM sqlite_master")):
            raise DskdError(f"sink {self._path}: holds another program's tables; name another file")
        if owner == APPLICATION_ID and version != SCHEMA_VERSION:
            raise DskdError(f"sink {self._path}: was written by another version (schema {version}); name another file")

    def _prepare(self) -> None:
        """Makes the tables in a new file; of two programs that start at once, one does."""
        self._database.execute("BEGIN IMMEDIATE")
        if self._number("PRAGMA application_id") != APPLICATION_ID:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._database.execute(statement)
            self._database.execute(f"PRAGMA application_id={APPLICATION_ID}")
            self._database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._database.execute("COMMIT")

    def write(self, inspection: Inspection, frame: Frame) -> None:
        """Stores one inspection durably."""
        fields = inspection.as_dict()
        fields["regions"], fields["timings_ms"] = json.dumps(fields["regions"]), json.dumps(fields["timings_ms"])
        self._insert("inspections", fields)

    def drop(self, dropped: Dropped) -> None:
        """Stores one dropped frame durably."""
        fields = {"source": dropped.source, "frame": dropped.id, "captured": dropped.captured, "reason": dropped.reason}
        self._insert("dropped", fields)

    def _insert(self, table: str, fields: dict[str, object]) -> None:
        marks = ", ".join("?" for _ in fields)
        try:
            statement = f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({marks})"  # noqa: S608 (our own names)
            self._database.execute(statement, list(fields.values()))
        except sqlite3.Error as error:
            raise DskdError(f"sink {self._path}: cannot store ({error}); check the disk") from error

    def close(self) -> None:
        """Folds the log into the file."""
        self._database.close()
