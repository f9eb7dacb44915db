"""What NVIDIA's driver writes to standard error by itself: heard while an engine is opened or built, quoted in errors.

A Jetson's driver tells no logger that memory is short or a device closed. Its lines are sorted out by a ``sed`` between
this process and its standard error, so that what others write is passed on even where the process crashes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO, TypeVar

from dskd.runtime.errors import DskdError, one_line

_DRIVERS = r"^[* ]*(NvRm|NvMap|NvDla|NvTls|NvSci|NVRM|NVMAP|nvmap|nvgpu|libnvrm)"
_QUOTED, _LONGEST = 3, 160  # lines, and characters of each
_KEPT = 1 << 16  # bytes at the end of what it wrote
_PATIENCE = 1.0  # seconds; a process that was started meanwhile holds the other end for as long as it lives
_ONE_AT_A_TIME = threading.Lock()
_Error = TypeVar("_Error", bound=DskdError)


@dataclass
class Heard:
    """``lines`` are the driver's, complete after the block. ``screen`` is standard error itself, for a progress bar."""

    lines: list[str] = field(default_factory=list)
    screen: TextIO = field(default_factory=lambda: sys.stderr)

    def quoted_in(self, error: _Error) -> _Error:
        """The error with the driver's last lines at its end."""
        if self.lines:
            said = "; ".join(one_line(line)[:_LONGEST] for line in self.lines[-_QUOTED:])
            error.args = (f"{error}; the driver said: {said}",)
        return error


@contextmanager
def hearing_driver() -> Iterator[Heard]:
    """Keeps the driver's lines from standard error in the block. A DskdError that leaves it quotes the last ones.

    One block hears at a time; another, in it or beside it, hears nothing. So does one where there is no ``sed``.
    """
    heard = Heard()
    try:
        if _ONE_AT_A_TIME.acquire(blocking=False):
            try:
                with _sorted_out(heard):
                    yield heard
            finally:
                _ONE_AT_A_TIME.release()
        else:
            yield heard
    except DskdError as error:
        raise heard.quoted_in(error) from error.__cause__


@contextmanager
def _sorted_out(heard: Heard) -> Iterator[None]:
    try:
        kept = tempfile.NamedTemporaryFile(prefix="dskd-driver-")  # noqa: SIM115 (closed below)
        terminal = os.dup(2)
    except OSError:  # standard error is closed, or nothing can be written
        yield
        return
    with kept, os.fdopen(terminal, "w", errors="replace") as screen:
        script = [f"/{_DRIVERS}/{{w {kept.name}", "d", "}"]
        words = [word for line in script for word in ("-e", line)]
        try:
            sed = subprocess.Popen(  # noqa: S603
                ["sed", "-u", "-E", *words],  # noqa: S607
                stdin=subprocess.PIPE,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,  # Ctrl-C is for this process
            )
        except OSError:
            yield
            return
        assert sed.stdin is not None
        if _writes_to_two(sys.stderr):
            heard.screen = screen
        os.dup2(sed.stdin.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            heard.screen = sys.stderr
            sed.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                sed.wait(_PATIENCE)
            kept.seek(max(0, os.fstat(kept.fileno()).st_size - _KEPT))
            heard.lines += kept.read().decode(errors="replace").splitlines()


def _writes_to_two(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError, AttributeError):  # a program's own stream
        return False
