"""Odd pictures are read as what they show; bad ones, and paths that are no pictures, are refused in one line."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import assume, example, given
from hypothesis import strategies as st
from odd_files import (
    BAD,
    GREY,
    SOUND,
    Array,
    assert_one_clear_line,
    encoded,
    make_dangling,
    make_directory,
    make_fifo,
    make_loop,
    make_nothing,
    pixels,
    quick,
)
from PIL import Image, ImageOps

from dskd.runtime.capture.image_files import BadImage, list_images, read_image
from dskd.runtime.errors import CallError


def rgb(path: Path) -> Array:
    return np.asarray(read_image(path)[:, :, ::-1])


USABLE: dict[str, tuple[bytes, Array, float]] = {  # content, what must be seen, how far each pixel may be off
    "16 bit png": (encoded("PNG", Image.fromarray(GREY.astype(np.uint16) * 257)), GREY, 1),
    "16 bit tiff": (encoded("TIFF", Image.fromarray(GREY.astype(np.uint16) * 257)), GREY, 1),
    "16 bit pgm": (b"P5\n64 48\n65535\n" + (GREY.astype(">u2") * 257).tobytes(), GREY, 1),
    "grey png": (encoded("PNG", Image.fromarray(GREY)), GREY, 0),
    "grey jpeg": (encoded("JPEG", Image.fromarray(GREY), quality=98), GREY, 4),
    "palette png": (
        encoded("PNG", Image.fromarray(pixels()).quantize(32)),
        np.asarray(Image.fromarray(pixels()).quantize(32).convert("RGB")),
        0,
    ),
    "1 bit png": (encoded("PNG", Image.fromarray(GREY > 127)), (GREY > 127).astype(np.uint8) * 255, 0),
    "alpha png": (encoded("PNG", Image.fromarray(np.dstack([pixels(), np.full((48, 64), 9, np.uint8)]))), pixels(), 0),
    "grey alpha png": (encoded("PNG", Image.merge("LA", [Image.fromarray(GREY)] * 2)), GREY, 0),
    "interlaced-like progressive jpeg": (encoded("JPEG", progressive=True, quality=98, subsampling=0), pixels(), 6),
    "cmyk jpeg": (encoded("JPEG", Image.fromarray(pixels()).convert("CMYK"), quality=98), pixels(), 8),
    "lossless webp": (SOUND["lossless.webp"], pixels(), 0),
    "bmp": (SOUND["bmp"], pixels(), 0),
    "ppm with a comment": (b"P6\n# by hand\n64 48\n255\n" + pixels().tobytes(), pixels(), 0),
    "lzw tiff": (SOUND["lzw.tiff"], pixels(), 0),
    "tiff with a private tag": (encoded("TIFF", tiffinfo={65000: "by a camera"}), pixels(), 0),
    "big-endian tiff": (encoded("TIFF", Image.fromarray(GREY.astype(">u2") * 257)), GREY, 1),
    "bytes after the end": (SOUND["jpeg"] + b"made by a camera" * 9, None, 0),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", USABLE)
def test_an_odd_but_usable_image_is_read_as_what_it_shows(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, expected, tolerance = USABLE[name]
    if expected is None:
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        tolerance = 3
    path = tmp_path / "wrong.extension"
    path.write_bytes(data)
    seen = rgb(path)
    wanted = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    assert seen.dtype == np.uint8
    assert seen.shape == wanted.shape
    assert np.abs(seen.astype(int) - wanted).max() <= tolerance
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_comes_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded("JPEG", quality=98, subsampling=0, exif=exif)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert rgb(path).shape == upright.shape
    assert np.abs(rgb(path).astype(int) - upright).max() <= 3


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_in_one_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, words = BAD[name]
    path = tmp_path / "part.png"
    path.write_bytes(data)
    with pytest.raises(BadImage) as refused:
        read_image(path)
    assert_one_clear_line(str(refused.value), str(path))
    assert words in str(refused.value)
    assert capfd.readouterr().err == ""


def read_bytes(data: bytes) -> Array | BadImage:
    """What comes of a file with this content; any other exception goes through and fails the test."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(data)
        file.flush()
        try:
            image = read_image(Path(file.name))
        except BadImage as error:
            assert_one_clear_line(str(error), file.name)
            return error
    assert image.dtype == np.uint8
    assert image.ndim == 3
    return image


