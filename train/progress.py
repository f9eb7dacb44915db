"""How far a long piece of work is: a bar on a terminal, else a line every ten seconds; and how far all of it is.

A command that takes minutes says what phases it goes through (``whole_work``, ``enter``) and, once it knows, what is
still to come (``expect``). Then each bar also shows how much of the whole is done and how long the rest takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from dskd.runtime.verbosity import quiet

SECONDS = 10.0  # between lines where there is no terminal
_phases: dict[str, float] = {}  # when each began, by time.monotonic
_to_come: list[tuple[str, float]] = []  # pieces of work, in order, and the seconds each is expected to take


class _Bar(tqdm):  # type: ignore[type-arg] # tqdm has no stubs for its parameters
    """A bar that also shows how far the whole is."""

    def __init__(self, work: Iterable[Any] | None, *, desc: str, **options: Any) -> None:
        for k, (name, _) in enumerate(_to_come):
            if name == desc:  # what stood before it was left out
                del _to_come[: k + 1]
                break
        super().__init__(work, desc=desc, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar's text is made of."""
        fields = dict(super().format_dict)
        done, elapsed = fields["n"] - fields["initial"], fields["elapsed"]
        left = elapsed / done * ((fields["total"] or 0) - fields["n"]) if done > 0 else 0.0
        return fields | {"in_all": in_all(left)}


class _Lines(_Bar):
    """For a log: a line each time instead of a bar that is drawn over."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Writes a line; none at the end, which the next message tells."""
        if pos is None and self.n < (self.total or 0):
            self.fp.write(f"{self}\n")


def progress(work: Iterable[Any] | None = None, *, desc: str, unit: str, **options: Any) -> Any:
    """``work`` with its progress on stderr; the words are tqdm's."""
    if sys.stderr is not None and sys.stderr.isatty():
        form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]{in_all}"
        return _Bar(work, desc=desc, unit=unit, leave=False, bar_format=form, disable=quiet(), **options)
    plural = f"{unit}es" if unit.endswith("ch") else f"{unit}s"
    form = "{desc}: {n_fmt} of {total_fmt} " + plural + ", {elapsed} gone, {remaining} left{in_all}"
    return _Lines(
        work, desc=desc, unit=unit, leave=False, bar_format=form, mininterval=SECONDS, maxinterval=SECONDS,
        delay=SECONDS, disable=quiet() or sys.stderr is None, **options,
    )  # fmt: skip


@contextmanager
def whole_work(phase: str) -> Iterator[None]:
    """All that a command does, which begins with ``phase``."""
    _phases.clear()
    _to_come.clear()
    enter(phase)
    try:
        yield
    finally:
        _to_come.clear()


def enter(phase: str) -> None:
    """The phase that begins now; the one before it is over."""
    _phases.setdefault(phase, time.monotonic())


def expect(pieces: Iterable[tuple[str, float]]) -> None:
    """What is still to come after the present piece: the ``desc`` of each and the seconds it is expected to take."""
    _to_come[:] = pieces


def gone() -> float:
    """Seconds since the whole work began."""
    return time.monotonic() - next(iter(_phases.values())) if _phases else 0.0


def to_come() -> float:
    """Seconds that the pieces after the present one are expected to take."""
    return sum(seconds for _, seconds in _to_come)


def in_all(left: float) -> str:
    """``; 35% of all, about 4 min left``, where the present piece takes ``left`` seconds more. Empty where not known."""
    if not _to_come:
        return ""
    left += to_come()
    share = gone() / max(gone() + left, 1e-9)
    return f"; {share:.0%} of all, about {duration(left)} left"


def phases_text() -> str:
    """What each phase took until now, in order: ``preparing 3 s, training 16 min``."""
    begun = [*_phases.values(), time.monotonic()]
    return ", ".join(
        f"{name} {duration(end - start)}" for name, start, end in zip(_phases, begun, begun[1:], strict=False)
    )


def duration(seconds: float) -> str:
    """For people: seconds under two minutes, then minutes, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
