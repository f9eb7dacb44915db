"""Which records may go: the oldest, once every sink has passed them and where nobody labelled them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from dskd.runtime.store.schema import GIVEN, number
from dskd.runtime.wall_clock import Span

CHUNK = 100  # records deleted in one transaction, so that nobody waits long behind it

_FREE = (
    "id NOT IN (SELECT record FROM labels) AND id <= (SELECT coalesce(min(position), 9223372036854775807) FROM cursors)"
)
_SURPLUS = f"SELECT id FROM records WHERE id <= ? AND {_FREE} ORDER BY id LIMIT {CHUNK}"  # noqa: S608
# By the index: records of a clock that was ahead stand before others and must hold none of them.
_OLD = f"SELECT id FROM records WHERE captured < ? AND {_FREE} %s ORDER BY captured LIMIT {CHUNK}"  # noqa: S608
_OLD_ANSWERS = f"SELECT id FROM records WHERE captured IS NULL AND answered < ? AND {_FREE} %s LIMIT {CHUNK}"  # noqa: S608
_OLD_SPAN = f"SELECT id FROM records WHERE id BETWEEN ? AND ? AND {_FREE} ORDER BY id LIMIT {CHUNK}"  # noqa: S608


def prune_oldest(database: sqlite3.Connection, keep: int | None, before: float | None, spans: Sequence[Span]) -> int:
    """Deletes up to ``CHUNK`` of the records that may go and returns how many; none where none may."""
    given = number(database, GIVEN)
    questions: list[tuple[str, tuple[float, ...]]] = []
    if keep is not None:
        questions.append((_SURPLUS, (given - keep,)))
    if before is not None:
        outside = "AND id NOT BETWEEN ? AND ? " * len(spans)
        ends = tuple(end for span in spans for end in (span.first, span.last))
        questions += [(_OLD % outside, (before, *ends)), (_OLD_ANSWERS % outside, (before, *ends))]
        questions += [(_OLD_SPAN, (span.first, span.last)) for span in spans if span.when < before]
    for question, values in questions:
        going = database.execute(question, values).fetchall()
        if going:
            database.executemany("DELETE FROM records WHERE id = ?", going)
            return len(going)
    return 0
