"""The head of a TIFF file, and of EXIF, which has the same form: what a decoder would make room for."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MOST_BITS = 16  # of a sample; floats and 32-bit numbers have no white
MOST_SAMPLES = 8  # of a pixel: four colours and spare ones

_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 274, 277, 322, 323
_SIZES = (_WIDTH, _HEIGHT, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT)
_SHORT, _LONG = 3, 4


class TiffFault(Exception):
    """What is wrong, as words to stand after the file's path."""


@dataclass(frozen=True)
class TiffHeader:
    """Sizes in pixels; those of a tile are 0 where the picture lies in strips. ``samples`` are those of a pixel."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    samples: int


def read_tiff_header(data: bytes) -> TiffHeader:
    """The first directory of a classic TIFF. Raises TiffFault where it is damaged, one of several, or of odd samples."""
    entries, following = _entries(data)
    if following:
        raise TiffFault("is a TIFF of several pages; save the page to inspect alone")
    sizes = dict.fromkeys(_SIZES, 0)
    known = [entry for entry in entries if entry[0] in (*_SIZES, _BITS)]
    if len({tag for tag, *_ in known}) < len(known):
        raise TiffFault("is a damaged TIFF (its directory says a size twice); copy it again")
    for tag, kind, count, at in known:
        if tag == _BITS:
            _check_bits(data, kind, count, at)
        elif count != 1 or kind not in (_SHORT, _LONG):  # others would be read from elsewhere
            raise TiffFault("is a damaged TIFF (its size is no number); copy it again")
        else:
            sizes[tag] = _number(data, kind, at)
    if sizes[_SAMPLES] > MOST_SAMPLES:
        raise TiffFault(f"is a TIFF of {sizes[_SAMPLES]} samples a pixel; save it in grey or colour")
    return TiffHeader(sizes[_WIDTH], sizes[_HEIGHT], sizes[_TILE_WIDTH], sizes[_TILE_HEIGHT], sizes[_SAMPLES])


def tiff_orientation(data: bytes) -> int:
    """The orientation tag (1 to 8), 1 where there is none that makes sense."""
    try:
        entries, _ = _entries(data)
        found = next((_number(data, kind, at) for tag, kind, _, at in entries if tag == _ORIENTATION), 1)
    except (TiffFault, struct.error):
        return 1
    return found if 1 <= found <= 8 else 1


def _entries(data: bytes) -> tuple[list[tuple[int, int, int, int]], int]:
    """Tag, type, count and place of the value of each entry of the first directory; where the next directory lies."""
    order = _order(data)
    try:
        (first,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, first)
        starts = range(first + 2, first + 2 + 12 * count, 12)
        entries = [(*struct.unpack_from(order + "HHI", data, start), start + 8) for start in starts]
        (following,) = struct.unpack_from(order + "I", data, first + 2 + 12 * count)
    except struct.error:
        raise TiffFault("is a cut-off TIFF (its directory is missing); copy it again") from None
    return entries, following


def _check_bits(data: bytes, kind: int, count: int, at: int) -> None:
    if kind != _SHORT or not 1 <= count <= MOST_SAMPLES:
        raise TiffFault("is a damaged TIFF (its bits per sample are no numbers); copy it again")
    order = _order(data)
    try:
        start = at if count <= 2 else struct.unpack_from(order + "I", data, at)[0]
        bits = max(struct.unpack_from(f"{order}{count}H", data, start))
    except struct.error:
        raise TiffFault("is a cut-off TIFF (its bits per sample are missing); copy it again") from None
    if bits > MOST_BITS:
        raise TiffFault(f"is a TIFF of {bits} bits a sample; save it with 8 or 16")


def _number(data: bytes, kind: int, at: int) -> int:
    found: int = struct.unpack_from(_order(data) + ("H" if kind == _SHORT else "I"), data, at)[0]
    return found


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"
