"""The store as a sink: one commit per inspection."""

from __future__ import annotations

from pathlib import Path

from runtime.result import Dropped, Frame, Inspection
from runtime.store import Store


class SqliteSink:
    """Commits each inspection on its own."""

    needs_map = False

    def __init__(self, path: Path) -> None:
        self._store = Store(path)

    def write(self, inspection: Inspection, frame: Frame) -> None:
        """Stores one inspection durably."""
        self._store.add([inspection])

    def drop(self, dropped: Dropped) -> None:
        """Stores one dropped frame durably."""
        self._store.add([dropped])

    def close(self) -> None:
        """Folds the log into the file."""
        self._store.close()
