"""Contenders are processes of their own that are asked to work, one at a time: they share neither memory nor threads."""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from dskd.runtime.errors import CallError, DskdError, MissingPart, one_line

PATIENCE = 600.0  # seconds for one answer: an engine may have to be read, a peer's model compiled
CLOSING = 20.0  # seconds
KINDS: dict[int, type[DskdError]] = {kind.exit_code: kind for kind in (DskdError, CallError, MissingPart)}
Reply = dict[str, Any]


class Worker:
    """A process that answers requests, one line of JSON each way; its first answer says that it is ready.

    Raises MissingPart where it lacks something, CallError where what it was told is wrong, DskdError where it fails.
    """

    def __init__(
        self, words: Sequence[object], environment: Mapping[str, str] | None = None, name: str = "worker"
    ) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._process = subprocess.Popen(  # noqa: S603
            [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self._rest = b""
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def ask(self, work: str, **request: object) -> Reply:
        """What the worker says to a request."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it is gone: reading says why
            self._process.stdin.write(json.dumps({"work": work, **request}).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer()

    def memory(self) -> dict[str, float]:
        """MB now: ``rss``, ``pss`` (what it shares counts by its share); ``peak`` is the largest rss so far."""
        status = kilobytes(f"/proc/{self.pid}/status")
        rollup = kilobytes(f"/proc/{self.pid}/smaps_rollup")
        found = {"rss": status.get("VmRSS"), "pss": rollup.get("Pss"), "peak": status.get("VmHWM")}
        return {name: value / 1e3 for name, value in found.items() if value is not None}

    def close(self) -> None:
        """Ends it; twice does no harm."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # a line that it never took
                    pipe.close()
        try:
            self._process.wait(CLOSING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _answer(self) -> Reply:
        """The next line that is a JSON object: libraries print what they like."""
        assert self._process.stdout is not None
        end = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while True:
                line, separator, rest = self._rest.partition(b"\n")
                if separator:
                    self._rest = rest
                    found = object_of(line)
                    if found is not None:
                        return found
                    continue
                if not selector.select(max(end - time.monotonic(), 0)):
                    raise DskdError(f"{self.name}: gave no answer in {PATIENCE:.0f} seconds; run it alone to see why")
                read = os.read(self._process.stdout.fileno(), 1 << 16)
                if not read:
                    self._fail()
                self._rest += read

    def _fail(self) -> NoReturn:
        code = self._process.wait()
        self._errors.seek(0)
        said = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        if said:
            raise KINDS.get(code, DskdError)(one_line(said[-1]).removeprefix("error: "))
        how = f"was ended by signal {-code}, as where memory is short" if code < 0 else f"ended with exit code {code}"
        raise DskdError(f"{self.name}: {how}; measure it alone to see why")


def object_of(line: bytes) -> Reply | None:
    """A line that holds a JSON object, None for any other."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def kilobytes(file: str) -> dict[str, float]:
    """``Name:  123 kB`` lines of procfs; none where it cannot be read."""
    try:
        text = Path(file).read_text()
    except OSError:
        return {}
    return {name: float(number) * 1.024 for name, number in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}
