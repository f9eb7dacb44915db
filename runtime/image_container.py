"""Whether an image file is whole, before it is decoded: magic, sizes, checksums, end markers, pages and animation."""

from __future__ import annotations

import re
import struct
import zlib

LARGEST_PIXELS = 1 << 28  # 268 megapixels, 0.8 GB decoded: above any inspection camera, below a decompression bomb
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"P5": "PGM",
    b"P6": "PPM",
    b"GIF8": "GIF",
}
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_PNM_HEADER = re.compile(rb"P([56])(?:\s+|#[^\n]*\n)+(\d{1,9})(?:\s+|#[^\n]*\n)+(\d{1,9})(?:\s+|#[^\n]*\n)+(\d{1,9})\s")


def container_fault(data: bytes) -> str | None:
    """What is wrong with an image file, or None. OpenCV fills the missing part of a cut file with grey: not here."""
    if not data:
        return "is empty (0 bytes)"
    kind = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WebP"
    if kind is None:
        return "is not an image (PNG, JPEG, BMP, TIFF, WebP, PGM and PPM are read)"
    check = {"JPEG": _jpeg_fault, "PNG": _png_fault, "WebP": _webp_fault, "TIFF": _tiff_fault, "BMP": _bmp_fault}
    check |= {"PGM": _pnm_fault, "PPM": _pnm_fault}
    if kind == "GIF":
        return "is a GIF, which may be animated; save the frame to inspect as PNG"
    return check[kind](data) if kind in check else None


def _size_fault(width: int, height: int) -> str | None:
    if width * height > LARGEST_PIXELS:
        return f"{width}x{height} pixels is over the limit of {LARGEST_PIXELS >> 20} megapixels; scale it down"
    return None


def _jpeg_fault(data: bytes) -> str | None:
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return "is a damaged JPEG (a segment does not start where it should); copy it again"
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xD9:
            return None
        length = struct.unpack_from(">H", data, position + 2)[0]
        if marker in (0xC0, 0xC1, 0xC2) and position + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 5)
            fault = _size_fault(width, height)
            if fault:
                return fault
        position += 2 + length
        if marker == 0xDA:  # compressed data follows, up to the next marker that is neither stuffing nor a restart
            following = _JPEG_MARKER.search(data, position)
            if following is None:
                break
            position = following.end() - 2
            if data[position + 1] == 0xD9:
                return None
    return "is a cut-off JPEG (its end is missing); copy it again"


def _png_fault(data: bytes) -> str | None:
    position = 8
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return "is a damaged PNG (a checksum is wrong); copy it again"
        if name == b"IHDR" and length >= 8:
            fault = _size_fault(*struct.unpack_from(">II", data, position + 8))
            if fault:
                return fault
        if name == b"acTL":
            return "is an animated PNG; save the frame to inspect as a plain PNG"
        if name == b"IEND":
            return None
        position = end
    return "is a cut-off PNG (its end is missing); copy it again"


def _webp_fault(data: bytes) -> str | None:
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        return "is a cut-off WebP (its end is missing); copy it again"
    if data[12:16] == b"VP8X" and len(data) > 20 and data[20] & 0x02:
        return "is an animated WebP; save the frame to inspect as PNG"
    return None


def _bmp_fault(data: bytes) -> str | None:
    if len(data) < 26:
        return "is a cut-off BMP (its end is missing); copy it again"
    (size,) = struct.unpack_from("<I", data, 2)
    old = struct.unpack_from("<I", data, 14)[0] == 12  # OS/2's header, with 16-bit sides
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    if size > len(data):
        return "is a cut-off BMP (its end is missing); copy it again"
    return _size_fault(abs(width), abs(height))


def _pnm_fault(data: bytes) -> str | None:
    header = _PNM_HEADER.match(data)
    if header is None:
        return "is a damaged PGM or PPM (its header makes no sense); copy it again"
    kind, width, height, largest = (int(number) for number in header.groups())
    needed = width * height * (3 if kind == 6 else 1) * (2 if largest > 255 else 1)
    fault = _size_fault(width, height)
    if fault is None and header.end() + needed > len(data):
        return "is a cut-off PGM or PPM (its end is missing); copy it again"
    return fault


def _tiff_fault(data: bytes) -> str | None:
    """Size and page count from the first directory. Missing strips are libtiff's to find."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (first,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, first)
        tags: dict[int, int] = {}
        for k in range(count):
            tag, kind, _, short, _ = struct.unpack_from(order + "HHIHH", data, first + 2 + 12 * k)
            tags[tag] = short if kind == 3 else struct.unpack_from(order + "I", data, first + 10 + 12 * k)[0]
        (following,) = struct.unpack_from(order + "I", data, first + 2 + 12 * count)
    except struct.error:
        return "is a cut-off TIFF (its directory is missing); copy it again"
    if following:
        return "is a TIFF of several pages; save the page to inspect alone"
    return _size_fault(tags.get(256, 0), tags.get(257, 0))
