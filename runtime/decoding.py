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
from typing import Any

import cv2
import numpy as np

from dskd.runtime.preprocess import Image

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


def decode(data: bytes) -> tuple[Image | None, bool]:
    """Pixels as uint8 BGR [H, W, 3] or None, and whether the decoder had to make some of them up."""
    image = None
    with _hear_standard_error() as heard:
        level = _opencv_log.getLogLevel()
        _opencv_log.setLogLevel(_LIBTIFF)
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            pass  # the same as None: not decodable
        finally:
            _opencv_log.setLogLevel(level)
    return None if image is None else np.asarray(image, np.uint8), bool(_DAMAGE.search("\n".join(heard)))


@contextmanager
def _hear_standard_error() -> Iterator[list[str]]:
    """Yields a list that, after the block, holds what was printed on file descriptor 2 in it."""
    heard: list[str] = []
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as file:
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
