"""Whether a bundle on trial does its work at the line, judged by what the store says of its first inspections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dskd.jetson.slot_state import Trial
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.result import Verdict
from dskd.runtime.store import StoreReader

PAGE = 1000  # records read at once
Share = Annotated[float, Field(ge=0, le=1)]


class LiveLimits(Strict):
    """What the first inspections of a new bundle must look like."""

    inspections: int = Field(50, ge=1, le=100_000, description="frames after which it is confirmed")
    most_rejected: Share = Field(0.5, description="share of them that may be REJECT; more, and it is rolled back")
    most_dropped: Share = Field(0.1, description="share of frames that may not be inspected")


@dataclass(frozen=True)
class Judgement:
    """``wait`` for more inspections, ``good`` or ``bad``, with the figures."""

    verdict: Literal["wait", "good", "bad"]
    detail: str
    inspected: int = 0


def judge(store: Path, trial: Trial, limits: LiveLimits) -> Judgement:
    """Counts what the bundle on trial has done since. Raises StoreError where the store does not answer."""
    inspected = rejected = dropped = 0
    reader, cursor = StoreReader(store), trial.cursor
    try:
        while inspected + dropped < limits.inspections and (page := reader.after(cursor, PAGE)):
            cursor = page[-1].id
            for record in page:
                if record.kind == "dropped":
                    dropped += 1
                elif record.kind == "inspection" and record.bundle != trial.bundle:
                    dropped = 0  # the old one still worked then: what was dropped before was not our doing
                elif record.kind == "inspection":
                    inspected += 1
                    rejected += record.verdict is Verdict.REJECT
    finally:
        reader.close()
    return weigh(inspected, rejected, dropped, limits)


def weigh(inspected: int, rejected: int, dropped: int, limits: LiveLimits) -> Judgement:
    """What the counts mean. A bundle that can no longer pass is bad at once."""
    shown = f"{inspected} inspected, {rejected} of them rejected, {dropped} dropped, of {limits.inspections} wanted"
    if rejected > limits.most_rejected * max(inspected, limits.inspections):
        return Judgement("bad", f"rejects too much: {shown}")
    if dropped > limits.most_dropped * max(inspected + dropped, limits.inspections):
        return Judgement("bad", f"cannot inspect: {shown}")
    return Judgement("good" if inspected + dropped >= limits.inspections else "wait", shown, inspected)
