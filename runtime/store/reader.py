"""Questions to the store: for sinks that deliver from it, for the screen, for thresholds and drift."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from dskd.runtime.result import Announced, Verdict
from dskd.runtime.store.file import StoreBroken, connect_to_read, meaning
from dskd.runtime.store.records import Record, Value, record_from

READ_PATIENCE = 2.0  # seconds; readers of a write-ahead log wait for nobody but a recovery
QUARTER = 900  # seconds that one row of counts covers; full hours and half-hour time zones fall on its edges
IDLE_CONNECTIONS = 4


class Label(str, Enum):
    """What a person said about an inspection after looking at the part."""

    GOOD = "confirmed good"
    FALSE_ALARM = "false alarm"
    DEFECT = "confirmed defect"
    MISSED = "missed defect"


GOOD_LABELS = (Label.GOOD, Label.FALSE_ALARM)
DEFECT_LABELS = (Label.DEFECT, Label.MISSED)


@dataclass(frozen=True)
class Count:
    """How often ``outcome`` came from ``source`` in the quarter of an hour that starts at ``start``.

    Outcomes: PASS, REVIEW, REJECT, dropped, and fail-safe for an answer that no inspection stands behind.
    """

    start: int
    source: str
    outcome: str
    number: int


@dataclass(frozen=True)
class Scored:
    """The score of one inspection."""

    id: int
    captured: float
    score: float
    threshold: float
    verdict: Verdict
    bundle: str
    backend: str
    label: str | None


@dataclass(frozen=True)
class Audited:
    """One entry of the audit log."""

    id: int
    at: float
    who: str
    action: str
    detail: str


class StoreReader:
    """A store opened to read. Any thread may ask; no question waits for a writer or makes one wait.

    Each question raises StoreError where the file does not answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self._closed = False
        self.identity = str(self._ask("SELECT value FROM notes WHERE name = 'store'")[0]["value"])

    def after(self, cursor: int, limit: int) -> list[Record]:
        """Up to ``limit`` records with ids over ``cursor``, in order."""
        return self._records("SELECT * FROM records WHERE id > ? ORDER BY id LIMIT ?", (cursor, limit))

    def newest(self) -> int:
        """The largest id ever given, 0 before the first."""
        rows = self._ask("SELECT seq FROM sqlite_sequence WHERE name = 'records'")
        return int(rows[0]["seq"]) if rows else 0

    def record(self, record: int) -> Record | None:
        """The record of that id, with its label; None where there is none (any more)."""
        found = self._records(f"SELECT {_LABELLED} WHERE id = ?", (record,))
        return found[0] if found else None

    def latest(
        self,
        limit: int,
        verdicts: Sequence[Verdict] = (Verdict.REVIEW, Verdict.REJECT),
        source: str | None = None,
        before: int | None = None,
    ) -> list[Record]:
        """The newest inspections with one of ``verdicts``, newest first, with labels; ``before`` an id, to page on."""
        where = "kind = 'inspection' AND verdict = ?"  # one verdict at a time comes from its index without sorting
        limits: list[Value] = []
        if source is not None:
            where, limits = f"{where} AND source = ?", [*limits, source]
        if before is not None:
            where, limits = f"{where} AND id < ?", [*limits, before]
        question = f"SELECT {_LABELLED} WHERE {where} ORDER BY id DESC LIMIT ?"
        found: list[Record] = []
        for verdict in verdicts:
            found += self._records(question, (verdict.value, *limits, limit))
        return sorted(found, key=lambda record: record.id, reverse=True)[:limit]

    def of_part(self, part: str, limit: int = 100) -> list[Record]:
        """All that is known of a part, newest first."""
        question = f"SELECT {_LABELLED} WHERE part = ? ORDER BY id DESC LIMIT ?"
        return self._records(question, (part, limit))

    def counts(self, since: float, until: float) -> list[Count]:
        """Counts of the quarters of an hour that start in [since, until), oldest first. They outlive deleted records."""
        question = "SELECT * FROM quarters WHERE start >= ? AND start < ? ORDER BY start, source, outcome"
        return [Count(**row) for row in self._ask(question, (since, until))]

    def totals(self, since: float, until: float, source: str | None = None) -> dict[str, int]:
        """The same counts summed over the period, by outcome."""
        question = (
            "SELECT outcome, sum(number) AS number FROM quarters WHERE start >= ? AND start < ? "
            "AND (? IS NULL OR source = ?) GROUP BY outcome"
        )
        return {row["outcome"]: row["number"] for row in self._ask(question, (since, until, source, source))}

    def scores(
        self,
        source: str,
        limit: int,
        of: Literal["all", "passes", "confirmed good", "known defects"] = "all",
        oldest: bool = False,
    ) -> list[Scored]:
        """Scores of the last (or first) ``limit`` inspections of a camera, newest (oldest) first.

        ``confirmed good`` are those that a person labelled so, or called a false alarm; ``known defects`` those that a
        person called a defect, told or missed.
        """
        order = "ASC" if oldest else "DESC"
        labelled = of in ("confirmed good", "known defects")
        by = "record" if labelled else "id"
        kind = "+kind" if of == "all" else "kind"  # the plus keeps SQLite from an index by which it would have to sort
        # labels are few: a cross join makes SQLite begin with them
        table = "labels CROSS JOIN records ON id = record" if labelled else _WITH_LABELS
        which = {
            "all": "",
            "passes": "AND verdict = 'PASS'",
            "confirmed good": f"AND label IN ({', '.join(repr(label.value) for label in GOOD_LABELS)})",
            "known defects": f"AND label IN ({', '.join(repr(label.value) for label in DEFECT_LABELS)})",
        }[of]
        question = (
            "SELECT id, captured, score, threshold, verdict, bundle, backend, label "  # noqa: S608 (our own text)
            f"FROM {table} WHERE {kind} = 'inspection' AND source = ? {which} ORDER BY {by} {order} LIMIT ?"
        )
        rows = self._ask(question, (source, limit))
        return [Scored(**{**dict(row), "verdict": Verdict(row["verdict"])}) for row in rows]

    def sources(self) -> list[str]:
        """The cameras that ever gave a record."""
        return [row["source"] for row in self._ask("SELECT DISTINCT source FROM quarters ORDER BY source")]

    def cursors(self) -> dict[str, int]:
        """How far each sink that was ever asked for has delivered."""
        return {row["sink"]: row["position"] for row in self._ask("SELECT * FROM cursors")}

    def audit_log(self, limit: int, before: int | None = None) -> list[Audited]:
        """The newest entries first; ``before`` an id, to page on."""
        question = "SELECT * FROM audit WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?"
        return [Audited(**row) for row in self._ask(question, (before, before, limit))]

    def announced(self) -> list[Announced]:
        """Parts that were announced and have no answer yet, in the order of their triggers."""
        rows = self._ask("SELECT name FROM sqlite_master WHERE name = 'announced'")
        if not rows:  # a file that an earlier version wrote last
            return []
        return [Announced(**row) for row in self._ask("SELECT * FROM announced ORDER BY triggered")]

    def last_moment(self) -> float | None:
        """When the newest record was made (seconds since the epoch), None before the first."""
        rows = self._ask("SELECT coalesce(answered, captured) AS moment FROM records ORDER BY id DESC LIMIT 1")
        return None if not rows or rows[0]["moment"] is None else float(rows[0]["moment"])

    def recall(self, name: str) -> str | None:
        """What ``Store.remember`` kept under ``name``."""
        rows = self._ask("SELECT value FROM notes WHERE name = ?", (name,))
        return str(rows[0]["value"]) if rows else None

    def close(self) -> None:
        """Releases the file."""
        with self._idle_lock:
            self._closed = True
            self._forget_connections()

    def _forget_connections(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _records(self, question: str, values: Sequence[Value] = ()) -> list[Record]:
        return [record_from(row, self.identity) for row in self._ask(question, values)]

    def _ask(self, question: str, values: Sequence[Value] = ()) -> list[sqlite3.Row]:
        try:
            with self._connection() as connection:
                rows: list[sqlite3.Row] = connection.execute(question, values).fetchall()
                return rows
        except sqlite3.Error as error:
            raise meaning(error, self.path, "cannot be read") from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own for one question; one that failed is not used again."""
        with self._idle_lock:
            if self._closed:
                raise StoreBroken(f"store {self.path}: is closed; open it again")
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = connect_to_read(self.path, READ_PATIENCE)
            connection.row_factory = sqlite3.Row
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._idle_lock:
            keep = not self._closed and len(self._idle) < IDLE_CONNECTIONS
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()


_WITH_LABELS = "records LEFT JOIN labels ON record = id"
_LABELLED = f"records.*, label FROM {_WITH_LABELS}"
