"""How something that runs by itself is: a state, a sentence about it, and since when. Every change is logged."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

Health = Literal["ok", "warning", "fault"]
S = TypeVar("S", bound=str)
_GOOD = ("ok", "running", "ended", "stopped")  # states that need nobody's attention


@dataclass(frozen=True)
class Moment(Generic[S]):
    """A status at one moment. ``since`` (seconds since the epoch) is when ``state`` began."""

    state: S
    detail: str
    since: float
    _entered: float  # the same by the monotonic clock: the wall clock may be set

    @property
    def age(self) -> float:
        """Seconds since ``state`` began."""
        return time.monotonic() - self._entered


class Status(Generic[S]):
    """The status of ``what``, entered and read by any thread. Without ``log`` nothing is logged.

    A state that calls for attention is logged again where its detail changes; one that does not may change its detail
    with every frame.
    """

    def __init__(self, what: str, state: S, detail: str, log: logging.Logger | None) -> None:
        self._what, self._log = what, log
        self._lock = threading.Lock()
        self._now = Moment(state, detail, time.time(), time.monotonic())

    @property
    def now(self) -> Moment[S]:
        """State, detail and since, of one moment."""
        return self._now

    def enter(self, state: S, detail: str, hint: str = "") -> bool:
        """Takes what is so now; whether it is another state than before. A new ``hint`` alone is not worth a line."""
        text = f"{detail}; {hint}" if hint else detail
        now = self._now
        if now.state == state and now.detail == text:  # as with most frames
            return False
        with self._lock:
            before = self._now
            changed = state != before.state
            now = Moment(state, text, time.time(), time.monotonic())
            self._now = now if changed else replace(before, detail=text)
            told = changed or (state not in _GOOD and not before.detail.startswith(detail))
        if told and self._log is not None:
            level = logging.INFO if state in _GOOD else logging.ERROR if state == "fault" else logging.WARNING
            self._log.log(level, "%s: %s", self._what, text, extra={"state": state})
        return changed
