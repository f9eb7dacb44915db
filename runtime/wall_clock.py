"""Whether the wall clock can be believed: nothing is deleted by age on one that cannot.

A device without a battery for its clock starts in the past; a wrong answer of a time server puts it years ahead. Both
are told by a clock that only counts: the kernel's time since boot, which nobody sets. Between two boots nothing counts,
so there the wall clock may have gone ahead by a long weekend, no more, and is taken as true once it has held for an hour.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from dskd.runtime.errors import DskdError

EARLIEST = 1_704_067_200.0  # 2024-01-01: no station is older
SLACK = 120.0  # seconds that a time server may set the clock by, unnoticed
OFF = 4 * 86400.0  # seconds that a device may have been off: a long weekend
SETTLED = 3600.0  # seconds after which a clock that was set by at most OFF is taken as true
DAY = 86400.0
MOST_SPANS = 100
CLOCK = "clock"  # note in the store that holds what ``as_kept`` gave

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Span:
    """Records ``first`` to ``last`` (ids) were made under a clock that was not believed, truly at about ``when``."""

    first: int
    last: int
    when: float


@dataclass(frozen=True)
class _Anchor:
    """The wall clock as it was believed when the counting clock stood at ``ran``; ``off``: how long it may not have run."""

    wall: float
    ran: float
    off: float


class WallClock:
    """Any thread may ask. ``newest`` gives the largest id in the store, ``kept`` is what ``as_kept`` gave before.

    ``last_record``: when the newest record was made, for a store that never kept more. ``earliest``: a moment that
    surely is past.
    """

    def __init__(
        self,
        kept: str | None = None,
        last_record: float | None = None,
        *,
        newest: Callable[[], int] = lambda: 0,
        earliest: float = EARLIEST,
        wall: Callable[[], float] = time.time,
        ran: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        boot: str | None = None,
    ) -> None:
        self._newest, self._earliest, self._wall, self._ran = newest, max(earliest, EARLIEST), wall, ran
        self._boot = _boot() if boot is None else boot
        self._lock = threading.Lock()
        self._doubt, self._since = "", time.time()
        self._steady: tuple[float, float] | None = None  # how far ahead, and since when by the counting clock
        self._seen = self._first = newest()
        self._spans: list[Span] = []
        self._anchor = self._read(kept) if kept else None
        if self._anchor is None and last_record is not None and last_record >= EARLIEST:
            self._anchor = _Anchor(last_record, ran(), OFF)

    def doubt(self) -> str:
        """Why the wall clock is not believed now, empty where it is. Costs little; ask often."""
        with self._lock:
            now, ran = self._wall(), self._ran()
            self._judge(now, ran)
            return self._doubt

    @property
    def since(self) -> float:
        """Since when (seconds since the epoch) ``doubt`` says what it says."""
        return self._since

    def safe_now(self) -> float | None:
        """A moment (seconds since the epoch) that surely is not in the future; None while the clock is not believed."""
        if self.doubt():
            return None
        with self._lock:
            return min(self._wall(), self._expected(self._ran()))

    def likely_now(self) -> float:
        """About when it is, by the counting clock where the wall clock is not believed."""
        if not self.doubt():
            return self._wall()
        with self._lock:
            return self._wall() if self._anchor is None else self._expected(self._ran())

    def accept(self) -> None:
        """A person says that the clock is right. Raises DskdError where it cannot be."""
        with self._lock:
            now, ran = self._wall(), self._ran()
            if now < self._earliest:
                raise DskdError(f"the clock says {_shown(now)}, which is past; set it first")
            self._believe(now, ran)
            self._enter("", now)

    def spans(self) -> tuple[Span, ...]:
        """Which records carry times that mean nothing, the present ones too."""
        with self._lock:
            if not self._doubt:
                return tuple(self._spans)
            return (*self._spans, Span(self._first, 1 << 62, self._likely()))

    def forget(self, before: float) -> None:
        """Lets spans go whose records are deleted."""
        with self._lock:
            self._spans = [span for span in self._spans if span.when >= before]

    def as_kept(self, ids: bool = True) -> str:
        """What the next start needs to know. Without ``ids`` of records it is true of any store."""
        with self._lock:
            spans = [[s.first, s.last, s.when] for s in self._spans if ids]
            fields: dict[str, object] = {"boot": self._boot, "spans": spans}
            if self._anchor is not None:
                fields |= {"wall": self._anchor.wall, "ran": self._anchor.ran, "off": self._anchor.off}
                fields |= {"latest": self._expected(self._ran())}
            if self._doubt and ids:
                fields["first"] = self._first
            return json.dumps(fields)

    def _judge(self, now: float, ran: float) -> None:
        shown = _shown(now)
        if now < self._earliest:
            self._enter(f"the clock says {shown}, which is past: it is not set", now)
            return
        if self._anchor is None:
            self._believe(now, ran)
        ahead = now - self._expected(ran)
        if ahead < -SLACK:
            self._enter(f"the clock says {shown}, {_long(-ahead)} before what it said until now", now)
        elif ahead > SLACK + (0.0 if self._anchor is None else self._anchor.off):
            self._enter(f"the clock says {shown}, {_long(ahead)} ahead of what it said last", now)
        else:
            self._settle(now, ran, ahead)
            self._enter("", now)

    def _settle(self, now: float, ran: float, ahead: float) -> None:
        """Takes the clock as true: one that was set once it held for a while, any other once a day."""
        assert self._anchor is not None
        if self._steady is None or abs(self._steady[0] - ahead) > SLACK:
            self._steady = ahead, ran
        held = ran - self._steady[1]
        if held >= (SETTLED if ahead > SLACK else DAY):
            self._believe(now, ran)

    def _believe(self, now: float, ran: float) -> None:
        self._anchor, self._steady = _Anchor(now, ran, 0.0), None
        self._spans = [s if s.when >= EARLIEST else Span(s.first, s.last, now) for s in self._spans]

    def _expected(self, ran: float) -> float:
        return self._wall() if self._anchor is None else self._anchor.wall + ran - self._anchor.ran

    def _likely(self) -> float:
        return self._expected(self._ran())

    def _enter(self, doubt: str, now: float) -> None:
        newest = self._newest()
        if bool(doubt) != bool(self._doubt):
            if doubt:
                self._first = self._seen + 1  # it may have jumped at any time since the last look
            else:
                when = now if self._anchor is None else self._expected(self._ran())
                self._spans = [*self._spans, Span(self._first, newest, when)][-MOST_SPANS:]
            self._since = now
        self._doubt, self._seen = doubt, newest

    def _read(self, kept: str) -> _Anchor | None:
        """What an earlier start kept; of another boot only when it was last believed."""
        with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            fields = json.loads(kept)
            self._spans = [Span(int(first), int(last), float(when)) for first, last, when in fields["spans"]]
            if "first" in fields:
                self._spans.append(Span(int(fields["first"]), self._seen, float(fields.get("latest", 0.0))))
            if fields["boot"] == self._boot and fields["ran"] <= self._ran():
                return _Anchor(_finite(fields["wall"]), _finite(fields["ran"]), _finite(fields["off"]))
            return _Anchor(_finite(fields["latest"]), self._ran(), OFF)
        return None


def _finite(value: float) -> float:
    if not math.isfinite(value):  # beside it no clock is ever ahead
        raise ValueError(f"{value} is no time")
    return float(value)


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _shown(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return f"{moment:.0f} seconds since 1970"


def _long(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 2 * DAY else f"{seconds / DAY:.0f} days"
