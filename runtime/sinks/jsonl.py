"""One JSON object a line, appended to a file or written to standard output."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from dskd.runtime.configuration.fields import LocalPath
from dskd.runtime.errors import DskdError
from dskd.runtime.result import Dropped, Result, Verdict
from dskd.runtime.sinks.base import Sink, SinkConfig, SinkKind, path_as
from dskd.runtime.sinks.delivery import DeliveryFailed, Done
from dskd.runtime.store import Kind, Record


class JsonlConfig(SinkConfig):
    """One JSON object a line. In a station from the store, at least once; readers tell repetitions by ``key``."""

    kind: Literal["jsonl"]
    path: LocalPath = Field(description="file; it grows without limit")
    on: list[Verdict] = Field(list(Verdict), min_length=1, description="verdicts written")
    records: list[Kind] = Field(
        ["inspection", "dropped"], min_length=1, description="inspection, dropped, answer (in a station)"
    )


class JsonlSink(Sink):
    """Appends whole lines; a line cut by an earlier crash is ended first, so that the file stays readable."""

    def __init__(self, config: JsonlConfig) -> None:
        self._config = config
        self.to_stdout = str(config.path) == "-"
        if self.to_stdout and sys.stdout is None:
            raise DskdError("sink jsonl://-: standard output is closed; name a file, or leave it open")
        self._handle = sys.stdout.fileno() if self.to_stdout else _open_for_append(config.path)

    def wants(self, result: Result) -> bool:
        """By kind and verdict."""
        if isinstance(result, Dropped):
            return "dropped" in self._config.records
        return "inspection" in self._config.records and result[1].verdict in self._config.on

    def write(self, results: Sequence[Result]) -> None:
        """Appends a line for each; a dropped frame is told apart by its key ``dropped``."""
        try:
            _append(self._handle, [_line(result) for result in results])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DskdError(f"sink jsonl: cannot write ({error.strerror}); check the disk") from error

    def close(self) -> None:
        """Makes the lines durable."""
        if self.to_stdout:
            return
        try:
            _sync(self._handle)
        except OSError as error:
            raise DskdError(f"sink jsonl: cannot write ({error.strerror}); check the disk") from error
        finally:
            os.close(self._handle)


class JsonlTarget:
    """The same file, written from a station's store: a record is told by its key, kind and id beside its fields."""

    kind = "jsonl"

    def __init__(self, config: JsonlConfig) -> None:
        self._config, self._handle = config, -1

    def open(self) -> None:
        """Opens the file."""
        try:
            self._handle = _open_for_append(self._config.path)
        except DskdError as error:
            raise DeliveryFailed(str(error)) from error

    def wants(self, record: Record) -> bool:
        """By kind and verdict."""
        return record.kind in self._config.records and (record.verdict is None or record.verdict in self._config.on)

    def deliver(self, records: Sequence[Record], done: Done) -> None:
        """Appends and syncs all, then says so."""
        try:
            _append(self._handle, [record.as_json() for record in records])
            _sync(self._handle)
        except OSError as error:
            raise self._cannot(error) from error
        for record in records:
            done(record)

    def check(self) -> None:
        """Raises where the file is no longer the one at its path: somebody took it away, and a new one is begun."""
        try:
            here = os.path.samestat(os.fstat(self._handle), os.stat(self._config.path))
        except OSError as error:
            raise self._cannot(error) from error
        if not here:
            raise DeliveryFailed(f"jsonl {self._config.path}: was moved away; a new one is begun")

    def interrupt(self) -> None:
        """A write to a file does not wait."""

    def close(self) -> None:
        """Closes the file."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _cannot(self, error: OSError) -> DeliveryFailed:
        return DeliveryFailed(f"jsonl {self._config.path}: cannot be written ({error.strerror}); check the disk")


def _append(handle: int, lines: Sequence[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    while data:
        data = data[os.write(handle, data) :]


def _sync(handle: int) -> None:
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


def _open_for_append(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.write(handle, b"\n")
    except OSError as error:
        raise DskdError(f"sink {path}: cannot be opened ({error.strerror}); check the path and its rights") from error
    return handle


KIND = SinkKind(
    JsonlConfig,
    "jsonl://PATH (- for standard output)",
    path_as("path"),
    sink=lambda config, _: JsonlSink(config),
    target=lambda config, _: JsonlTarget(config),
)
