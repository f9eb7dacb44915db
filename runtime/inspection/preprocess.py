"""The one preprocessing: crop, resize, nothing else. Training, calibration and the device all call it."""

from __future__ import annotations

import threading

import cv2
import numpy as np

from dskd.runtime.errors import DskdError
from dskd.runtime.result import Image

Crop = tuple[int, int, int, int]
MOST_BUFFERS = 8  # sizes of halves that a thread keeps memory for


class _Scratch(threading.local):
    """Memory for halves, by rows and columns."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[int, int], Image] = {}


_scratch = _Scratch()


def preprocess(image: Image, height: int, width: int, crop: Crop | None = None, out: Image | None = None) -> Image:
    """uint8 BGR frame [H, W, 3] -> uint8 BGR network input [height, width, 3].

    ``crop`` is (x, y, width, height) in frame pixels. An axis that shrinks is averaged (INTER_AREA), one that grows
    is interpolated (INTER_LINEAR); where one shrinks and the other grows each gets its own, because OpenCV would
    otherwise skip pixels. A frame of four times the size or more is halved first: OpenCV has fast code for halves;
    the average's edges move by less than a pixel of the last half. ``out``, where given, is a contiguous array of the
    result's shape that takes it. Raises DskdError where the frame is not uint8 BGR or the crop leaves it.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DskdError(f"frame is {image.dtype} {list(image.shape)}; expected uint8 [height, width, 3] in BGR order")
    if crop is not None:
        x, y, crop_width, crop_height = crop
        right, bottom = x + crop_width, y + crop_height
        if not (0 <= x < right <= image.shape[1] and 0 <= y < bottom <= image.shape[0]):
            raise DskdError(
                f"crop {list(crop)} leaves the frame of {image.shape[1]}x{image.shape[0]} pixels; "
                "use the camera's trained resolution or a bundle trained with another crop"
            )
        image = image[y:bottom, x:right]
    image = _halved(image, height, width)
    rows, columns = image.shape[:2]
    if (rows > height) == (columns > width) or rows == height or columns == width:
        return _resize(image, height, width, out)
    if rows > height:
        return _resize(_resize(image, height, columns), height, width, out)
    return _resize(_resize(image, rows, width), height, width, out)


def _halved(image: Image, height: int, width: int) -> Image:
    """The image, halved while twice the size stays; in memory of this thread that the next frame takes again."""
    rows, columns = image.shape[:2]
    while rows >= 4 * height and columns >= 4 * width and rows % 2 == columns % 2 == 0:
        rows, columns = rows // 2, columns // 2
        image = _resize(image, rows, columns, _buffer(rows, columns))
    return image


def _buffer(rows: int, columns: int) -> Image:
    if (rows, columns) not in _scratch.buffers:
        if len(_scratch.buffers) >= MOST_BUFFERS:  # frames of ever new sizes
            _scratch.buffers.clear()
        _scratch.buffers[rows, columns] = np.empty((rows, columns, 3), np.uint8)
    return _scratch.buffers[rows, columns]


def _resize(image: Image, height: int, width: int, out: Image | None = None) -> Image:
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        if out is None:
            return np.ascontiguousarray(image)
        out[:] = image
        return out
    filtered = cv2.INTER_AREA if rows >= height and columns >= width else cv2.INTER_LINEAR
    if rows == 2 * height and columns == 2 * width:
        filtered = cv2.INTER_LINEAR_EXACT  # the same average of four pixels, faster, rounded alike on every processor
    resized = cv2.resize(image, (width, height), dst=out, interpolation=filtered)
    return resized.astype(np.uint8, copy=False)
