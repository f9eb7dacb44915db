"""Which stored scores a threshold can be judged by, and what to ask before thresholds that look wrong come into use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dskd.runtime.result import Verdict
from dskd.runtime.station.control import CameraStatus
from dskd.runtime.store import Scored, StoreReader
from dskd.runtime.store.search import GOOD_LABELS

LAST = 2000  # parts that a question rests on
MOST_DEFECTS = 1000
FEWEST = 10  # parts, under which "none of them would pass" says little
FAR = 2.0  # times the highest score: a slip of the decimal point is ten times, a careful choice is not
_GOOD = [label.value for label in GOOD_LABELS]


@dataclass(frozen=True)
class Limits:
    """Over ``review`` a person looks, over ``reject`` the part goes out."""

    review: float
    reject: float

    def verdict_of(self, row: Scored) -> Verdict:
        """What they would say of a part, by its score; the page computes the same in preview.js.

        A part's regions may have been too small to count: it passed with a score over the threshold, and still would.
        """
        if (row.verdict is Verdict.PASS and row.score > row.threshold) or row.score <= self.review:
            return Verdict.PASS
        return Verdict.REJECT if row.score > self.reject else Verdict.REVIEW


@dataclass(frozen=True)
class Basis:
    """Scores of a camera by the bundle and backend that it runs now: scores of others are on another scale.

    ``recent`` of the last parts, ``defects`` of those that a person called a defect, however old; newest first.
    ``others`` counts the last parts that are left out.
    """

    recent: list[Scored]
    defects: list[Scored]
    others: int


def basis(store: StoreReader, camera: CameraStatus, last: int = LAST) -> Basis:
    """What is stored of a camera's last ``last`` parts."""

    def of_this(rows: Sequence[Scored]) -> list[Scored]:
        return [row for row in rows if (row.bundle, row.backend) == (camera.bundle, camera.backend)]

    rows = store.scores(camera.status.name, last)
    recent = of_this(rows)
    defects = of_this(store.scores(camera.status.name, MOST_DEFECTS, "known defects"))
    return Basis(recent, defects, len(rows) - len(recent))


def doubts(found: Basis, now: Limits, then: Limits) -> list[str]:
    """What speaks against thresholds, a clause each; nothing where they look sensible."""
    told = []
    missed = sum(now.verdict_of(row) is not Verdict.PASS is then.verdict_of(row) for row in found.defects)
    if missed:
        told.append(f"{missed} of {_count(found.defects, 'known defect')} would pass")
    rows, scores = found.recent, [row.score for row in found.recent]
    if then.review < 0 and min(scores, default=0.0) >= 0:
        told.append("no part would pass, because scores are not below 0")
    elif len(rows) >= FEWEST and all(then.verdict_of(row) is not Verdict.PASS for row in rows):
        told.append(f"none of the last {len(rows)} parts would pass")
    highest = max([*scores, *(row.score for row in found.defects), now.reject])
    stopped = [row for row in rows if now.verdict_of(row) is not Verdict.PASS and row.label not in _GOOD]
    if then.reject > FAR * highest > 0:
        told.append(f"reject over {then.reject:g} is far over every score and the present threshold ({highest:g})")
    elif stopped and all(then.verdict_of(row) is Verdict.PASS for row in rows):
        told.append(f"all of the last {_count(rows, 'part')} would pass, also {len(stopped)} that do not pass now")
    return told


def _count(rows: Sequence[Scored], what: str) -> str:
    return f"{len(rows)} {what}{'' if len(rows) == 1 else 's'}"
