"""The interface of a source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from runtime.result import Dropped, Frame


class Source(Protocol):
    """Something that captures frames."""

    uri: str

    def frames(self) -> Iterator[Frame | Dropped]:
        """Every captured frame, in order; one that cannot be used comes as Dropped. Releases the device at the end."""
        ...
