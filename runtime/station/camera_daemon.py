"""NVIDIA's camera daemon may stand still: where CSI cameras stay away, systemd is asked to restart it.

The station may not restart services. It writes a file that the unit ``dskd-argus.path`` watches, as the agent does to have
the station restarted; the unit that then runs takes ten minutes and so bounds how often.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from dskd.runtime.capture.camera_thread import CaptureStatus

FILE = "DSKD_ARGUS_RESTART"  # the environment variable that names the file; set by the station's unit alone
AWAY = 30.0  # seconds; a driver that hangs has the whole station restarted after some ninety
PAUSE = 900.0  # seconds between two askings
log = logging.getLogger(__name__)


class _Capture(Protocol):
    def status(self) -> CaptureStatus: ...


def csi_cameras(sources: Mapping[str, str]) -> list[str]:
    """Names of the cameras whose pictures come through the daemon; ``sources`` are URIs by name."""
    return [name for name, uri in sources.items() if uri.startswith("csi:") or "nvarguscamerasrc" in uri]


class CameraDaemon:
    """Asks once every CSI camera of the station stays away; a daemon that serves one of them is left alone."""

    def __init__(self, captures: Iterable[_Capture], clock: Callable[[], float] = time.monotonic) -> None:
        self._captures, self._clock = list(captures), clock
        self._served, self._asked = clock(), -PAUSE

    def look(self) -> bool:
        """To be called about once a second; whether it asked."""
        now = self._clock()
        if not self._captures or any(capture.status().state not in ("lost", "opening") for capture in self._captures):
            self._served = now
        if now - self._served < AWAY or now - self._asked < PAUSE:
            return False
        self._asked = now
        return _ask()


def _ask() -> bool:
    advice = "where it is nvargus-daemon that stands still: sudo systemctl restart nvargus-daemon"
    if not (file := os.environ.get(FILE)):
        log.warning("no CSI camera gives pictures; %s", advice)
        return False
    try:
        Path(file).write_text("")
    except OSError as error:
        log.warning("no CSI camera gives pictures, and %s cannot be written (%s); %s", file, error.strerror, advice)
        return False
    log.warning("no CSI camera gives pictures: systemd is asked to restart nvargus-daemon")
    return True
