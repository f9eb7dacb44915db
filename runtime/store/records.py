"""A record: one row of the store, whatever it is about, and how it looks to other programs."""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dskd.runtime.result import Answer, Dropped, Entry, Inspection, Region, Verdict, ratio_of
from dskd.runtime.store.schema import BY_HAND

Kind = Literal["inspection", "dropped", "answer"]
COLUMNS = (
    "kind", "source", "frame", "captured", "part", "verdict", "score", "threshold", "regions", "timings_ms", "bundle",
    "backend", "reason", "triggered", "answered", "inspection",
)  # fmt: skip
REALS = ("captured", "score", "threshold", "triggered", "answered")
_KINDS: dict[str, type] = {
    **dict.fromkeys((*REALS, "at"), float),
    **dict.fromkeys(("id", "inspection", "checksum", "start", "number", "position", "record"), int),
}  # other columns hold text
QUARTER = 900  # seconds that one row of counts covers; full hours and half-hour time zones fall on its edges
LAST_MOMENT = 1e12  # seconds; a broken clock must stop no batch
Value = str | float | int | None


@dataclass(frozen=True)
class Record:
    """What the store holds under one id. Ids rise over all kinds and are never used twice.

    ``key`` names the record among all stores in the world; receivers tell repeated deliveries by it. ``source`` is the
    camera. ``captured``, ``triggered`` and ``answered`` are seconds since the epoch. ``inspection`` is the id of the
    record that an answer rests on. ``label`` is what a person said about it, ``defect`` the kind of defect they named,
    ``note`` what else they wrote. A field that its kind lacks is None.
    """

    id: int
    key: str
    kind: Kind
    source: str
    frame: str | None
    captured: float | None
    part: str | None
    verdict: Verdict | None
    score: float | None
    threshold: float | None
    regions: tuple[Region, ...]
    timings_ms: dict[str, float]
    bundle: str | None
    backend: str | None
    reason: str | None
    triggered: float | None
    answered: float | None
    inspection: int | None
    label: str | None = None
    defect: str | None = None
    note: str | None = None

    def as_dict(self) -> dict[str, object]:
        """The fields that other programs read. An inspection has those of ``Inspection.as_dict`` and id, key, kind."""
        head: dict[str, object] = {"id": self.id, "key": self.key, "kind": self.kind, "source": self.source}
        verdict = None if self.verdict is None else self.verdict.value
        part = {} if self.part is None else {"part": self.part}
        if self.kind == "dropped":
            return {**head, "frame": self.frame, "captured": self.captured, "dropped": self.reason, **part}
        if self.kind == "answer":
            return {
                **head, "part": self.part, "verdict": verdict, "reason": self.reason, "score": self.score,
                "frame": self.frame, "triggered": self.triggered, "answered": self.answered,
                "inspection": self.inspection,
            }  # fmt: skip
        return {
            **head, "frame": self.frame, "captured": self.captured, "verdict": verdict, "score": self.score,
            "threshold": self.threshold, "ratio": ratio_of(self.score, self.threshold),
            "regions": [{"box": list(r.box), "area": r.area, "peak": r.peak} for r in self.regions],
            "timings_ms": self.timings_ms,
            "bundle": self.bundle, "backend": self.backend, **part,
        }  # fmt: skip

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.as_dict(), allow_nan=False)


def row_of(record: Inspection | Dropped | Answer, inspection_id: int | None) -> list[Value]:
    """The values of ``COLUMNS``. ``inspection_id`` is the record that an answer rests on."""
    fields: dict[str, object] = {}
    if isinstance(record, Inspection):
        fields = record.as_dict()
        fields |= {"kind": "inspection", "regions": json.dumps(fields["regions"])}
        fields |= {"timings_ms": json.dumps(fields["timings_ms"])}
    elif isinstance(record, Dropped):
        fields = {"kind": "dropped", "source": record.source, "frame": record.id, "captured": record.captured}
        fields |= {"part": record.part, "reason": record.explanation}
    else:
        found = record.inspection
        fields = {"kind": "answer", "source": record.camera, "part": record.part, "verdict": record.verdict.value}
        fields |= {"reason": record.explanation, "triggered": record.triggered, "answered": record.answered}
        if found is not None:
            fields |= {"frame": found.frame, "captured": found.captured, "score": found.score}
            fields |= {"inspection": inspection_id}
    return [_real(plain(fields.get(column))) if column in REALS else plain(fields.get(column)) for column in COLUMNS]


def checksum(number: int, row: Sequence[Value]) -> int:
    """Of a record's id and the values of ``COLUMNS`` as they come back from the file."""
    return zlib.crc32(json.dumps([number, *row]).encode())


def record_from(row: sqlite3.Row, store: str, unchecked: int = 0) -> Record:
    """The record of a row of ``records``, joined with its label or not. Raises ValueError where it is not what was written.

    Records up to the id ``unchecked`` may lack a checksum.
    """
    values = values_of(row)
    expected = values.pop("checksum")
    known = expected == BY_HAND or (expected is None and values["id"] <= unchecked)
    if not known and expected != checksum(values["id"], [values[column] for column in COLUMNS]):
        raise ValueError(f"record {values['id']} is not what was written")
    verdict, regions, timings = values.pop("verdict"), values.pop("regions"), values.pop("timings_ms")
    return Record(
        **values,
        key=f"{store}-{values['id']}",
        verdict=None if verdict is None else Verdict(verdict),
        regions=tuple(Region(tuple(r["box"]), r["area"], r["peak"]) for r in json.loads(regions or "[]")),
        timings_ms=json.loads(timings) if timings else {},
    )


def values_of(row: sqlite3.Row) -> dict[str, Any]:
    """The values of a row of any table by their columns. Raises ValueError where one is of another kind than was written."""
    values = dict(row)
    for name, value in values.items():
        if value is not None and not isinstance(value, _KINDS.get(name, str)):
            raise ValueError(f"the column {name} holds a {type(value).__name__}")
    return values


def plain_text(text: str) -> str:
    """What SQLite takes: text that is no Unicode (file names may hold anything) is written with escapes."""
    return text.encode(errors="backslashreplace").decode()


def _real(value: Value) -> float | None:
    """SQLite keeps no whole numbers and no negative zero in a column of real ones."""
    return None if value is None else float(value) + 0.0


def plain(value: object) -> Value:
    """A value as SQLite and JSON take it; a number that is none becomes None."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    assert value is None or isinstance(value, int | float)
    return value


def outcomes(records: Sequence[Entry]) -> Counter[tuple[int, str, str]]:
    """Outcomes per quarter of an hour and camera. An answer with an inspection is counted as that."""
    counts: Counter[tuple[int, str, str]] = Counter()
    for record in records:
        if isinstance(record, Inspection):
            source, moment, outcome = record.source, record.captured, record.verdict.value
        elif isinstance(record, Dropped):
            source, moment, outcome = record.source, record.captured, "dropped"
        elif isinstance(record, Answer) and record.inspection is None:
            source, moment, outcome = record.camera, record.answered, "fail-safe"
        else:
            continue
        start = int(moment // QUARTER) * QUARTER if abs(moment) < LAST_MOMENT else 0
        counts[start, plain_text(source), outcome] += 1
    return counts
