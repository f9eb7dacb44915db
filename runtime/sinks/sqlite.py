"""The store as a sink."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dskd.runtime.result import Dropped, Result
from dskd.runtime.store import Store


class SqliteSink:
    """One commit for all that comes at once."""

    needs_map = False

    def __init__(self, path: Path) -> None:
        self._store = Store(path)

    def write(self, results: Sequence[Result]) -> None:
        """Stores them durably."""
        self._store.add([result if isinstance(result, Dropped) else result[1] for result in results])

    def close(self) -> None:
        """Folds the log into the file."""
        self._store.close()
