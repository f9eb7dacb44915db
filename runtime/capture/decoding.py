"""Image bytes to pixels, with the decoders' complaints kept off the user's terminal and taken as what they are.

libjpeg, libpng and libtiff fill what they cannot decode and say so only on the process's standard error. That is one
stream for all threads: what another thread prints there while an image is decoded is passed on afterwards.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.capture.image_container import pnm_header
from dskd.runtime.result import Image

# Log lines of OpenCV and FFmpeg would stand between our own one-line errors. Set these variables to see them.
_opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 4, as JetPack's, has these calls at its top
_SILENT, _ERROR, _DEBUG = 0, 2, 5
# libtiff's complaints come as OpenCV's: as errors from 5 on, in 4 as lines that it prints at the debug level only.
_LIBTIFF = _ERROR if int(cv2.__version__.partition(".")[0]) >= 5 else _DEBUG
if "OPENCV_LOG_LEVEL" not in os.environ:
    _opencv_log.setLogLevel(_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first video is opened; -8 is AV_LOG_QUIET

cv2.getNumThreads()  # OpenCV chooses its threads once, and tells it at the debug level on standard output

# Many cheap cameras leave padding before the end marker (0xd9); all other complaints mean that pixels were made up.
_DAMAGE = re.compile(
    r"Corrupt JPEG data: (?!\d+ extraneous bytes before marker 0xd9)|Premature end of JPEG|Inconsistent progression"
    r"|Invalid SOS parameters|TIFF_Error (?!TIFFFetchNormalTag)|OpenCV TIFF: (?!TIFFReadDirectory|TIFFFetchNormalTag)"
)
_DECODERS = re.compile(
    r"libpng (error|warning): |\[[A-Z ]+:\d+@|Corrupt JPEG data: |Premature end of JPEG|Inconsistent progression"
    r"|Invalid SOS parameters|OpenCV TIFF: |Unknown Adobe color transform|Warning: unknown JFIF|^\s*$"
)
_ONE_AT_A_TIME = threading.Lock()


_NO_MEMORY = -4  # OpenCV's code
_VALUES_AT_ONCE = 1 << 20  # of a PGM or PPM: scaled in pieces, since an index copy is eight times as large


def decode(data: bytes) -> tuple[Image | None, bool]:
    """Pixels as uint8 BGR [H, W, 3] or None, and whether the decoder had to make some of them up.

    Raises MemoryError where there is too little.
    """
    if data[:1] == b"P":
        return _decode_pnm(data), False
    image, damaged = _imdecode(data, cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(image, np.uint8), damaged


def decode_alpha(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16] | None:
    """The alpha channel [H, W] as it is stored, not turned by EXIF; None where there is none. Raises as ``decode``."""
    if data[:1] == b"P":
        return None
    image, _ = _imdecode(data, cv2.IMREAD_UNCHANGED)
    return image[:, :, 3] if image is not None and image.ndim == 3 and image.shape[2] == 4 else None


def _imdecode(data: bytes, how: int) -> tuple[Any, bool]:
    image = None
    with _hear_standard_error() as heard:
        level = _opencv_log.getLogLevel()
        _opencv_log.setLogLevel(_LIBTIFF)
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
        except cv2.error as error:  # the same as None, not decodable, but for one
            if error.code == _NO_MEMORY:
                raise MemoryError from error
        finally:
            _opencv_log.setLogLevel(level)
    return image, bool(_DAMAGE.search("\n".join(heard)))


def _decode_pnm(data: bytes) -> Image:
    """OpenCV takes 255 or 65535 for white whatever the header says: cameras of 10 and 12 bit would come nearly black."""
    channels, width, height, white, start = pnm_header(data)
    levels = np.arange(256 if white < 256 else 65536)
    if white & (white + 1) or white < 255:
        levels = (np.minimum(levels, white) * 255 + white // 2) // white
    else:  # a camera's whole bits: the upper 8, as OpenCV takes of a PNG with 16
        levels = np.minimum(levels, white) >> (white.bit_length() - 8)
    scaled = levels.astype(np.uint8)
    stored = np.frombuffer(data, np.uint8 if white < 256 else ">u2", height * width * channels, start)
    pixels = np.empty(stored.size, np.uint8)
    for begin in range(0, stored.size, _VALUES_AT_ONCE):
        pixels[begin : begin + _VALUES_AT_ONCE] = scaled[stored[begin : begin + _VALUES_AT_ONCE]]
    picture = pixels.reshape(height, width, channels)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_RGB2BGR), np.uint8)


def _in_memory() -> IO[bytes]:
    """A file that needs no disk: a container may have no folder that can be written."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("heard"), "w+b")
    return tempfile.TemporaryFile()


@contextmanager
def _hear_standard_error() -> Iterator[list[str]]:
    """Yields a list that, after the block, holds what was printed on file descriptor 2 in it."""
    heard: list[str] = []
    with _ONE_AT_A_TIME, _in_memory() as file:
        try:
            terminal = os.dup(2)
        except OSError:  # standard error is closed: nobody would hear it anyway
            yield heard
            return
        try:
            os.dup2(file.fileno(), 2)
            yield heard
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            file.seek(0)
            heard += file.read().decode(errors="replace").splitlines()
    foreign = [line for line in heard if not _DECODERS.search(line)]
    if foreign:
        os.write(2, "".join(f"{line}\n" for line in foreign).encode())
