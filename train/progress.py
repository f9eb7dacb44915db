"""How far a long piece of work is: a bar on a terminal, else a line every ten seconds; and what each piece took."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from dskd.runtime.verbosity import quiet

SECONDS = 10.0  # between lines where there is no terminal
_times: dict[str, float] = {}


class _Timed(tqdm):  # type: ignore[type-arg] # tqdm has no stubs for its parameters
    """A bar that notes at its end how long it stood."""

    def close(self) -> None:
        """Notes the time once."""
        if not (self.disable or getattr(self, "noted", False)):  # tqdm keeps no time where it shows nothing
            self.noted = True
            name = self.desc.removesuffix(": ")
            _times[name] = _times.get(name, 0.0) + float(self.format_dict["elapsed"])
        super().close()


class _Lines(_Timed):
    """For a log: a line each time instead of a bar that is drawn over."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Writes a line; none at the end, which the next message tells."""
        if pos is None and self.n < (self.total or 0):
            self.fp.write(f"{self}\n")


def progress(work: Iterable[Any] | None = None, *, desc: str, unit: str, **options: Any) -> Any:
    """``work`` with its progress on stderr; the words are tqdm's."""
    if sys.stderr is not None and sys.stderr.isatty():
        return _Timed(work, desc=desc, unit=unit, leave=False, disable=quiet(), **options)
    form = "{desc}: {n_fmt} of {total_fmt} " + unit + "s, {elapsed} gone, {remaining} left"
    return _Lines(
        work, desc=desc, unit=unit, leave=False, bar_format=form, mininterval=SECONDS, maxinterval=SECONDS,
        delay=SECONDS, disable=quiet() or sys.stderr is None, **options,
    )  # fmt: skip


def clear_times() -> None:
    """At the beginning of a command's work."""
    _times.clear()


def times_text() -> str:
    """What each piece took, in order: ``preparing 3 s, training 16 min``. Empty where nothing took a second."""
    return ", ".join(f"{name} {duration(took)}" for name, took in _times.items() if took >= 1)


def duration(seconds: float) -> str:
    """For people: seconds under two minutes, then minutes, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
