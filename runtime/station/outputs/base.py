"""The interface of an output, and which output a station file asks for."""

from __future__ import annotations

from typing import Protocol

from dskd.runtime.result import Answer
from dskd.runtime.station.control import PartStatus


class Output(Protocol):
    """Tells the line. ``answer`` is called in the order of the answers, from one thread, and must not block."""

    name: str

    def hears(self, camera: str) -> bool:
        """Whether answers of that camera matter to it."""
        ...

    def answer(self, answer: Answer) -> None:
        """Takes an answer of a camera that it hears."""
        ...

    def status(self) -> PartStatus:
        """How it is."""
        ...

    def drain(self, timeout: float) -> None:
        """Waits until what it was told is done."""
        ...

    def close(self) -> None:
        """Leaves the line at its safe level and releases it."""
        ...
