"""Whether an image file is whole and small enough, before it is decoded: magic, sizes, checksums, ends, pages, animation.

Every size that OpenCV's decoders would believe is read here first; what cannot be measured is refused.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from dskd.runtime.capture.pixel_limit import VARIABLE, largest_pixels
from dskd.runtime.capture.tiff_header import MOST_SAMPLES, TiffFault, read_tiff_header, tiff_orientation

MOST_SCANS = 64  # of a JPEG; a progressive one has about ten, and each costs a pass over the whole picture

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"P5": "PGM",
    b"P6": "PPM",
    b"GIF8": "GIF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"P1": "ASCII PBM",
    b"P2": "ASCII PGM",
    b"P3": "ASCII PPM",
    b"P4": "PBM",
    b"P7\n": "PAM",
    b"Pf\n": "PFM",
    b"PF\n": "PFM",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "HDR",
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_PNM_GAP = rb"(?:\s|#[^\n]*\n)+"  # one way to read it: a long gap must not take for ever
_PNM_HEADER = re.compile(rb"P([56])" + _PNM_GAP + rb"(\d{1,9})" + _PNM_GAP + rb"(\d{1,9})" + _PNM_GAP + rb"(\d{1,9})\s")


class ContainerFault(Exception):
    """What is wrong with an image file, as words to stand after its path."""


@dataclass(frozen=True)
class Container:
    """The kind of an image file and its size in pixels, before any rotation."""

    kind: str
    width: int
    height: int


def examine(data: bytes) -> Container:
    """The kind and size of an image file. Raises ContainerFault where it is cut off, damaged, too large or not read.

    OpenCV fills the missing part of a cut file with grey, and takes what a header says for the memory that it needs.
    """
    if not data:
        raise ContainerFault("is empty (0 bytes)")
    kind = _kind(data)
    measure = {
        "JPEG": _jpeg_size,
        "PNG": _png_size,
        "WebP": _webp_size,
        "TIFF": _tiff_size,
        "BMP": _bmp_size,
        "PGM": _pnm_size,
        "PPM": _pnm_size,
    }
    if kind == "GIF":
        raise ContainerFault("is a GIF, which may be animated; save the frame to inspect as PNG")
    if kind not in measure:
        raise ContainerFault(f"is {kind}, which is not read; save it as PNG or TIFF" if kind else _UNKNOWN)
    return Container(kind, *measure[kind](data))


_UNKNOWN = "is not an image (PNG, JPEG, BMP, TIFF, WebP, PGM and PPM are read)"


def orientation(data: bytes) -> int:
    """The EXIF orientation (1 to 8) of a PNG, WebP or TIFF file that ``examine`` took; 1 where it says none."""
    if data[:2] in (b"II", b"MM"):
        return tiff_orientation(data)
    if data.startswith(b"\x89PNG"):
        found = next((data[start:end] for name, start, end in _png_chunks(data) if name == b"eXIf"), b"")
    else:
        found = next((data[start:end] for name, start, end in _webp_chunks(data) if name == b"EXIF"), b"")
    return tiff_orientation(found.removeprefix(b"Exif\0\0"))


def has_unread_channel(data: bytes) -> bool:
    """Whether a file that ``examine`` took may hold transparency that OpenCV does not give."""
    if data[:2] in (b"II", b"MM"):
        return read_tiff_header(data).samples in (2, *range(5, MOST_SAMPLES + 1))
    if data.startswith(b"\x89PNG"):  # a grey level that stands for transparent
        return data[25] == 0 and any(name == b"tRNS" for name, _, _ in _png_chunks(data))
    if data[:2] == b"BM":  # the fourth byte of a pixel is spare, and some programs put alpha there
        if len(data) < 54 or struct.unpack_from("<I", data, 14)[0] < 40:
            return False
        (start,), (bits,) = struct.unpack_from("<I", data, 10), struct.unpack_from("<H", data, 28)
        return bits == 32 and len(set(data[start + 3 :: 4])) > 1
    return False


def pnm_header(data: bytes) -> tuple[int, int, int, int, int]:
    """Channels, width, height, the level of white, and where the pixels begin, of a binary PGM or PPM."""
    header = _PNM_HEADER.match(data)
    if header is None:
        raise ContainerFault("is a damaged PGM or PPM (its header makes no sense); copy it again")
    kind, width, height, white = (int(number) for number in header.groups())
    if not 1 <= white <= 65535:
        raise ContainerFault(f"is a damaged PGM or PPM (its header says that white is {white}); copy it again")
    return 3 if kind == 6 else 1, width, height, white, header.end()


def _kind(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp" and data[8:12] in _BRANDS:
        return _BRANDS[data[8:12]]
    kind = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if data[:1] == b"P" and kind and not data[2:3].isspace() and data[2:3] not in (b"#", b""):
        return None  # some text
    return kind


def _within_limit(width: int, height: int) -> tuple[int, int]:
    limit = largest_pixels()
    if width * height > limit:
        raise ContainerFault(
            f"{width}x{height} pixels is over the limit of {limit >> 20} megapixels; scale it down, or raise "
            f"max_megapixels of the station, --max-megapixels or {VARIABLE}"
        )
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Of all frame headers the largest. Ends with the end marker; what lies behind it is not decoded."""
    size, scans, position = (0, 0), 0, 2
    while position + 2 <= len(data):
        if data[position] != 0xFF:
            raise ContainerFault("is a damaged JPEG (a segment does not start where it should); copy it again")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xD9:
            return size
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these have no length: a decoder goes on right behind them
            raise ContainerFault("is a damaged JPEG (a marker stands where none belongs); copy it again")
        if position + 4 > len(data):
            break
        length = struct.unpack_from(">H", data, position + 2)[0]
        if length < 2:
            raise ContainerFault("is a damaged JPEG (a segment has no length); copy it again")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = _jpeg_frame(data, position, size)
        position += 2 + length
        if marker == 0xDA:  # compressed data follows, up to the next marker that is neither stuffing nor a restart
            scans += 1
            if scans > MOST_SCANS:
                raise ContainerFault(f"is a JPEG of more than {MOST_SCANS} scans; save it again")
            following = _JPEG_MARKER.search(data, position)
            if following is None:
                break
            position = following.end() - 2
    raise ContainerFault("is a cut-off JPEG (its end is missing); copy it again")


