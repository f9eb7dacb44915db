"""JSON lines from a station's store."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dskd.runtime.errors import DskdError
from dskd.runtime.sinks.delivery import DeliveryFailed, Done
from dskd.runtime.sinks.jsonl import JsonlConfig, append, open_for_append, sync
from dskd.runtime.store import Record


class JsonlTarget:
    """The same file, written from a station's store: a record is told by its key, kind and id beside its fields."""

    kind = "jsonl"

    def __init__(self, config: JsonlConfig) -> None:
        self._config, self._handle = config, -1

    def open(self) -> None:
        """Opens the file."""
        try:
            self._handle = open_for_append(self._config.path)
        except DskdError as error:
            raise DeliveryFailed(str(error)) from error

    def wants(self, record: Record) -> bool:
        """By kind and verdict."""
        return record.kind in self._config.records and (record.verdict is None or record.verdict in self._config.on)

    def deliver(self, records: Sequence[Record], done: Done) -> None:
        """Appends and syncs all, then says so."""
        try:
            append(self._handle, [record.as_json() for record in records])
            sync(self._handle)
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
