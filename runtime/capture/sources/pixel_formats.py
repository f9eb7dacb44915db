"""GenICam pixel formats to BGR."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.result import Image

# Numbers from the GenICam Pixel Format Naming Convention. A Bayer name tells the first two pixels of the first row,
# OpenCV's code the second two of the second row: RG is BG there.
_BAYER8 = {
    0x01080008: cv2.COLOR_BayerGB2BGR,  # BayerGR8
    0x01080009: cv2.COLOR_BayerBG2BGR,  # BayerRG8
    0x0108000A: cv2.COLOR_BayerGR2BGR,  # BayerGB8
    0x0108000B: cv2.COLOR_BayerRG2BGR,  # BayerBG8
}
_MONO8 = 0x01080001
_MONO_BITS = {0x01100003: 10, 0x01100005: 12, 0x01100025: 14, 0x01100007: 16}  # each pixel in two bytes
_RGB8, _BGR8 = 0x02180014, 0x02180015


def to_bgr(data: NDArray[np.uint8], width: int, height: int, pixel: int) -> Image | None:
    """A camera's bytes as uint8 BGR [H, W, 3], a copy; None where the format is unknown or bytes are missing."""
    pixel &= 0xFFFFFFFF
    channels = 3 if pixel in (_RGB8, _BGR8) else 2 if pixel in _MONO_BITS else 1
    if data.size < width * height * channels:
        return None
    picture = data[: width * height * channels].reshape(height, width, channels)
    if pixel == _BGR8:
        return np.array(picture)
    if pixel == _RGB8:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
    if pixel in _MONO_BITS:
        deep = picture.copy().view("<u2")[:, :, 0] >> (_MONO_BITS[pixel] - 8)
        picture = np.minimum(deep, 255).astype(np.uint8)[:, :, None]
    elif pixel != _MONO8 and pixel not in _BAYER8:
        return None
    code = _BAYER8.get(pixel, cv2.COLOR_GRAY2BGR)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(picture[:, :, 0]), code), np.uint8)
