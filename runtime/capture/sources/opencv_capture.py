"""A camera through OpenCV's VideoCapture, whichever library it opens it with."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import cv2
import numpy as np

from dskd.runtime.capture.sources.base import Source, SourceLost
from dskd.runtime.capture.sources.gstreamer import PACKAGES
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import MissingPart
from dskd.runtime.result import Frame


class OpenCvSource(Source):
    """Gives frames until the camera stops delivering; the id is the frame's number from 0.

    OpenCV waits for a frame by itself, so a read may last as long as the capture's own timeout.
    """

    live = True

    def __init__(self, uri: str, open_capture: Callable[[], cv2.VideoCapture], when_closed: str) -> None:
        """``open_capture`` makes the capture anew; ``when_closed`` says what to do where it does not open."""
        self.uri = without_password(uri)
        self._open, self._when_closed = open_capture, when_closed
        self._capture: cv2.VideoCapture | None = None
        self._number = 0

    def open(self) -> None:
        """Opens the camera. Raises MissingPart where it is not there, busy or refuses."""
        self.close()
        capture = self._open()
        if not capture.isOpened():
            capture.release()
            raise MissingPart(f"source {self.uri}: {self._when_closed}")
        self._capture, self._number = capture, 0

    def read(self, timeout: float) -> Frame:
        """The next frame. Raises SourceLost when none comes; the capture is of no use then."""
        read, image = self._capture.read() if self._capture else (False, None)
        if not read:
            raise SourceLost(f"source {self.uri}: the camera stopped after {self._number} frames; check its cable")
        self._number += 1
        return Frame(self.uri, str(self._number - 1), time.time(), np.asarray(image, np.uint8))

    def close(self) -> None:
        """Releases the camera."""
        if self._capture is not None:
            self._capture.release()
        self._capture = None


def opencv_pipeline(uri: str, pipeline: Callable[[], str]) -> OpenCvSource:
    """A GStreamer pipeline where PyGObject is missing and OpenCV was built with GStreamer (no wheel from pip is)."""

    def open_capture() -> cv2.VideoCapture:
        if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
            raise MissingPart(
                f"source {without_password(uri)}: needs GStreamer from Python; apt install python3-gi {PACKAGES}"
            )
        return cv2.VideoCapture(pipeline(), cv2.CAP_GSTREAMER)

    return OpenCvSource(uri, open_capture, "the pipeline does not start; check elements, camera and login")
