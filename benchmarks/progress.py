"""How far a measurement is, for people who wait: one line that is written over."""

from __future__ import annotations

import sys
import time


class Progress:
    """Tells on a terminal how many of ``steps`` are done and how long the rest will take."""

    def __init__(self, what: str, steps: int, quiet: bool = False) -> None:
        self._what, self._steps, self._done = what, steps, 0
        self._quiet, self._begun = quiet or not sys.stderr.isatty(), time.monotonic()

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        if self._quiet:
            return
        left = (time.monotonic() - self._begun) / self._done * (self._steps - self._done)
        end = "\n" if self._done == self._steps else ""
        print(
            f"\r{self._what}: {self._done} of {self._steps}, {left:.0f} s left  ", end=end, file=sys.stderr, flush=True
        )
