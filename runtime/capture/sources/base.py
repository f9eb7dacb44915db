"""The interface of a source."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal, Protocol

from dskd.runtime.errors import DskdError
from dskd.runtime.result import Dropped, Frame

# What starts an exposure: the camera itself, again and again; ``Source.trigger``; or the camera's input line.
Trigger = Literal["free", "software", "line"]

PATIENCE = 10.0  # seconds without a frame before a source that nobody triggers counts as lost


class SourceEnded(DskdError):
    """A finite source has given all it has."""


class SourceLost(DskdError):
    """A camera stopped delivering: close it, make it anew, open that."""


class Source(Protocol):
    """Something that captures frames. One thread uses it at a time."""

    uri: str  # without user and password
    live: bool  # frames come in their own time, whether read or not
    triggerable: bool  # ``trigger`` asks the device for one frame

    def open(self) -> None:
        """Gets ready to deliver. Raises MissingPart or SourceLost with the next step."""
        ...

    def read(self, timeout: float) -> Frame | Dropped | None:
        """The next frame, None where none came within ``timeout`` seconds. Raises SourceEnded or SourceLost.

        A frame that was captured and cannot be used comes as Dropped.
        """
        ...

    def trigger(self) -> None:
        """Asks for one frame. Only where ``triggerable``."""
        ...

    def close(self) -> None:
        """Releases the device; may be called again."""
        ...


def frames(source: Source) -> Generator[Frame | Dropped, None, None]:
    """Opens ``source``, gives all that it captures in order, and closes it."""
    try:
        source.open()
        while True:
            captured = source.read(PATIENCE)
            if captured is None:
                raise SourceLost(f"source {source.uri}: gave no frame for {PATIENCE:.0f} seconds; check the camera")
            yield captured
    except SourceEnded:
        return
    finally:
        source.close()
