"""The interface of a sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dskd.runtime.result import Result


class Sink(Protocol):
    """Takes what became of every frame."""

    needs_map: bool

    def write(self, results: Sequence[Result]) -> None:
        """Takes inspections with their frames, and dropped frames. Returns when they are as safe as this sink makes
        them.
        """
        ...

    def close(self) -> None:
        """Flushes and releases."""
        ...
