"""A station in a process of its own, as it runs on a line: looked at from outside, ended by SIGTERM."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dskd.runtime.errors import DskdError, one_line

ENDING = 60.0  # seconds
_COUNTS = re.compile(r"camera (\S+): (\d+) captured, (\d+) inspected, (\d+) dropped$", re.MULTILINE)
_FIGURES = re.compile(r"^(VmRSS|Threads):\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Counts:
    """What one camera counted from start to stop."""

    captured: int
    inspected: int
    dropped: int


class StationProcess:
    """``python -m runtime.station FILE``; its log is beside the file."""

    def __init__(self, file: Path) -> None:
        self._log = file.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "dskd.runtime.station", str(file)], stderr=log)  # noqa: S603

    def lives(self) -> bool:
        """True. Raises DskdError with the last line of its log where it ended by itself."""
        if self._process.poll() is not None:
            said = self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise DskdError(f"the station ended by itself ({self._process.returncode}): {one_line(said[-1])}")
        return True

    def held(self) -> tuple[float, int, int]:
        """Resident memory in MB, threads and open descriptors."""
        self.lives()
        folder = Path("/proc") / str(self._process.pid)
        figures = {name: int(value) for name, value in _FIGURES.findall((folder / "status").read_text())}
        return figures["VmRSS"] * 1024 / 1e6, figures["Threads"], len(os.listdir(folder / "fd"))

    def stop(self) -> dict[str, Counts]:
        """SIGTERM; each camera's counts as the log tells them. Raises DskdError where it does not end as it should."""
        self.lives()
        self._process.terminate()
        try:
            code = self._process.wait(ENDING)
        except subprocess.TimeoutExpired as error:
            raise DskdError(f"the station did not end within {ENDING:.0f} seconds of SIGTERM") from error
        if code != 0:
            raise DskdError(f"the station ended with {code}; its last line: {self._log.read_text()[-300:]}")
        found = _COUNTS.findall(self._log.read_text(errors="replace"))
        return {name: Counts(*map(int, numbers)) for name, *numbers in found}

    def kill(self) -> None:
        """Whatever state it is in."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running(file: Path) -> Iterator[StationProcess]:
    """A station that is gone afterwards, whatever happens."""
    process = StationProcess(file)
    try:
        yield process
    finally:
        process.kill()