def _jpeg_frame(data: bytes, position: int, before: tuple[int, int]) -> tuple[int, int]:
    marker = data[position + 1]
    if marker not in (0xC0, 0xC1, 0xC2):
        raise ContainerFault(
            f"is a damaged JPEG, or one in a rare coding (SOF{marker - 0xC0}: lossless, arithmetic or hierarchical); "
            "copy it again, or save it as PNG"
        )
    if before != (0, 0):
        raise ContainerFault("is a damaged JPEG (it has two frame headers); copy it again")
    if position + 10 > len(data):
        raise ContainerFault("is a cut-off JPEG (its end is missing); copy it again")
    height, width, channels = struct.unpack_from(">HHB", data, position + 5)
    if channels not in (1, 3, 4):
        raise ContainerFault(f"is a JPEG of {channels} channels; save it as PNG")
    return _within_limit(width, height)


def _png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Name, begin and end of each whole chunk up to IEND. Raises ContainerFault where a checksum is wrong."""
    found, position = [], 8
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        start, end = position + 8, position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ContainerFault("is a damaged PNG (a checksum is wrong); copy it again")
        found.append((name, start, end))
        if name == b"IEND":
            return found
        position = end + 4
    raise ContainerFault("is a cut-off PNG (its end is missing); copy it again")


def _png_size(data: bytes) -> tuple[int, int]:
    # The size first, so that a bomb is called what it is also where it is cut.
    if data[12:16] == b"IHDR" and len(data) >= 24:
        _within_limit(*struct.unpack_from(">II", data, 16))
    chunks = _png_chunks(data)
    if any(name in (b"acTL", b"fcTL", b"fdAT") for name, _, _ in chunks):
        raise ContainerFault("is an animated PNG; save the frame to inspect as a plain PNG")
    name, start, end = chunks[0]
    if name != b"IHDR" or end - start != 13 or sum(name == b"IHDR" for name, _, _ in chunks) > 1:
        raise ContainerFault("is a damaged PNG (it does not begin with its one header); copy it again")
    width, height = struct.unpack_from(">II", data, start)
    return width, height


def _webp_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Name, begin and end of each chunk of a RIFF file."""
    whole = struct.unpack_from("<I", data, 4)[0] + 8
    if whole > len(data):
        raise ContainerFault("is a cut-off WebP (its end is missing); copy it again")
    found, position = [], 12
    while position + 8 <= whole:
        name, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length
        if end > whole:
            raise ContainerFault("is a damaged WebP (a chunk is longer than the file); copy it again")
        found.append((name, position + 8, end))
        position = end + (length & 1)
    return found


def _webp_size(data: bytes) -> tuple[int, int]:
    """The largest of canvas and pictures."""
    sizes = [(0, 0)]
    for name, start, end in _webp_chunks(data):
        payload = data[start : min(end, start + 10)]
        if name in (b"ANIM", b"ANMF") or (name == b"VP8X" and payload[:1] and payload[0] & 0x02):
            raise ContainerFault("is an animated WebP; save the frame to inspect as PNG")
        if name == b"VP8X" and len(payload) == 10:
            sizes.append((1 + int.from_bytes(payload[4:7], "little"), 1 + int.from_bytes(payload[7:10], "little")))
        elif name == b"VP8 " and len(payload) == 10:
            width, height = struct.unpack_from("<HH", payload, 6)
            sizes.append((width & 0x3FFF, height & 0x3FFF))
        elif name == b"VP8L" and len(payload) >= 5:
            bits = int.from_bytes(payload[1:5], "little")
            sizes.append((1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)))
    if len(sizes) == 1:
        raise ContainerFault("is a WebP without a picture that could be decoded; save it again")
    return max((_within_limit(*size) for size in sizes), key=lambda size: size[0] * size[1])


def _bmp_size(data: bytes) -> tuple[int, int]:
    if len(data) < 26:
        raise ContainerFault("is a cut-off BMP (its end is missing); copy it again")
    (size,) = struct.unpack_from("<I", data, 2)
    old = struct.unpack_from("<I", data, 14)[0] == 12  # OS/2's header, with 16-bit sides
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    if size > len(data):
        raise ContainerFault("is a cut-off BMP (its end is missing); copy it again")
    return _within_limit(abs(width), abs(height))


def _pnm_size(data: bytes) -> tuple[int, int]:
    channels, width, height, white, start = pnm_header(data)
    _within_limit(width, height)
    if start + width * height * channels * (2 if white > 255 else 1) > len(data):
        raise ContainerFault("is a cut-off PGM or PPM (its end is missing); copy it again")
    return width, height


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Of the first directory, with its tiles. Missing strips are libtiff's to find."""
    try:
        header = read_tiff_header(data)
    except TiffFault as error:
        raise ContainerFault(str(error)) from error
    _within_limit(header.width, header.height)
    _within_limit(header.tile_width, header.tile_height)  # a decoder makes room for a whole tile
    return header.width, header.height
