"""Which inspections are looked for in the store, in which order, and what people called them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from dskd.runtime.result import Verdict
from dskd.runtime.store.records import Record, Value


class Label(str, Enum):
    """What a person said about an inspection after looking at the part."""

    GOOD = "confirmed good"
    FALSE_ALARM = "false alarm"
    DEFECT = "confirmed defect"
    MISSED = "missed defect"


GOOD_LABELS = (Label.GOOD, Label.FALSE_ALARM)
DEFECT_LABELS = (Label.DEFECT, Label.MISSED)
LABELS = {
    "good": f"label IN ({', '.join(repr(label.value) for label in GOOD_LABELS)})",
    "defect": f"label IN ({', '.join(repr(label.value) for label in DEFECT_LABELS)})",
    "any": "label IS NOT NULL",
    "none": "label IS NULL",
}
ORDERS = {  # and what comes after one of them
    "newest": ("id DESC", "id < ?"),
    "oldest": ("id", "id > ?"),
    "score": (
        "ifnull(score / threshold, -1e308) DESC, id DESC",
        "(ifnull(score / threshold, -1e308), id) < "
        "(SELECT ifnull(score / threshold, -1e308), id FROM records WHERE id = ?)",
    ),
}


@dataclass(frozen=True)
class Search:
    """Which inspections are looked for, and in which order; what is None does not matter.

    ``part``: a piece of the part's name, or of the frame's. ``since`` and ``until``: seconds since the epoch, the second
    one not included. ``least`` and ``most``: of the score, in multiples of the threshold that was in use. ``label``:
    "good", "defect", "any" or "none".
    """

    verdicts: tuple[Verdict, ...] = (Verdict.REVIEW, Verdict.REJECT)
    source: str | None = None
    part: str | None = None
    since: float | None = None
    until: float | None = None
    least: float | None = None
    most: float | None = None
    label: Literal["good", "defect", "any", "none"] | None = None
    order: Literal["newest", "oldest", "score"] = "newest"

    def key(self, record: Record) -> tuple[float, int]:
        """What records are sorted by."""
        return (_share(record) if self.order == "score" else 0.0), record.id

    def conditions(self) -> tuple[str, list[Value]]:
        """As SQL but for the verdict, with its values."""
        asked: list[tuple[str, Value]] = [
            ("source = ?", self.source),
            ("(instr(part, ?) > 0 OR instr(frame, ?) > 0)", self.part),
            ("captured >= ?", self.since),
            ("captured < ?", self.until),
            ("score >= ? * threshold", self.least),
            ("score <= ? * threshold", self.most),
        ]
        given = [(text, value) for text, value in asked if value is not None]
        clauses = ["kind = 'inspection'", *(text for text, _ in given)]
        values: list[Value] = [value for text, value in given for _ in range(text.count("?"))]
        if self.label is not None:
            clauses.append(LABELS[self.label])
        return " AND ".join(clauses), values


def _share(record: Record) -> float:
    return record.score / record.threshold if record.score is not None and record.threshold else -1e308
