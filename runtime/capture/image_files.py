"""Reading and writing image files that may be broken, huge or not images at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime import atomic
from dskd.runtime.capture.decoding import decode, decode_alpha
from dskd.runtime.capture.image_container import (
    Container,
    ContainerFault,
    examine,
    has_unread_channel,
    orientation,
)
from dskd.runtime.capture.pixel_limit import BYTES_PER_PIXEL, largest_pixels
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.result import Image

EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm"}
)
SMALLEST_SIDE = 16  # pixels: below this nothing can be seen in a picture
_FILE_BYTES_PER_PIXEL = 8  # of the largest picture allowed, uncompressed: four channels of 16 bits
_FILE_BYTES_BESIDE = 16 << 20  # profiles and previews

_MEND = "save what counts as white, the rest as black"
_GREYISH = 8  # levels between the channels of what still counts as grey
_FLAT_COLOURS = 64  # more are a photograph's
_COLOUR_SAMPLES = 1024  # rows and columns looked at to count them

_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO that nobody writes to would wait for ever


class BadImage(DskdError):
    """A file that is not a usable image. The message starts with its path."""


class MemoryShort(DskdError):
    """A sound file that was not read because memory was short at this moment. The message starts with its path."""


def read_image(path: Path) -> Image:
    """Decodes a file to uint8 BGR [H, W, 3], upright by its EXIF orientation; 16 bit is scaled to 8 bit.

    The content decides the format, not the extension. Raises BadImage with the path, the fault and the mend, and
    MemoryShort where the same file may be read later.
    """
    return _read(path)[0]


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Decodes a mask file to bool [H, W], true where it is painted: what it shows is brighter than half of white.

    Where the colour is the same everywhere, an alpha channel that is not is the mask: what is more than half opaque.
    Raises BadImage, also where colour and alpha say different things, or no level is bright enough to be meant.
    """
    image, data = _read(path)
    brightest = image.max(axis=2)
    painted = np.asarray(brightest > 127)
    alpha = _alpha(path, data, (image.shape[0], image.shape[1]))
    if alpha is not None and (brightest.min() == brightest.max() or alpha.min() <= 127):
        return _painted_in_alpha(path, brightest, alpha)
    if alpha is None and (painted.all() or not painted.any()) and has_unread_channel(data):
        raise BadImage(f"{path}: the mask has a kind of transparency that is not read; {_MEND}")
    if 0 < brightest.max() <= 127:
        raise BadImage(f"{path}: the mask's brightest level is {brightest.max()} of 255; {_MEND}")
    if _has_dark_colours(image, brightest):
        raise BadImage(f"{path}: the mask has bright and dark colours; {_MEND}")
    return painted


def _painted_in_alpha(path: Path, brightest: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.bool_]:
    painted, opaque = np.asarray(brightest > 127), np.asarray(alpha > 127)
    if not opaque.any():
        raise BadImage(f"{path}: the mask's alpha is {alpha.max()} of 255 at most; {_MEND}")
    if brightest.min() == brightest.max() and not opaque.all():
        return opaque
    # A soft brush leaves its full colour wherever it touched: then the opaque part of that is what a person sees.
    if not painted.all() and not (opaque & ~painted).any() and not (painted & (alpha == 0)).any():
        return opaque
    raise BadImage(f"{path}: the mask's colour and its alpha channel say different things; {_MEND}, without alpha")


def _alpha(path: Path, data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The alpha channel [H, W] in 8 bits, None where the file has none."""
    try:
        alpha = decode_alpha(data)
    except MemoryError as error:
        raise MemoryShort(f"{path}: memory is short to read it; free some") from error
    if alpha is None or alpha.min() == alpha.max():
        return None
    if orientation(data) != 1 or alpha.shape != size:
        raise BadImage(f"{path}: the mask has an alpha channel and is turned by EXIF; save it upright")
    return np.asarray(alpha if alpha.dtype == np.uint8 else alpha >> 8, np.uint8)


def _has_dark_colours(image: Image, brightest: NDArray[np.uint8]) -> bool:
    """Whether a mask in a few flat colours, as tools paint classes, has some that are neither bright nor black."""
    dark = image[(brightest > 0) & (brightest <= 127)]
    if not len(dark) or not len(np.flatnonzero(dark.max(axis=1) - dark.min(axis=1) > _GREYISH)):
        return False
    step = max(1, max(image.shape) // _COLOUR_SAMPLES)
    packed = image[::step, ::step].astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    return len(np.unique(packed)) <= _FLAT_COLOURS


def _read(path: Path) -> tuple[Image, bytes]:
    """The picture and the file's bytes."""
    try:
        data = _read_file(path)
        container = examine(data)
        _require_memory(container)
        image, damaged = decode(data)
    except ContainerFault as error:
        raise BadImage(f"{path}: {error}") from error
    except MemoryError as error:
        raise MemoryShort(f"{path}: memory is short to read it; free some") from error
    if image is None:
        raise BadImage(f"{path}: cannot be decoded; save it again as PNG or JPEG")
    if damaged:
        raise BadImage(f"{path}: is damaged inside (a part of the picture cannot be decoded); copy it again")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise BadImage(f"{path}: {width}x{height} pixels is too small; {SMALLEST_SIDE} is the least for a side")
    return image, data


def _require_memory(container: Container) -> None:
    """Raises MemoryError where the decoders, which call that a damaged file, would not get theirs."""
    np.empty(container.width * container.height * BYTES_PER_PIXEL, np.uint8)


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
    """All files below ``folder`` with an image extension, sorted.

    Links to folders are followed, each folder once, and under its own name where it has one here: loops end.
    """
    if not os.path.isdir(folder):  # unlike Path.is_dir, this never raises
        raise CallError(f"{folder} is not a folder; name one that holds images")
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    links = [str(folder)]
    while links:
        files, more = _walk(links.pop(0), seen)
        found += files
        links += more
    return sorted(found)


def _walk(top: str, seen: set[tuple[int, int]]) -> tuple[list[Path], list[str]]:
    """The images below ``top``, and the links to folders there; adds the folders to ``seen`` and leaves those out."""
    found, links = [], []

    def refuse(error: OSError) -> None:
        raise DskdError(f"cannot list {error.filename}: {error.strerror}; check its rights")

    for root, folders, names in os.walk(top, onerror=refuse):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        visible = sorted(name for name in folders if not name.startswith("."))
        links += [os.path.join(root, name) for name in visible if os.path.islink(os.path.join(root, name))]
        folders[:] = [name for name in visible if not os.path.islink(os.path.join(root, name))]
        found += [Path(root, name) for name in names if not name.startswith(".") and is_image_name(name)]
    return found, links


def is_image_name(name: str) -> bool:
    """Whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _read_file(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | _NONBLOCK), "rb") as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage(f"{path}: is not a regular file")
            if status.st_size > largest_pixels() * _FILE_BYTES_PER_PIXEL + _FILE_BYTES_BESIDE:
                raise BadImage(f"{path}: {status.st_size} bytes is more than any image this program reads")
            return handle.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadImage(f"{path}: cannot be read ({reason}); check the path and its rights") from error
