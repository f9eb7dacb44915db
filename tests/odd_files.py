"""Bad and odd picture files, paths that are no files, and what a command says of them in this process."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from PIL import Image

from dskd.runtime.errors import exit_with_code, one_line

Array = NDArray[np.uint8]
quick = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def outcome(
    main: Callable[[list[str]], int], arguments: list[object], capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, list[str]]:
    """Runs a command in this process: exit code, standard output, lines on standard error (those of C code too)."""
    before = sys.argv
    sys.argv = ["command", *map(str, arguments)]
    capfd.readouterr()
    try:
        with pytest.raises(SystemExit) as end:
            exit_with_code(main)
    finally:
        sys.argv = before
    printed = capfd.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, printed.out, printed.err.splitlines()


def assert_one_clear_line(message: str, names: str) -> None:
    """What a user reads: one line that says where, and more than where."""
    assert one_line(message) == message, f"not one printable line: {message!r}"
    assert names in message
    assert len(message) - len(names) > 15
    assert "Traceback" not in message
    assert "Errno" not in message


def pixels(height: int = 48, width: int = 64, seed: int = 0) -> Array:
    """A smooth RGB picture in which all places differ."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 4) * 1.0, np.uint8)


def encoded(form: str, picture: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture or Image.fromarray(pixels())).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encoded("BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_that_claims(width: int, height: int) -> bytes:
    data = encoded("TIFF")
    return data.replace(struct.pack("<HHII", 256, 4, 1, 64), struct.pack("<HHII", 256, 4, 1, width)).replace(
        struct.pack("<HHII", 257, 4, 1, 48), struct.pack("<HHII", 257, 4, 1, height)
    )


def several(form: str, **options: object) -> bytes:
    first, *others = (Image.fromarray(pixels(seed=k)) for k in range(3))
    return encoded(form, first, save_all=True, append_images=others, **options)


SOUND = {
    "jpeg": encoded("JPEG"),
    "progressive.jpeg": encoded("JPEG", progressive=True),
    "cmyk.jpeg": encoded("JPEG", Image.fromarray(pixels()).convert("CMYK")),
    "png": encoded("PNG"),
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF"),
    "lzw.tiff": encoded("TIFF", compression="tiff_lzw"),
    "deflate.tiff": encoded("TIFF", compression="tiff_adobe_deflate"),
    "lossy.webp": encoded("WEBP"),
    "lossless.webp": encoded("WEBP", lossless=True),
    "ppm": encoded("PPM"),
    "pgm": encoded("PPM", Image.fromarray(pixels()).convert("L")),
}


GREY = pixels()[:, :, 1]

BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "one byte": (b"\xff", "not an image"),
    "text": (b"hello, I am a picture", "not an image"),
    "html": (b"<html><body>404</body></html>", "not an image"),
    "zeros": (b"\0" * 5000, "not an image"),
    "elf": (b"\x7fELF" + b"\0" * 99, "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not an image"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 99, "JPEG 2000"),
    "jpeg start only": (b"\xff\xd8\xff", "JPEG"),
    "png signature only": (b"\x89PNG\r\n\x1a\n", "PNG"),
    "png without pixels": (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
        "decode",
    ),
    "png of a strange colour type": (
        SOUND["png"].replace(SOUND["png"][8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 5, 0, 0, 0))),
        "decode",
    ),
    "png with a wrong sum": (SOUND["png"][:-1] + b"\0", "checksum"),
    "bmp start only": (b"BM", "BMP"),
    "tiff start only": (b"II*\0", "TIFF"),
    "tiff whose directory is itself": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "TIFF"),
    "tiff whose directory lies outside": (b"MM\0*\xff\xff\xff\xf0", "TIFF"),
    "webp start only": (b"RIFF\x04\0\0\0WEBP", "decode"),
    "riff of another kind": (b"RIFF\x04\0\0\0WAVE", "not an image"),
    "pgm without numbers": (b"P5\nhello\n", "header"),
    "ppm that ends early": (b"P6\n64 48\n255\n" + b"\7" * 99, "cut-off"),
    "1x1": (encoded("PNG", Image.new("RGB", (1, 1))), "1x1 pixels is too small"),
    "30000x10": (encoded("PNG", Image.new("L", (30000, 10))), "30000x10 pixels is too small"),
    "15x400": (encoded("JPEG", Image.new("L", (15, 400))), "too small"),
    "gif": (encoded("GIF"), "GIF"),
    "animated gif": (several("GIF"), "GIF"),
    "animated png": (several("PNG"), "animated PNG"),
    "animated webp": (several("WEBP"), "animated WebP"),
    "tiff of three pages": (several("TIFF"), "several pages"),
    "png bomb": (png_that_claims(60_000, 60_000), "60000x60000"),
    "png bomb at the end of the range": (png_that_claims(2**31 - 1, 2**31 - 1), "limit"),
    "png of 0 pixels": (png_that_claims(0, 50), "decode"),
    "png with too few rows": (png_that_claims(640, 480), "decode"),
    "jpeg bomb": (jpeg_that_claims(65_500, 65_500), "65500x65500"),
    "jpeg of 0 rows": (jpeg_that_claims(64, 0), "decode"),
    "bmp bomb": (bmp_that_claims(100_000, 100_000), "100000x100000"),
    "bmp bomb, upside down": (bmp_that_claims(100_000, -100_000), "limit"),
    "tiff bomb": (tiff_that_claims(1 << 20, 1 << 20), "1048576x1048576"),
    "ppm bomb": (b"P6\n100000 100000\n255\n" + b"\0" * 99, "100000x100000"),
    "pgm bomb of endless digits": (b"P5\n" + b"9" * 4000 + b" 2\n255\n", "header"),
}


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone.png"))


def make_nothing(path: Path) -> None:
    pass
