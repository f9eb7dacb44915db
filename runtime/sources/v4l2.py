"""A USB or other V4L2 camera through OpenCV."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np

from runtime.errors import CallError, MissingPart
from runtime.preprocess import Image
from runtime.result import Dropped, Frame
from runtime.sources.base import SourceLost


class V4l2Source:
    """Gives frames of a device until it stops delivering; the id is the frame's number from 0."""

    live = True
    triggerable = False

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self.path = uri, path
        self._capture: cv2.VideoCapture | None = None
        self._number = 0
        self._last: Image | None = None

    def open(self) -> None:
        """Opens the device. Raises MissingPart where there is none or it is busy."""
        self.close()
        if not os.path.exists(self.path):
            raise MissingPart(
                f"source {self.uri}: there is no {self.path}; plug the camera in (v4l2-ctl --list-devices shows it)"
            )
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_V4L2)
        if not capture.isOpened():
            raise MissingPart(
                f"source {self.uri}: is not a camera, or busy, or not yours to read; add yourself to group video"
            )
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest in a queue
        self._capture, self._number, self._last = capture, 0, None

    def read(self, timeout: float) -> Frame | Dropped:
        """The next frame. OpenCV itself waits, at most 10 seconds. Raises SourceLost when none comes."""
        read, image = self._capture.read() if self._capture else (False, None)
        if not read:
            raise SourceLost(f"source {self.uri}: the camera stopped after {self._number} frames; check its cable")
        frame = Frame(self.uri, str(self._number), time.time(), np.asarray(image, np.uint8))
        frozen = self._last is not None and np.array_equal(frame.image, self._last)  # no sensor is free of noise
        self._last = frame.image
        self._number += 1
        if frozen:
            return Dropped(self.uri, frame.id, frame.captured, "frozen: the same picture as before, bit for bit")
        return frame

    def trigger(self) -> None:
        """V4L2 has no trigger."""
        raise CallError(f"source {self.uri}: cannot be triggered; use policy latest")

    def close(self) -> None:
        """Releases the device."""
        if self._capture is not None:
            self._capture.release()
        self._capture = None
