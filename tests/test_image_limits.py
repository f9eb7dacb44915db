"""No image file decides how much memory is taken: every size is read before a decoder sees the file."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from tiny_bundle import tiny_bundle

import dskd.runtime.__main__
from dskd.runtime.capture import decoding, pixel_limit
from dskd.runtime.capture import image_files as images
from dskd.runtime.capture.image_container import (
    Container,
    ContainerFault,
    examine,
)
from dskd.runtime.capture.image_files import BadImage, MemoryShort, read_image
from dskd.runtime.capture.pixel_limit import MEGAPIXELS, VARIABLE, limit_megapixels
from dskd.runtime.capture.sources import open_source
from dskd.runtime.capture.sources.image import read_frame
from dskd.runtime.errors import CallError, DskdError

PICTURE = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
HUGE = 60_000


@pytest.fixture(autouse=True)
def default_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_limit._Limit, "pixels", None)
    monkeypatch.delenv(VARIABLE, raising=False)


def encoded(form: str, picture: Pillow.Image = PICTURE, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_head(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def jpeg_frame(marker: int, width: int, height: int, channels: int = 3) -> bytes:
    parts = b"".join(bytes((k + 1, 0x11, 0)) for k in range(channels))
    return struct.pack(">BBHBHHB", 0xFF, marker, 8 + 3 * channels, 8, height, width, channels) + parts


def jpeg(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + b"\xff\xd9"


def with_marker(marker: int) -> bytes:
    """A sound JPEG whose frame header is called something else."""
    return encoded("JPEG").replace(b"\xff\xc0", bytes((0xFF, marker)))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes((flags, 0, 0, 0)) + sides


def tiff(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """A head alone; each entry is tag, type, count and value."""
    packed = b""
    for tag, kind, count, value in entries:
        inline = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
        packed += struct.pack(order + "HHI", tag, kind, count) + inline
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "IH", 8, len(entries)) + packed + bytes(4 + 64)


SIZE = ((256, 3, 1, 64), (257, 3, 1, 48))
SHORT_LENGTH = struct.unpack(">H", b"\xff\xc0")[0]
REFUSED = {  # name: content and words of the refusal
    **{f"jpeg SOF{k}": (jpeg(jpeg_frame(0xC0 + k, HUGE, HUGE)), "limit") for k in (0, 1, 2)},
    **{
        f"jpeg SOF{k}": (jpeg(jpeg_frame(0xC0 + k, HUGE, HUGE)), f"SOF{k}") for k in (3, 5, 6, 7, 9, 10, 11, 13, 14, 15)
    },
    **{f"sound jpeg called SOF{k}": (with_marker(0xC0 + k), "damaged") for k in (3, 5, 9, 10, 11)},
    "jpeg of two frames": (jpeg(jpeg_frame(0xC0, 64, 48), jpeg_frame(0xC0, 64, 48)), "two frame headers"),
    "jpeg whose second frame is huge": (jpeg(jpeg_frame(0xC0, 64, 48), jpeg_frame(0xC2, HUGE, HUGE)), "two frame"),
    "jpeg with a frame behind a marker without length": (
        jpeg(b"\xff\xd0", jpeg_frame(0xC0, HUGE, HUGE), bytes(SHORT_LENGTH)),
        "where none belongs",
    ),
    "jpeg with a frame behind a second start": (jpeg(b"\xff\xd8", jpeg_frame(0xC0, HUGE, HUGE)), "where none belongs"),
    "jpeg with a segment of no length": (jpeg(b"\xff\xe0\0\0", jpeg_frame(0xC0, HUGE, HUGE)), "no length"),
    "jpeg of ten channels": (jpeg(jpeg_frame(0xC0, 64, 48, 10)), "10 channels"),
    "jpeg of endless scans": (jpeg(jpeg_frame(0xC2, 8000, 8000), *[b"\xff\xda\0\x02\1\2\3"] * 200), "scans"),
    "png": (png(png_head(HUGE, HUGE), chunk(b"IEND", b"")), "limit"),
    "cut png": (png(png_head(HUGE, HUGE)), "limit"),
    "png of two heads": (png(png_head(64, 48), png_head(HUGE, HUGE), chunk(b"IEND", b"")), "one header"),
    "png whose head comes late": (
        png(chunk(b"tEXt", b"a\0b"), png_head(HUGE, HUGE), chunk(b"IEND", b"")),
        "one header",
    ),
    "png with a frame of an animation": (
        png(png_head(64, 48), chunk(b"fcTL", struct.pack(">5I", 0, HUGE, HUGE, 0, 0) + bytes(6)), chunk(b"IEND", b"")),
        "animated",
    ),
    "webp canvas": (riff(vp8x(HUGE, HUGE), (b"VP8L", b"\x2f\0\0\0\0")), "limit"),
    "webp lossy": (riff((b"VP8 ", b"\x30\1\0\x9d\1\x2a" + struct.pack("<HH", 16383, 16383))), "limit"),
    "webp lossless": (riff((b"VP8L", b"\x2f" + struct.pack("<I", 16382 | 16382 << 14))), "limit"),
    "webp in a small canvas": (
        riff(vp8x(64, 48), (b"VP8L", b"\x2f" + struct.pack("<I", 16382 | 16382 << 14))),
        "limit",
    ),
    "webp with frames and no flag": (riff(vp8x(64, 48), (b"ANMF", bytes(16)), (b"VP8L", b"\x2f\0\0\0\0")), "animated"),
    "webp without a picture": (riff((b"EXIF", b"x")), "without a picture"),
    "tiff": (tiff((256, 4, 1, HUGE), (257, 4, 1, HUGE)), "limit"),
    "big-endian tiff": (tiff((256, 4, 1, HUGE), (257, 4, 1, HUGE), order=">"), "limit"),
    "tiff of one huge tile": (tiff(*SIZE, (322, 4, 1, HUGE), (323, 4, 1, HUGE)), "limit"),
    "tiff that says its width twice": (tiff((256, 3, 1, 64), (256, 4, 1, HUGE), (257, 3, 1, 48)), "twice"),
    "tiff whose width lies elsewhere": (tiff((256, 16, 1, 64), (257, 3, 1, 48)), "no number"),
    "tiff of 32 bits": (tiff(*SIZE, (258, 3, 1, 32)), "32 bits"),
    "tiff of 60,000 samples": (tiff(*SIZE, (277, 3, 1, HUGE)), "samples"),
    "bigtiff": (b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + bytes(64), "BigTIFF"),
    "big-endian bigtiff": (b"MM\0+" + struct.pack(">HHQ", 8, 0, 16) + bytes(64), "BigTIFF"),
    "bmp": (b"BM" + struct.pack("<IIIIii", 26, 0, 26, 40, HUGE, -HUGE), "limit"),
    "pgm": (b"P5 60000 60000 255\n", "limit"),
    "ascii pgm": (b"P2\n2 2\n255\n0 1 2 3\n", "ASCII PGM"),
    "ascii ppm": (b"P3 # by hand\n1 1\n255\n0 1 2\n", "ASCII PPM"),
    "pgm without white": (b"P5 16 16 0\n" + bytes(256), "white is 0"),
    "avif": (b"\0\0\0\x1cftypavif" + bytes(20), "AVIF"),
    "animated gif": (encoded("GIF", save_all=True, append_images=[PICTURE]), "GIF"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_size_that_cannot_be_measured_or_is_too_large_reaches_no_decoder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, words = REFUSED[name]
    monkeypatch.setattr(images, "decode", lambda data: pytest.fail("a decoder was asked"))
    (tmp_path / "part.png").write_bytes(data)
    with pytest.raises(BadImage, match=words):
        read_image(tmp_path / "part.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP", "PPM", "WEBP"])
def test_what_is_measured_is_what_the_file_holds(form: str) -> None:
    kind = {"WEBP": "WebP"}.get(form, form)
    assert examine(encoded(form)) == Container(kind, 64, 48)


def test_the_limit_takes_the_pictures_of_large_sensors_and_is_set_in_three_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def taken(width: int, height: int) -> bool:
        try:
            examine(b"P5 %d %d 255\n" % (width, height))
        except ContainerFault as fault:
            return "cut-off" in str(fault)  # its size was no hindrance
        raise AssertionError

    assert MEGAPIXELS == 64
    assert taken(9344, 7000)  # the largest common industrial sensor
    assert not taken(10_000, 10_000)
    limit_megapixels(100)
    assert taken(10_000, 10_000)
    limit_megapixels(12)
    assert not taken(5000, 4000)
    monkeypatch.setattr(pixel_limit._Limit, "pixels", None)
    monkeypatch.setenv(VARIABLE, "100")
    assert taken(10_000, 10_000)


@pytest.mark.parametrize("said", ["0", "-1", "many", "1e9", "9" * 5000])
def test_a_limit_that_makes_no_sense_is_refused(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, said)
    (tmp_path / "part.png").write_bytes(encoded("PNG"))
    with pytest.raises(CallError, match=VARIABLE):
        read_image(tmp_path / "part.png")
    with pytest.raises(CallError, match="--max-megapixels 0 must lie"):
        dskd.runtime.__main__.main(["--max-megapixels", "0"])


# ------------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize(("white", "shift"), [(1023, 2), (4095, 4), (65535, 8), (511, 1)])
def test_a_camera_of_ten_or_twelve_bits_is_as_bright_as_its_header_says(white: int, shift: int, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, white, (48, 64), np.uint16, endpoint=True)
    path = tmp_path / "part.pgm"
    path.write_bytes(b"P5\n64 48\n%d\n" % white + stored.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(path), np.repeat((stored >> shift)[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("white", "level", "seen"), [(127, 127, 255), (100, 50, 128), (1000, 1000, 255), (100, 200, 255)]
)
def test_any_other_white_is_scaled_to_ours(white: int, level: int, seen: int, tmp_path: Path) -> None:
    stored = np.full((48, 64, 3), level, np.uint8 if white < 256 else ">u2")
    (tmp_path / "part.ppm").write_bytes(b"P6\n64 48\n%d\n" % white + stored.tobytes())
    assert np.unique(read_image(tmp_path / "part.ppm")).tolist() == [seen]


def test_a_colour_ppm_keeps_its_channels(tmp_path: Path) -> None:
    (tmp_path / "part.ppm").write_bytes(encoded("PPM"))
    np.testing.assert_array_equal(read_image(tmp_path / "part.ppm"), np.asarray(PICTURE)[..., ::-1])


# ------------------------------------------------------------------------------------------------------------- memory


def no_memory(*_: object) -> None:
    raise MemoryError


def opencv_without_memory(*_: object) -> None:
    error = cv2.error("Failed to allocate 99 bytes")
    error.code = -4
    raise error


@pytest.mark.parametrize(
    ("place", "name", "fail"),
    [
        (images, "_require_memory", no_memory),
        (images, "_read_file", no_memory),
        (decoding.cv2, "imdecode", opencv_without_memory),
    ],
    ids=["before decoding", "while reading", "in OpenCV"],
)
def test_short_memory_is_not_the_files_fault(
    place: object, name: str, fail: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(encoded("PNG"))
    monkeypatch.setattr(place, name, fail)
    with pytest.raises(MemoryShort, match=r"part.png: memory is short"):
        read_image(path)
    assert "memory is short" in read_frame("x", "x", path).detail  # type: ignore[union-attr]


def test_a_golden_array_that_claims_more_than_its_file_holds_is_refused(
    tmp_path: Path,
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 1000, 1000), }"
    file = bundle.path / "golden" / "inputs.npy"
    file.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head)
    with pytest.raises(DskdError, match=r"inputs.npy: (cannot be read|does not fit)"):
        bundle.golden()


# -------------------------------------------------------------------------------------------------------------- video


def test_a_video_of_a_varying_rate_is_whole(tmp_path: Path) -> None:
    """Containers without an index say no count: OpenCV makes one of duration and rate."""
    times = [*range(0, 200, 33), *range(700, 3200, 500)]
    source = open_source(f"file://{matroska(tmp_path / 'vfr.mkv', times, duration=times[-1] + 33)}")
    source.open()
    assert [source.read(1).id for _ in times] == [str(k) for k in range(len(times))]  # type: ignore[union-attr]
    with pytest.raises(DskdError, match=f"all {len(times)} frames are read"):
        source.read(1)


def test_a_video_that_breaks_off_is_told(tmp_path: Path) -> None:
    times = [*range(0, 200, 33), *range(700, 2200, 500)]
    source = open_source(f"file://{matroska(tmp_path / 'cut.mkv', times, duration=9000)}")
    source.open()
    for _ in times:
        source.read(1)
    assert "ends after" in source.read(1).detail  # type: ignore[union-attr]


def matroska(path: Path, times: list[int], duration: int) -> Path:
    """JPEG frames at ``times`` in milliseconds, without an index."""

    def element(name: str, data: bytes) -> bytes:
        return bytes.fromhex(name) + (0x10000000 | len(data)).to_bytes(4, "big") + data

    def number(name: str, value: int) -> bytes:
        return element(name, value.to_bytes(4, "big"))

    info = element("1549A966", number("2AD7B1", 1_000_000) + element("4489", struct.pack(">d", duration)))
    video = element("E0", number("B0", 64) + number("BA", 48))
    track = number("D7", 1) + number("73C5", 1) + number("83", 1) + element("86", b"V_MJPEG") + video
    tracks = element("1654AE6B", element("AE", track + number("23E383", 33_333_333)))
    blocks = b"".join(element("A3", b"\x81" + struct.pack(">hB", t, 0x80) + encoded("JPEG")) for t in times)
    cluster = element("1F43B675", number("E7", 0) + blocks)
    head = element("1A45DFA3", element("4282", b"matroska") + number("4287", 2) + number("4285", 2))
    path.write_bytes(head + element("18538067", info + tracks + cluster))
    return path


def test_a_pgm_header_of_blanks_alone_is_refused_at_once() -> None:
    """Read by a pattern with two ways to take a blank, forty of them took longer than anybody waits."""
    with pytest.raises(ContainerFault):
        examine(b"P5" + b" " * 100_000 + b"x")
