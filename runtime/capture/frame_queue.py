"""What a camera captured and nobody has taken yet: bounded, every frame counted once."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal, Protocol

from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame

Policy = Literal["latest", "every"]

REPLACED = "a newer frame came before this one was taken"
_MOST_BYTES = 64 << 20  # of frames that wait where their source can wait too: a device has little memory
_MOST_RECORDS = 1000  # dropped frames that wait to be taken; only a station that hangs lets so many gather


@dataclass(frozen=True)
class Counts:
    """``captured == handed_out + dropped + waiting``; ``drops`` is ``dropped`` by reason, ``handed_out`` frames alone.

    ``unreported`` are those of ``dropped`` whose record was thrown away because nobody took it.
    """

    captured: int
    handed_out: int
    dropped: int
    waiting: int
    unreported: int
    drops: dict[Reason, int]


class Listener(Protocol):
    """Wants to know when there is something to take."""

    def frame_ready(self) -> None:
        """Called from the thread that puts; must not block."""
        ...


class FrameQueue:
    """Between one capture thread that puts and any threads that take."""

    def __init__(self, policy: Policy, depth: int, listener: Listener | None = None) -> None:
        self.policy, self.depth = policy, depth
        self._listener = listener
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._records: deque[Dropped] = deque()
        self._drops: Counter[Reason] = Counter()
        self._handed_out = self._unreported = 0
        self._closed = False

    def put(self, captured: Frame | Dropped, replaceable: bool = True) -> None:
        """Adds one; what has no room is dropped. A frame of a part is never replaced by a newer one."""
        with self._changed:
            if isinstance(captured, Dropped):
                self._drop(captured)
            else:
                self._put_frame(captured, replaceable)
            self._changed.notify_all()
        if self._listener is not None:
            self._listener.frame_ready()

    def take(self, timeout: float) -> Frame | Dropped | None:
        """Records of dropped frames first, then the oldest frame; None where nothing came in ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._records or self._frames, timeout)
            if self._records:
                return self._records.popleft()
            if not self._frames:
                return None
            self._handed_out += 1
            self._changed.notify_all()  # there is room
            return self._frames.popleft()

    def wait_for_room(self, timeout: float) -> bool:
        """Whether a frame would be kept; for sources that can wait."""

        def room() -> bool:
            waiting = sum(frame.image.nbytes for frame in self._frames)
            return len(self._frames) < self.depth and (not waiting or waiting < _MOST_BYTES)

        with self._changed:
            self._changed.wait_for(lambda: self._closed or room(), timeout)
            return not self._closed and room()

    def close(self) -> None:
        """Nobody waits for room any more; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def counts(self) -> Counts:
        """The counts of one moment."""
        with self._changed:
            dropped, waiting = self._drops.total(), len(self._frames)
            captured = self._handed_out + dropped + waiting
            return Counts(captured, self._handed_out, dropped, waiting, self._unreported, dict(self._drops))

    def _put_frame(self, frame: Frame, replaceable: bool) -> None:
        if (
            replaceable
            and self.policy == "latest"
            and frame.part is None
            and self._frames
            and self._frames[-1].part is None
        ):
            self._drop(self._frames.pop().dropped(Reason.REPLACED, REPLACED))
        if len(self._frames) >= self.depth:
            self._drop(frame.dropped(Reason.OVERFLOW, f"{self.depth} frames wait already; inspection is too slow"))
        else:
            self._frames.append(frame)

    def _drop(self, record: Dropped) -> None:
        self._drops[record.reason] += 1
        if len(self._records) == _MOST_RECORDS:
            self._records.popleft()
            self._unreported += 1
        self._records.append(record)
