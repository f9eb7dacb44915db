"""Why a frame or a part has no verdict of its own: a fixed set that programs read, with a detail for people."""

from __future__ import annotations

from enum import Enum

from dskd.runtime.errors import DskdError, one_line


class Reason(str, Enum):
    """Why a frame was dropped, and what an answer rests on. The value begins the text that is stored and shown."""

    INSPECTED = "inspected"
    # found by the camera's thread
    REPLACED = "replaced"  # a newer frame overtook it
    OVERFLOW = "overflow"
    UNASKED = "unasked"  # no part was waiting for it
    INCOMPLETE = "incomplete"
    CAMERA_LOST = "camera lost"
    ENDED = "ended"
    STOPPED = "stopped"
    FROZEN = "frozen"
    BLACK = "black"
    OVER_EXPOSED = "over-exposed"
    BLANK = "blank"
    BLURRED = "blurred"
    SIZE = "size"
    MISSED_TRIGGER = "missed trigger"  # the camera's input line started a frame that no part could be announced for
    # found before or during inspection
    STORE_FULL = "store full"
    LATE = "late"
    PART_NOT_FOUND = "part not found"
    ROI = "region of interest"
    MAP = "anomaly map"
    BACKEND_FAILED = "backend failed"
    BACKEND_CLOSED = "backend cannot be opened"
    INSPECTION_FAILED = "inspection failed"
    UNUSABLE = "unusable"  # the picture: damaged, too large, of no fitting size or kind
    # of a part alone
    NO_FRAME = "no frame before the deadline"
    NO_VERDICT = "no verdict before the deadline"
    STATION_STOPPED = "the station stopped"
    STATION_KILLED = "the station was killed before it answered"

    def __str__(self) -> str:
        return self.value

    def text(self, detail: str = "") -> str:
        """What people read and the store keeps: ``black: 95 % of the picture are darker than 8 of 255``."""
        if not detail:
            return self.value
        return detail if self in _SAID_BY_DETAIL else f"{self.value}: {detail}"

    @property
    def label(self) -> str:
        """The value of Prometheus' label ``reason``."""
        return "other" if self is Reason.UNUSABLE else self.value


_SAID_BY_DETAIL = frozenset({Reason.UNUSABLE, Reason.MISSED_TRIGGER})  # a file's or camera's name stands first there


class NotInspected(DskdError):
    """A frame that cannot be inspected: why, and what a person should know and do."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, one_line(detail)
        super().__init__(reason.text(self.detail))

    @classmethod
    def of(cls, error: DskdError) -> NotInspected:
        """``error`` with its reason; one that names none is about an unusable picture."""
        return error if isinstance(error, cls) else cls(Reason.UNUSABLE, str(error))
