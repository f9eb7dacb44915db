"""CSV for spreadsheets: one line per record, appended whole, turned over to a new file by size.

A record is one physical line, so that a line cut by a crash can be told and taken away; the record is then written
again. Text that a spreadsheet would run as a formula gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import Field

from dskd.runtime.configuration.fields import LocalPath
from dskd.runtime.errors import CallError, one_line
from dskd.runtime.result import Verdict
from dskd.runtime.sinks.base import SinkConfig, SinkContext, SinkKind, path_as
from dskd.runtime.sinks.delivery import DeliveryFailed, Done
from dskd.runtime.store import Kind, Record

COLUMNS = ("key", "kind", "time_utc", "camera", "frame", "part", "verdict", "score", "threshold", "regions", "reason")
# What spreadsheets run, wide forms too, at the start of a cell; also after what some countries separate cells by.
FORMULA = re.compile(r"(^|[;,|])(?=\s*[=+\-@＝＋－＠])")  # noqa: RUF001
LONGEST_LINE = 1 << 16  # bytes looked at for the last line of a file


class CsvConfig(SinkConfig):
    """One line per record, from the store."""

    kind: Literal["csv"]
    path: LocalPath = Field(description="file; a full one is renamed NAME-TIME.csv beside it")
    on: list[Verdict] = Field(list(Verdict), min_length=1, description="verdicts written")
    records: list[Kind] = Field(["inspection", "dropped"], min_length=1, description="inspection, dropped, answer")
    max_mb: float = Field(100, gt=0, le=10_000, description="size at which a new file is begun")
    max_files: int = Field(0, ge=0, description="full files kept, the oldest go first; 0: all")


class CsvTarget:
    """A CSV file."""

    kind = "csv"

    def __init__(self, config: CsvConfig) -> None:
        self._config, self._path = config, Path(config.path)
        self._handle = -1
        self._last = ("", 0)  # store and id of the last whole line

    def open(self) -> None:
        """Opens the file, takes a cut line away and reads which record came last."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._last = self._mend()
        except OSError as error:
            raise self._cannot(error) from error

    def wants(self, record: Record) -> bool:
        """By kind and verdict."""
        return record.kind in self._config.records and (record.verdict is None or record.verdict in self._config.on)

    def deliver(self, records: Sequence[Record], done: Done) -> None:
        """Appends and syncs all, then says so."""
        try:
            if os.fstat(self._handle).st_size >= self._config.max_mb * 1e6:
                self._turn_over()
            data = "".join(line(record) for record in records if not self._has(record)).encode()
            while data:
                data = data[os.write(self._handle, data) :]
            os.fsync(self._handle)
        except OSError as error:
            raise self._cannot(error) from error
        for record in records:
            done(record)
        if not self._has(records[-1]):  # after a crash the file may be ahead of the cursor
            self._last = split_key(records[-1].key)

    def check(self) -> None:
        """Raises where the file is no longer the one at its path: somebody took it away, and a new one is begun."""
        try:
            here = os.path.samestat(os.fstat(self._handle), os.stat(self._path))
        except OSError as error:
            raise self._cannot(error) from error
        if not here:
            raise DeliveryFailed(f"csv {self._path}: was moved away; a new one is begun")

    def interrupt(self) -> None:
        """A write to a file does not wait."""

    def close(self) -> None:
        """Closes the file."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _has(self, record: Record) -> bool:
        store, number = split_key(record.key)
        return store == self._last[0] and number <= self._last[1]

    def _mend(self) -> tuple[str, int]:
        """Makes an empty or cut file whole; returns what its last line is about. Raises DeliveryFailed for another's file."""
        size = os.fstat(self._handle).st_size
        header = header_line().encode()
        if os.pread(self._handle, len(header), 0) != header:
            if size and not header.startswith(os.pread(self._handle, len(header), 0)):
                raise DeliveryFailed(f"csv {self._path}: holds something else; move it away or name another", True)
            os.ftruncate(self._handle, 0)  # nothing, or our header cut short
            os.write(self._handle, header)
            return "", 0
        start = max(size - LONGEST_LINE, 0)
        tail = os.pread(self._handle, LONGEST_LINE, start)
        whole = tail[: tail.rfind(b"\n") + 1]
        os.ftruncate(self._handle, start + len(whole))
        rows = list(csv.reader(whole.decode(errors="replace").splitlines()[-1:]))
        return split_key(rows[0][0]) if rows and rows[0] else ("", 0)

    def _turn_over(self) -> None:
        """Renames the full file and begins a new one; the oldest full ones go."""
        moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        self.close()
        os.rename(self._path, self._path.with_name(f"{self._path.stem}-{moment}{self._path.suffix}"))
        last = self._last
        self.open()
        self._last = last  # the new file's own is nothing yet
        ours = re.compile(rf"{re.escape(self._path.stem)}-\d{{8}}T\d{{12}}{re.escape(self._path.suffix)}")
        full = sorted(name for name in os.listdir(self._path.parent) if ours.fullmatch(name))
        for old in full[: -self._config.max_files] if self._config.max_files else []:
            self._path.with_name(old).unlink(missing_ok=True)

    def _cannot(self, error: OSError) -> DeliveryFailed:
        return DeliveryFailed(f"csv {self._path}: cannot be written ({error.strerror}); check the disk and the rights")


def split_key(key: str) -> tuple[str, int]:
    """Store and id of a record's key; a store that there is not for anything else."""
    store, _, number = key.rpartition("-")
    return (store, int(number)) if number.isdecimal() else ("", 0)


def header_line() -> str:
    """The first line of each file."""
    return _text(COLUMNS)


def line(record: Record) -> str:
    """One record as one line with its end."""
    moment = record.answered if record.captured is None else record.captured
    when = "" if moment is None else datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")
    return _text((
        record.key, record.kind, when, safe(record.source), safe(record.frame), safe(record.part),
        "" if record.verdict is None else record.verdict.value, _number(record.score), _number(record.threshold),
        len(record.regions) if record.kind == "inspection" else "", safe(record.reason),
    ))  # fmt: skip


def safe(text: str | None) -> str:
    """Text of somebody else's as a cell that no spreadsheet runs, in one line."""
    if not text:
        return ""
    return FORMULA.sub(r"\1'", one_line(text))


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _text(cells: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _opened(config: CsvConfig, context: SinkContext) -> CsvTarget:
    if str(config.path) == "-":
        raise CallError("sink csv://-: goes to a file; jsonl://- writes to standard output")
    return CsvTarget(config)


KIND = SinkKind(CsvConfig, "csv://PATH", path_as("path"), target=_opened)
