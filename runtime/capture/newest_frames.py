"""The newest frames of one camera, for a program that a person watches."""

from __future__ import annotations

from collections.abc import Generator

from dskd.runtime.capture.camera_thread import Capture, CaptureSettings
from dskd.runtime.capture.frame_health import FrameHealth
from dskd.runtime.capture.sources.base import Source
from dskd.runtime.result import Dropped, Frame

_POLL = 0.2  # seconds


def newest_frames(source: Source) -> Generator[Frame | Dropped, None, None]:
    """Opens a camera, gives its newest frame again and again, and closes it. Raises what it was lost by.

    For a program with one camera and a person beside it; a station opens a lost camera anew.
    """
    capture = Capture(source.uri, lambda: source, CaptureSettings(reopens=False), health=FrameHealth())
    capture.start()
    try:
        while True:
            ended, failure = capture.status().state == "ended", capture.failure
            captured = capture.take(_POLL)
            if captured is not None:
                yield captured
            elif failure is not None:
                raise failure
            elif ended:
                return
    finally:
        capture.stop()
