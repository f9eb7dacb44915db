"""A Jetson's CSI camera: NVIDIA's element only prints that it does not take an exposure or gain, and goes on with its own."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dskd.runtime.capture.sources.gstreamer import GStreamerSource
from dskd.runtime.errors import CallError

_REFUSED = re.compile(r"Invalid (Exposure|Gain|ISP Digital Gain)[^\n]*", re.IGNORECASE)
_EXPOSURES = re.compile(r"Exposure Range min (\d+),? max (\d+)")  # nanoseconds, of each sensor mode
_GAINS = re.compile(r"Analog Gain range min ([\d.]+),? max ([\d.]+)")
_FIRST_FRAME = 5.0  # seconds: the element prints before it gives its first one
_ONE_AT_A_TIME = threading.Lock()


class ArgusSource(GStreamerSource):
    """As any pipeline, but a fixed exposure or gain that the sensor does not have is an error."""

    def open(self) -> None:
        """Starts the pipeline. Raises CallError where the camera refuses the exposure or gain."""
        if not re.search(r"[?&](exposure|gain)=", self.uri):
            super().open()
            return
        with _standard_output() as printed:
            super().open()
            self._sink.emit("try-pull-sample", int(_FIRST_FRAME * self._gst.SECOND))
        said = "\n".join(printed)
        if (refused := _REFUSED.search(said)) is None:
            return
        self.close()
        ranges = [
            f"exposure {int(low) // 1000} to {int(high) // 1000} microseconds" for low, high in _EXPOSURES.findall(said)
        ]
        ranges += [f"gain {low} to {high}" for low, high in _GAINS.findall(said)]
        takes = f"; it says that it takes {', '.join(sorted(set(ranges)))}" if ranges else ""
        raise CallError(
            f"source {self.uri}: the camera refuses what is asked ({refused[0].strip()}) and would control exposure by "
            f"itself{takes}"
        )


@contextmanager
def _standard_output() -> Iterator[list[str]]:
    """Yields a list that, after the block, holds what was printed on file descriptor 1 in it; it is printed then."""
    heard: list[str] = []
    library = ctypes.CDLL(None)  # its buffer is not Python's
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as file:
        try:
            terminal = os.dup(1)
        except OSError:  # closed: nobody would read it
            yield heard
            return
        sys.stdout.flush()
        library.fflush(None)
        os.dup2(file.fileno(), 1)
        try:
            yield heard
        finally:
            library.fflush(None)
            os.dup2(terminal, 1)
            os.close(terminal)
            file.seek(0)
            data = file.read()
            heard += data.decode(errors="replace").splitlines()
            with suppress(OSError):
                os.write(1, data)
