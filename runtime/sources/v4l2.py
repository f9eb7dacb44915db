"""A USB or other V4L2 camera through OpenCV."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from runtime.errors import DskdError, MissingPart
from runtime.result import Dropped, Frame


class V4l2Source:
    """Gives frames of a device until it stops delivering; the id is the frame's number from 0."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri = uri
        if not os.path.exists(path):
            raise MissingPart(
                f"source {uri}: there is no {path}; plug the camera in (v4l2-ctl --list-devices shows it)"
            )
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise MissingPart(
                f"source {uri}: is not a camera, or busy, or not yours to read; add yourself to group video"
            )
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest in a queue

    def frames(self) -> Iterator[Frame | Dropped]:
        """Frames as they come. Raises DskdError when the camera stops delivering."""
        number, last = 0, None
        try:
            while True:
                read, image = self._capture.read()
                if not read:
                    raise DskdError(f"source {self.uri}: the camera stopped after {number} frames; check its cable")
                frame = Frame(self.uri, str(number), time.time(), np.asarray(image, np.uint8))
                if last is not None and np.array_equal(frame.image, last):  # no sensor is free of noise
                    yield Dropped(self.uri, frame.id, frame.captured, "frozen: the same picture as before, bit for bit")
                else:
                    yield frame
                last = frame.image
                number += 1
        finally:
            self._capture.release()
