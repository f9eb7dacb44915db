"""One JSON object a line, appended to a file or written to standard output."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dskd.runtime.errors import DskdError
from dskd.runtime.result import Dropped, Result


class JsonlSink:
    """Appends whole lines; a line cut by an earlier crash is ended first, so that the file stays readable."""

    needs_map = False

    def __init__(self, path: Path) -> None:
        self._to_stdout = str(path) == "-"
        if self._to_stdout and sys.stdout is None:
            raise DskdError("sink jsonl://-: standard output is closed; name a file, or leave it open")
        self._handle = sys.stdout.fileno() if self._to_stdout else _open_for_append(path)

    def write(self, results: Sequence[Result]) -> None:
        """Appends a line for each; a dropped frame is told apart by its key ``dropped``."""
        data = "".join(f"{_line(result)}\n" for result in results).encode()
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DskdError(f"sink jsonl: cannot write ({error.strerror}); check the disk") from error

    def close(self) -> None:
        """Makes the lines durable."""
        if self._to_stdout:
            return
        try:
            os.fsync(self._handle)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe or device cannot be synced and need not be
                raise DskdError(f"sink jsonl: cannot write ({error.strerror}); check the disk") from error
        finally:
            os.close(self._handle)


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
