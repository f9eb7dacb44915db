"""One JSON object a line, appended to a file or written to standard output."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dskd.runtime.configuration.fields import LocalPath
from dskd.runtime.errors import DskdError
from dskd.runtime.result import Dropped, Result, Verdict
from dskd.runtime.sinks.base import Sink, SinkConfig, SinkContext, SinkKind, path_as

if TYPE_CHECKING:
    from dskd.runtime.sinks.delivery import Target


class JsonlConfig(SinkConfig):
    """One JSON object a line. In a station from the store, at least once; readers tell repetitions by ``key``."""

    kind: Literal["jsonl"]
    path: LocalPath = Field(description="file; it grows without limit")
    on: list[Verdict] = Field(list(Verdict), min_length=1, description="verdicts written")
    records: list[Literal["inspection", "dropped", "answer"]] = Field(
        ["inspection", "dropped"], min_length=1, description="inspection, dropped, answer (in a station)"
    )


class JsonlSink(Sink):
    """Appends whole lines; a line cut by an earlier crash is ended first, so that the file stays readable."""

    def __init__(self, config: JsonlConfig) -> None:
        self._config = config
        self.to_stdout = str(config.path) == "-"
        if self.to_stdout and sys.stdout is None:
            raise DskdError("sink jsonl://-: standard output is closed; name a file, or leave it open")
        self._handle = sys.stdout.fileno() if self.to_stdout else open_for_append(config.path)

    def wants(self, result: Result) -> bool:
        """By kind and verdict."""
        if isinstance(result, Dropped):
            return "dropped" in self._config.records
        return "inspection" in self._config.records and result[1].verdict in self._config.on

    def write(self, results: Sequence[Result]) -> None:
        """Appends a line for each; a dropped frame is told apart by its key ``dropped``."""
        try:
            append(self._handle, [_line(result) for result in results])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DskdError(f"sink jsonl: cannot write ({error.strerror}); check the disk") from error

    def close(self) -> None:
        """Makes the lines durable."""
        if self.to_stdout:
            return
        try:
            sync(self._handle)
        except OSError as error:
            raise DskdError(f"sink jsonl: cannot write ({error.strerror}); check the disk") from error
        finally:
            os.close(self._handle)


def append(handle: int, lines: Sequence[str]) -> None:
    """Writes whole lines. Raises OSError."""
    data = "".join(f"{line}\n" for line in lines).encode()
    while data:
        data = data[os.write(handle, data) :]


def sync(handle: int) -> None:
    """Makes them durable, where the file is one that can be. Raises OSError."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a pipe or device cannot be synced and need not be
            raise


def _line(result: Result) -> str:
    if not isinstance(result, Dropped):
        return result[1].as_json()
    fields = {"source": result.source, "frame": result.id, "captured": result.captured, "dropped": result.explanation}
    return json.dumps(fields)


def open_for_append(path: Path) -> int:
    """A handle at the end of the file, a cut line ended. Raises DskdError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.write(handle, b"\n")
    except OSError as error:
        raise DskdError(f"sink {path}: cannot be opened ({error.strerror}); check the path and its rights") from error
    return handle


def _target(config: JsonlConfig, context: SinkContext) -> Target:
    from dskd.runtime.sinks.jsonl_target import JsonlTarget  # a store is imported where one is needed

    return JsonlTarget(config)


KIND = SinkKind(
    JsonlConfig,
    "jsonl://PATH (- for standard output)",
    path_as("path"),
    sink=lambda config, _: JsonlSink(config),
    target=_target,
)
