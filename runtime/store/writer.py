"""Writing to the store.

Write-ahead log with synchronous=FULL: when ``add`` returns, its records survive SIGKILL and a power cut. A cursor is
not synced on its own: a power cut may make a sink deliver some records twice, never lose one.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

from dskd.runtime.result import Announced, Answer, Dropped, Entry, Inspection
from dskd.runtime.store.records import COLUMNS, checksum, outcomes, plain_text, row_of
from dskd.runtime.store.retention import prune_oldest
from dskd.runtime.store.schema import GIVEN, number
from dskd.runtime.store.search import Label
from dskd.runtime.store.writable_file import WRITE_PATIENCE, WritableFile
from dskd.runtime.wall_clock import Span

_COLUMNS = ("id", *COLUMNS, "checksum")
_INSERT = f"INSERT INTO records ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' for _ in _COLUMNS)})"  # noqa: S608
_COUNT = (
    "INSERT INTO quarters VALUES (?, ?, ?, ?) "
    "ON CONFLICT (start, source, outcome) DO UPDATE SET number = number + excluded.number"
)


class Store(WritableFile):
    """The store opened to write, by one process. Any thread may call any method.

    Every method raises StoreLocked, StoreFull or StoreBroken; then nothing of the call was written and it may be
    tried again: a broken file is opened anew each time. A damaged one is moved aside and what can be read of it copied
    into a new one, which ``repaired`` tells. A file without our mark is another program's, unless ``own`` says that
    whatever lies there is to be a store.
    """

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
