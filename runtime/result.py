"""The one result type that travels from the inspector to every sink."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.reason import Reason


class Verdict(str, Enum):
    """What to do with the part."""

    PASS = "PASS"
    REVIEW = "REVIEW"
    REJECT = "REJECT"

    def __str__(self) -> str:
        return self.value


Image = NDArray[np.uint8]  # [H, W, 3], BGR


@dataclass(frozen=True)
class Region:
    """A connected part of the map over the threshold. ``box`` is (x, y, width, height), ``area`` in frame pixels."""

    box: tuple[int, int, int, int]
    area: int
    peak: float


def no_op() -> None:
    """For sources that need not know what became of a frame."""


@dataclass(frozen=True)
class Frame:
    """An image that a source captured. ``captured`` is seconds since the epoch.

    ``source`` is the URI, or the camera's name in a station. ``device_time`` is the camera's own clock in seconds, None
    where it has none. ``part`` is what the trigger called the part, None where nothing triggered. ``stored`` is called
    once what became of the frame is stored, from any thread, and does not raise: a source that could give the frame
    again after a kill does so until then.
    """

    source: str
    id: str
    captured: float
    image: Image
    device_time: float | None = None
    part: str | None = None
    stored: Callable[[], None] = field(default=no_op, compare=False, repr=False)

    def dropped(self, reason: Reason, detail: str = "") -> Dropped:
        """The record of this frame where it will not be inspected."""
        return Dropped(self.source, self.id, self.captured, reason, detail, self.part, self.stored)


@dataclass(frozen=True)
class Dropped:
    """A frame that was captured but could not be inspected, and why. ``stored`` as in Frame.

    ``frames`` is set where one record stands for several frames, lost for one reason.
    """

    source: str
    id: str
    captured: float
    reason: Reason
    detail: str = ""
    part: str | None = None
    stored: Callable[[], None] = field(default=no_op, compare=False, repr=False)
    frames: int | None = None

    @property
    def explanation(self) -> str:
        """The reason for people, and as it is stored."""
        text = self.reason.text(self.detail)
        return text if self.frames is None else f"{self.frames} frames: {text}"


@dataclass(frozen=True)
class Found:
    """Where a fixture found the part: the ``corners`` (x, y) of the picture that it cut out, in frame pixels, from what is
    its top left on clockwise; ``angle`` in degrees clockwise; ``likeness`` to the reference, 1 at most.
    """

    corners: tuple[tuple[float, float], ...]
    angle: float
    likeness: float

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"corners": [list(c) for c in self.corners], "angle": self.angle, "likeness": self.likeness}


def ratio_of(score: float | None, threshold: float | None) -> float | None:
    """A score as a multiple of the reject threshold; None where one is not known or the threshold is 0."""
    return score / threshold if score is not None and threshold else None


@dataclass(frozen=True)
class Inspection:
    """What was decided about one frame.

    ``anomaly_map`` [H, W] is at network size, of a tiled frame as fine as its tiles' maps, None where nothing asked. It
    ``covers`` a box (x, y, width, height) of the frame, all of it where that is None. ``found``: where the part was
    found, None where nothing sought it.
    """

    source: str
    frame: str
    captured: float
    verdict: Verdict
    score: float
    threshold: float
    regions: tuple[Region, ...]
    timings_ms: dict[str, float]
    bundle: str
    backend: str
    anomaly_map: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    part: str | None = None
    covers: tuple[int, int, int, int] | None = field(default=None, repr=False)
    found: Found | None = None

    @property
    def ratio(self) -> float | None:
        """Score over reject threshold: over 1 is REJECT. None where the threshold is 0."""
        return ratio_of(self.score, self.threshold)

    def as_dict(self) -> dict[str, object]:
        """The fields that other programs read; the map is left out."""
        return {
            "source": self.source,
            "frame": self.frame,
            "captured": self.captured,
            "verdict": self.verdict.value,
            "score": self.score,
            "threshold": self.threshold,
            "ratio": self.ratio,
            "regions": [{"box": list(r.box), "area": r.area, "peak": r.peak} for r in self.regions],
            "timings_ms": self.timings_ms,
            "bundle": self.bundle,
            "backend": self.backend,
            **({} if self.part is None else {"part": self.part}),
            **({} if self.found is None else {"found": self.found.as_dict()}),
        }

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.as_dict(), allow_nan=False)


Result = tuple[Frame, Inspection] | Dropped  # what became of one frame


@dataclass(frozen=True)
class Answer:
    """What the line is told about one part, exactly once. Times are seconds since the epoch.

    ``inspection`` is None where nothing was inspected; then ``verdict`` is the fail-safe one and ``reason`` says why.
    ``moment`` is ``triggered`` by the monotonic clock, for who counts from it: the wall clock may be set meanwhile.
    """

    camera: str
    part: str
    verdict: Verdict
    reason: Reason
    triggered: float
    answered: float
    inspection: Inspection | None = None
    moment: float | None = field(default=None, compare=False)
    detail: str = ""

    @property
    def explanation(self) -> str:
        """The reason for people, and as it is stored."""
        return self.reason.text(self.detail)


@dataclass(frozen=True)
class Announced:
    """A part that a trigger announced: stored before the trigger is acknowledged, so that a kill leaves a trace of it.

    ``triggered`` is seconds since the epoch.
    """

    camera: str
    part: str
    triggered: float


Entry = Inspection | Dropped | Answer | Announced  # what the store takes