@quick
@given(kind=st.sampled_from(sorted(SOUND)), share=st.floats(0, 1, exclude_max=True))
@example(kind="jpeg", share=0.9999)
@example(kind="png", share=0.9999)
@example(kind="tiff", share=0.9999)
def test_a_file_cut_anywhere_is_refused(kind: str, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    data = SOUND[kind]
    assert isinstance(read_bytes(data[: int(share * len(data))]), BadImage)
    assert capfd.readouterr().err == ""


@quick
@given(kind=st.sampled_from(sorted(SOUND)), seed=st.integers(0, 2**32), count=st.integers(1, 8))
def test_a_file_with_changed_bytes_is_read_or_refused_and_nothing_else(
    kind: str, seed: int, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    data, rng = bytearray(SOUND[kind]), random.Random(seed)
    for _ in range(count):
        data[rng.randrange(len(data))] = rng.randrange(256)
    assume(bytes(data) != SOUND[kind])
    found = read_bytes(bytes(data))
    assert kind != "png" or isinstance(found, BadImage)  # every byte of a PNG is under a checksum
    assert capfd.readouterr().err == ""


@quick
@given(
    start=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6\n", b"RIFF"]),
    rest=st.binary(max_size=400),
)
def test_noise_behind_a_true_beginning_is_refused(start: bytes, rest: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    assert isinstance(read_bytes(start + rest), BadImage)
    assert capfd.readouterr().err == ""


def test_a_jpeg_that_lost_a_block_in_the_middle_is_refused_not_filled_with_grey(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    data = encoded("JPEG", picture)
    path = tmp_path / "part.jpg"
    path.write_bytes(data[:20_000] + data[24_096:])
    with pytest.raises(BadImage, match="damaged"):
        read_image(path)


def test_an_lzw_tiff_with_an_unknown_code_is_refused_not_filled_with_black(tmp_path: Path) -> None:
    data = bytearray(SOUND["lzw.tiff"])
    data[5000:5100] = b"\xff" * 100
    path = tmp_path / "part.tif"
    path.write_bytes(data)
    with pytest.raises(BadImage, match=r"damaged|decode"):
        read_image(path)


def test_what_another_writer_prints_while_decoding_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    true_decode = cv2.imdecode

    def decode_and_talk(*arguments: object) -> object:
        os.write(2, b"camera 3: reconnected\n")
        return true_decode(*arguments)

    monkeypatch.setattr(cv2, "imdecode", decode_and_talk)
    (tmp_path / "a.png").write_bytes(SOUND["png"])
    read_image(tmp_path / "a.png")
    assert capfd.readouterr().err == "camera 3: reconnected\n"


NO_FILES = [make_directory, make_fifo, make_loop, make_dangling, make_nothing]


@pytest.mark.parametrize("make", NO_FILES)
def test_a_path_that_is_no_file_is_refused_at_once(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    make(path)
    with pytest.raises(BadImage) as refused:
        read_image(path)
    assert_one_clear_line(str(refused.value), str(path))


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png", "a/" * 3000 + "x.png", "/dev/zero", "/dev/tty"])
def test_an_impossible_path_is_refused(name: str) -> None:
    with pytest.raises(BadImage):
        read_image(Path(name))


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300, "/dev/null", "/nowhere"])
def test_an_impossible_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CallError):
        list_images(tmp_path / "file" / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="drops root's rights to try a locked file")
def test_a_file_without_rights_is_refused_in_one_line() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        locked = Path(name, "locked.png")
        locked.write_bytes(SOUND["png"])
        locked.chmod(0)
        code = (
            f"import os, pathlib, sys; from dskd.runtime.capture.image_files import read_image; os.setuid(65534)\n"
            f"try: read_image(pathlib.Path({str(locked)!r}))\nexcept Exception as e: print(type(e).__name__, e)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("BadImage")
    assert "Permission denied" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
