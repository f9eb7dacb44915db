"""Stations that start in a moment: forked from a process that has imported all that a station needs.

A station so started is a process of its own, as one that a shell starts; only its imports are done. Run as a program,
this reads one station file a line, forks a station of it, and writes its number, then its exit code.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from dskd.runtime.errors import DskdError, exit_with_code


class WarmStations:
    """Starts and kills stations one after the other; as a context manager both it and the last station are gone."""

    def __init__(self, log: Path) -> None:
        command = [sys.executable, "-m", "dskd.benchmarks.lab.station.warm_stations"]
        self._log = log.open("ab")
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self._station: int | None = None

    def __enter__(self) -> WarmStations:
        return self

    def __exit__(self, *error: object) -> None:
        self.end(signal.SIGKILL)
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def start(self, file: Path) -> None:
        """Begins one; it is not ready yet. Raises DskdError where it cannot be."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{file}\n")
        self._process.stdin.flush()
        self._station = int(self._line())

    def lives(self) -> bool:
        """Whether the station has not ended."""
        with suppress(ProcessLookupError, TypeError):
            os.kill(self._station, 0)  # type: ignore[arg-type]
            return True
        return False

    def end(self, number: signal.Signals) -> int | None:
        """Sends the signal and waits; the exit code (negative: the signal), None where there was no station."""
        if self._station is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(self._station, number)
        self._station = None
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise DskdError("drill: the process that forks stations ended")
        return line


def main() -> None:
    """The program's loop."""
    import cv2
    import onnxruntime
    import uvicorn  # noqa: F401

    from dskd.runtime.station.__main__ import main as station
    from dskd.runtime.web import page  # noqa: F401

    assert cv2.__version__
    assert onnxruntime.__version__
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.close(0)
            os.dup2(2, 1)  # what it prints is no answer of ours
            sys.argv[1:] = [line.strip()]
            try:
                exit_with_code(station)
            except SystemExit as ended:
                os._exit(ended.code if isinstance(ended.code, int) else 1)
            finally:
                os._exit(1)
        print(child, flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)


if __name__ == "__main__":
    main()
