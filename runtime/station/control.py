"""What a running station shows and lets others do: the page, a PLC, MQTT commands and systemd see only this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dskd.runtime.capture.picture_quality import Quality
from dskd.runtime.result import Image, Inspection
from dskd.runtime.status import Health


@dataclass(frozen=True)
class PartStatus:
    """One camera, sink or output: how it is, in a sentence a person can act on; ``since`` is seconds since the epoch."""

    name: str
    kind: str
    health: Health
    detail: str
    since: float


@dataclass(frozen=True)
class CameraStatus:
    """One camera with its counts since start: ``captured == inspected + dropped + waiting``.

    ``bundle`` (its id) and ``backend`` are those that inspect now, as they stand in each inspection.
    """

    status: PartStatus
    recipe: str
    bundle: str
    backend: str
    review: float
    reject: float
    ready: bool
    captured: int
    inspected: int
    dropped: int
    waiting: int
    missed_triggers: int
    reconnects: int
    verdicts: dict[str, int]
    latency_ms: dict[str, float]  # p50, p99, max from capture to verdict over the last minutes


@dataclass(frozen=True)
class StationStatus:
    """All of a station at one moment."""

    name: str
    health: Health
    started: float
    now: float
    cameras: tuple[CameraStatus, ...]
    parts: tuple[PartStatus, ...]  # sinks, outputs, store, disk
    recipes: tuple[str, ...]


def health_fields(status: StationStatus) -> dict[str, object]:
    """What ``/healthz`` tells: no more than the health of each part."""
    parts = {f"camera {c.status.name}": c.status.health for c in status.cameras}
    parts |= {f"{p.kind} {p.name}": p.health for p in status.parts}
    return {"station": status.name, "health": status.health, "parts": parts}


@dataclass(frozen=True)
class Live:
    """The newest inspected frame of a camera; ``inspection.anomaly_map`` is at network size, None where it was not needed."""

    image: Image
    inspection: Inspection
    crop: tuple[int, int, int, int] | None


class PlcState(NamedTuple):
    """What a PLC reads of its camera."""

    ready: bool  # for a trigger
    parts: int  # under way
    error: int  # code of the register map, 0 where all works
    job: int
    missed: int  # triggers


class StationControl(Protocol):
    """Thread-safe. Changing calls name who asked; they are written to the audit log of the store."""

    def status(self) -> StationStatus:
        """The present state; cheap enough for several calls a second."""
        ...

    def live(self, camera: str) -> Live | None:
        """The newest inspected frame, None before the first."""
        ...

    def quality(self, camera: str) -> list[Quality]:
        """Of the camera's inspected pictures over the last day or since the start, oldest first."""
        ...

    def trigger(self, camera: str, part: str | None) -> str:
        """Starts one inspection; returns the part id. Raises DskdError where the camera is not ready."""
        ...

    def set_thresholds(self, camera: str, review: float, reject: float, who: str, bundle: str | None = None) -> None:
        """Changes the recipe's thresholds from the next frame on, and keeps them.

        Raises CallError, and DskdError where ``bundle`` is not the one (its id) that the camera runs by now.
        """
        ...

    def set_recipe(self, camera: str, recipe: str, who: str) -> None:
        """Loads a recipe beside the present one and switches between two frames. Raises CallError or DskdError.

        Other cameras of the recipe change with it, so that all of them run one bundle.
        """
        ...

    def accept_clock(self, who: str) -> None:
        """Says that the wall clock is right although it jumped; what is old by it may be deleted again."""
        ...

    def reference(self, camera: str) -> tuple[list[float], str] | None:
        """Scores of good parts that passes are compared with, and which parts they are; None where none are known yet."""
        ...

    def rejudge(self, image: Image, camera: str) -> Inspection:
        """Inspects a stored picture with the camera's present recipe; nothing is stored."""
        ...
