"""Inspections, dropped frames and answers as a line makes them."""

from __future__ import annotations

import numpy as np

from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Dropped, Frame, Inspection, Region, Verdict


def inspection(
    number: int,
    verdict: Verdict = Verdict.PASS,
    score: float | None = None,
    *,
    source: str = "top",
    part: str | None = None,
    bundle: str = "b1",
    regions: int = 1,
    captured: float | None = None,
) -> Inspection:
    return Inspection(
        source=source,
        frame=f"f{number:06}",
        captured=1_790_000_000.0 + number if captured is None else captured,
        verdict=verdict,
        score=number / 100 if score is None else score,
        threshold=1.0,
        regions=tuple(Region((k, 2, 3, 4), 12, 0.5) for k in range(regions)),
        timings_ms={"preprocess": 1.5, "inference": 20.25, "decision": 0.125},
        bundle=bundle,
        backend="onnxruntime-cpu",
        part=part,
    )


def dropped(number: int, reason: Reason = Reason.BLANK, detail: str = "all black", source: str = "top") -> Dropped:
    return Dropped(source, f"f{number:06}", 1_790_000_000.0 + number, reason, detail)


def answer(number: int, found: Inspection | None = None) -> Answer:
    moment = 1_790_000_000.0 + number
    verdict = Verdict.REJECT if found is None else found.verdict
    reason = Reason.INSPECTED if found else Reason.NO_VERDICT
    return Answer("top", f"p{number}", verdict, reason, moment, moment + 0.1, found)


def frame_of(found: Inspection, side: int = 32) -> Frame:
    picture = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    return Frame(found.source, found.frame, found.captured, picture)
