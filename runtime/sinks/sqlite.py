"""The store as a sink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from dskd.runtime.configuration.fields import LocalPath
from dskd.runtime.result import Dropped, Result
from dskd.runtime.sinks.base import Sink, SinkConfig, SinkKind, path_as
from dskd.runtime.store import Store


class SqliteConfig(SinkConfig):
    """Every result in an SQLite file; in a station a further one, beside its own store."""

    kind: Literal["sqlite"]
    path: LocalPath = Field(description="file; made if it is not there")

    def faults(self, data: Path) -> Iterator[tuple[str, str]]:
        """A station's own store has one writer."""
        if self.path.resolve() == (data / "store.db").resolve():
            yield "path", "is the station's own store, which holds every result already; name another file"


class SqliteSink(Sink):
    """One commit for all that comes at once."""

    def __init__(self, path: Path) -> None:
        self.store: Store = Store(path)

    def write(self, results: Sequence[Result]) -> None:
        """Stores them durably."""
        self.store.add([result if isinstance(result, Dropped) else result[1] for result in results])

    def close(self) -> None:
        """Folds the log into the file."""
        self.store.close()


KIND = SinkKind(SqliteConfig, "sqlite://PATH", path_as("path"), sink=lambda config, _: SqliteSink(config.path))
