"""Reading and writing image files that may be broken, huge or not images at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime import atomic
from dskd.runtime.decoding import decode
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.image_container import container_fault
from dskd.runtime.preprocess import Image

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
SMALLEST_SIDE = 16  # pixels: below this nothing can be seen in a picture
LARGEST_BYTES = 1 << 30

_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO that nobody writes to would wait for ever


class BadImage(DskdError):
    """A file that is not a usable image. The message starts with its path."""


def read_image(path: Path) -> Image:
    """Decodes a file to uint8 BGR [H, W, 3], upright by its EXIF orientation; 16 bit is scaled to 8 bit.

    Raises BadImage with the path, the fault and the mend. The content decides the format, not the extension.
    """
    data = _read_file(path)
    fault = container_fault(data)
    if fault:
        raise BadImage(f"{path}: {fault}")
    image, damaged = decode(data)
    if image is None:
        raise BadImage(f"{path}: cannot be decoded; save it again as PNG or JPEG")
    if damaged:
        raise BadImage(f"{path}: is damaged inside (a part of the picture cannot be decoded); copy it again")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise BadImage(f"{path}: {width}x{height} pixels is too small; {SMALLEST_SIDE} is the least for a side")
    return image


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Decodes a mask file to bool [H, W], true where any channel is over 127."""
    return np.asarray(read_image(path).max(axis=2) > 127)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """uint8 grey [H, W] or BGR [H, W, 3] as PNG bytes."""
    done, data = cv2.imencode(".png", image)
    if not done:
        raise DskdError(f"cannot encode an image of shape {list(image.shape)} as PNG")
    return data.tobytes()


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes a PNG whole or not at all."""
    atomic.write_bytes(path, encode_png(image))


def list_images(folder: Path) -> list[Path]:
    """All files below ``folder`` with an image extension, sorted; links to folders are not followed (loops)."""
    if not os.path.isdir(folder):  # unlike Path.is_dir, this never raises
        raise CallError(f"{folder} is not a folder; name one that holds images")
    found = []

    def refuse(error: OSError) -> None:
        raise DskdError(f"cannot list {error.filename}: {error.strerror}; check its rights")

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in names if not name.startswith(".") and is_image_name(name)]
    return sorted(found)


def is_image_name(name: str) -> bool:
    """Whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _read_file(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | _NONBLOCK), "rb") as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage(f"{path}: is not a regular file")
            if status.st_size > LARGEST_BYTES:
                raise BadImage(f"{path}: {status.st_size} bytes is more than any image this program reads")
            return handle.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadImage(f"{path}: cannot be read ({reason}); check the path and its rights") from error
