"""The interface of a sink."""

from __future__ import annotations

from typing import Protocol

from runtime.result import Dropped, Frame, Inspection


class Sink(Protocol):
    """Takes every inspection and every dropped frame."""

    needs_map: bool

    def write(self, inspection: Inspection, frame: Frame) -> None:
        """Takes one inspection and the frame it is about. Returns when it is as safe as this sink makes it."""
        ...

    def drop(self, dropped: Dropped) -> None:
        """Takes a frame that was not inspected."""
        ...

    def close(self) -> None:
        """Flushes and releases."""
        ...
