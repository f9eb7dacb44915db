"""Questions to the store: for sinks that deliver from it, for the screen, for thresholds and drift."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from dskd.runtime.result import Announced, Verdict
from dskd.runtime.store.file import StoreBroken, StoreDamaged, StoreError, StoreLocked, connect_to_read, meaning
from dskd.runtime.store.records import Record, Value, record_from, values_of
from dskd.runtime.store.schema import UNCHECKED
from dskd.runtime.store.search import LABELS, ORDERS, Search

READ_PATIENCE = 2.0  # seconds; readers of a write-ahead log wait for nobody but a recovery
IDLE_CONNECTIONS = 4
T = TypeVar("T")


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
        self._in_use: set[sqlite3.Connection] = set()
        self._asking = 0  # questions that hold a connection or open one
        self._idle_lock = threading.Lock()
        self._returned = threading.Condition(self._idle_lock)
        self._closed = self._held_back = False
        self.identity, self._unchecked = "", 0
        self._meet()

    def after(self, cursor: int, limit: int) -> list[Record]:
        """Up to ``limit`` records with ids over ``cursor``, in order."""
        return self._records("SELECT * FROM records WHERE id > ? ORDER BY id LIMIT ?", (cursor, limit))

    def newest(self) -> int:
        """The largest id ever given, 0 before the first."""
        return max(self._ask("SELECT seq FROM sqlite_sequence WHERE name = 'records'", (), _first_number), default=0)

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
        return self.search(Search(tuple(verdicts), source), limit, before)

    def search(self, search: Search, limit: int, before: int | None = None) -> list[Record]:
        """Inspections that are looked for, in their order, with labels; those after the id ``before``, to page on."""
        where, values = search.conditions()
        order, after = ORDERS[search.order]
        if before is not None:
            where, values = f"{where} AND {after}", [*values, before]
        # one verdict at a time comes from its index without sorting; labels are few and need none
        table = _BY_LABEL if search.label in ("good", "defect", "any") else _LABELLED
        question = f"SELECT {table} WHERE verdict = ? AND {where} ORDER BY {order} LIMIT ?"
        found: list[Record] = []
        for verdict in search.verdicts:
            found += self._records(question, (verdict.value, *values, limit))
        return sorted(found, key=search.key, reverse=search.order != "oldest")[:limit]

    def kinds_of_defect(self, limit: int = 50) -> list[str]:
        """The kinds of defect that people named, the most frequent first."""
        question = "SELECT defect FROM labels WHERE defect > '' GROUP BY defect ORDER BY count(*) DESC, defect LIMIT ?"
        return self._ask(question, (limit,), lambda row: str(row[0]))

    def counts(self, since: float, until: float) -> list[Count]:
        """Counts of the quarters of an hour that start in [since, until), oldest first. They outlive deleted records."""
        question = "SELECT start, source, outcome, number FROM quarters WHERE start >= ? AND start < ? ORDER BY start, source, outcome"
        return self._ask(question, (since, until), lambda row: Count(**values_of(row)))

    def totals(self, since: float, until: float, source: str | None = None) -> dict[str, int]:
        """The same counts summed over the period, by outcome."""
        question = (
            "SELECT outcome, sum(number) AS number FROM quarters WHERE start >= ? AND start < ? "
            "AND (? IS NULL OR source = ?) GROUP BY outcome"
        )
        return dict(self._ask(question, (since, until, source, source), lambda row: (str(row[0]), int(row[1]))))

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
            "confirmed good": f"AND {LABELS['good']}",
            "known defects": f"AND {LABELS['defect']}",
        }[of]
        question = (
            "SELECT id, captured, score, threshold, verdict, bundle, backend, label "  # noqa: S608 (our own text)
            f"FROM {table} WHERE {kind} = 'inspection' AND source = ? {which} ORDER BY {by} {order} LIMIT ?"
        )
        return self._ask(question, (source, limit), _scored)

    def sources(self) -> list[str]:
        """The cameras that ever gave a record."""
        return self._ask("SELECT DISTINCT source FROM quarters ORDER BY source", (), lambda row: str(row[0]))

    def cursors(self) -> dict[str, int]:
        """How far each sink that was ever asked for has delivered."""
        return dict(self._ask("SELECT sink, position FROM cursors", (), lambda row: (str(row[0]), int(row[1]))))

    def audit_log(self, limit: int, before: int | None = None) -> list[Audited]:
        """The newest entries first; ``before`` an id, to page on."""
        question = "SELECT * FROM audit WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?"
        return self._ask(question, (before, before, limit), lambda row: Audited(**values_of(row)))

    def announced(self) -> list[Announced]:
        """Parts that were announced and have no answer yet, in the order of their triggers."""
        return self._ask("SELECT * FROM announced ORDER BY triggered", (), lambda row: Announced(**values_of(row)))

    def last_moment(self) -> float | None:
        """When the newest record was made (seconds since the epoch), None before the first."""
        question = "SELECT coalesce(answered, captured, 0.0) FROM records ORDER BY id DESC LIMIT 1"
        return next(iter(self._ask(question, (), lambda row: float(row[0]))), 0.0) or None

    def recall(self, name: str) -> str | None:
        """What ``Store.remember`` kept under ``name``."""
        return next(iter(self._ask(_NOTE, (name,), lambda row: str(row[0]))), None)

    def close(self) -> None:
        """Releases the file."""
        with self._idle_lock:
            self._closed = True
            self._forget_connections()

    def _forget_connections(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _records(self, question: str, values: Sequence[Value] = ()) -> list[Record]:
        return self._ask(question, values, lambda row: record_from(row, self.identity, self._unchecked))

    def _meet(self) -> None:
        """Learns which store this is."""
        found = self.recall("store")
        if found is None:
            failure = StoreDamaged(f"store {self.path}: says no more which store it is; move the file away")
            raise self._noticed(failure)
        self._unchecked = max(self._ask(_NOTE, (UNCHECKED,), _first_number), default=0)
        self.identity = found

    def _ask(self, question: str, values: Sequence[Value], made: Callable[[sqlite3.Row], T]) -> list[T]:
        """What is made of each row. Whatever damage does to the file, it comes out as StoreError."""
        try:
            with self._connection() as connection:
                return [made(row) for row in connection.execute(question, values).fetchall()]
        except (sqlite3.Error, MemoryError) as error:
            raise self._noticed(meaning(error, self.path, "cannot be read")) from error
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise self._noticed(StoreDamaged(f"store {self.path}: is damaged ({error}); check the disk")) from error

    def _noticed(self, failure: StoreError) -> StoreError:
        """A reader tells of damage and cannot mend it."""
        return failure

    @contextmanager
    def _without_readers(self, patience: float) -> Iterator[None]:
        """Nobody reads meanwhile, and no connection for it is open. Raises StoreLocked where one is not given back in time."""
        with self._returned:
            self._held_back = True
            self._forget_connections()
            for connection in self._in_use:
                connection.interrupt()
        try:
            with self._returned:
                if not self._returned.wait_for(lambda: not self._asking, patience):
                    raise StoreLocked(f"store {self.path}: is being read for over {patience:g} seconds; try again")
            yield
        finally:
            with self._returned:
                self._held_back = False
                self._returned.notify_all()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own for one question; one that failed is not used again."""
        connection = self._taken()
        try:
            yield connection
        except BaseException:
            self._give_back(connection, keep=False)
            raise
        self._give_back(connection, keep=True)

    def _taken(self) -> sqlite3.Connection:
        with self._returned:
            if not self._returned.wait_for(lambda: not self._held_back, READ_PATIENCE):
                raise StoreLocked(f"store {self.path}: is opened anew; try again")
            if self._closed:
                raise StoreBroken(f"store {self.path}: is closed; open it again")
            connection = self._idle.pop() if self._idle else None
            self._asking += 1
        try:
            if connection is None:
                connection = connect_to_read(self.path, READ_PATIENCE)
                connection.row_factory = sqlite3.Row
        except StoreError as failure:
            self._give_back(None)
            self._noticed(failure)
            raise
        except BaseException:
            self._give_back(None)
            raise
        with self._returned:
            self._in_use.add(connection)
        return connection

    def _give_back(self, connection: sqlite3.Connection | None, keep: bool = False) -> None:
        with self._returned:
            if connection is not None:
                self._in_use.discard(connection)
                if keep and not self._closed and not self._held_back and len(self._idle) < IDLE_CONNECTIONS:
                    self._idle.append(connection)
                else:
                    connection.close()
            self._asking -= 1
            self._returned.notify_all()


_NOTE = "SELECT value FROM notes WHERE name = ?"
_WITH_LABELS = "records LEFT JOIN labels ON record = id"
_BY_LABEL = "records.*, label, defect, note FROM labels CROSS JOIN records ON id = record"
_LABELLED = f"records.*, label, defect, note FROM {_WITH_LABELS}"


def _first_number(row: sqlite3.Row) -> int:
    return int(row[0])


def _scored(row: sqlite3.Row) -> Scored:
    return Scored(**{**values_of(row), "verdict": Verdict(row["verdict"])})
