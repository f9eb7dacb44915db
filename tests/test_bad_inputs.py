"""Over two hundred bad inputs: each is used where it can be, else refused in one line with the right exit code."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import NARROW, ROOT, Command
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

import dskd.runtime.__main__
import dskd.train.__main__
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import BadImage, list_images, read_image, read_mask
from dskd.runtime.capture.sources import frames, open_source
from dskd.runtime.errors import CallError, DskdError, MissingPart, exit_with_code, one_line
from dskd.runtime.sinks.by_uri import open_sinks
from dskd.train.config import TrainConfig, load_config
from dskd.train.data import find_images, usable
from dskd.train.synthetic import good_part

Array = NDArray[np.uint8]
quick = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SPEC = InputSpec(height=64, width=96)


# ---------------------------------------------------------------------------------------------------------- helpers


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


# ---------------------------------------------------------------------------------- images that are odd but usable


def rgb(path: Path) -> Array:
    return np.asarray(read_image(path)[:, :, ::-1])


GREY = pixels()[:, :, 1]
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


# ------------------------------------------------------------------------------------------------- images that are bad

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


# --------------------------------------------------------------------------------------------- paths that are no files


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


# ------------------------------------------------------------------------------------------- a folder full of bad files

ODD_NAMES = [b"caf\xe9.png", b"two\nlines.png", b"esc\x1b[31mred.png", b"tab\there.png", "日本 #1?.png".encode()]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good pictures under odd names among all the bad files."""
    folder = tmp_path_factory.mktemp("zoo # 100%")
    good = cv2.imencode(".png", good_part(np.random.default_rng(0)))[1].tobytes()
    for name in ODD_NAMES:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(good)
    for k, (data, _) in enumerate(BAD.values()):
        (folder / f"bad{k:03}.png").write_bytes(data)
    for make in (make_fifo, make_loop, make_dangling):
        make(folder / f"{make.__name__}.png")
    (folder / "folder.png").mkdir()
    (folder / "loop").symlink_to(folder)
    (folder / "notes.txt").write_text("no image, not counted")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "blank.png").write_bytes(encoded("PNG", Image.new("RGB", (64, 48), (7, 7, 7))))
    return folder


BAD_IN_ZOO = len(BAD) + 4  # fifo, loop, dangling, blank


def test_a_run_over_a_folder_names_every_bad_file_once_and_inspects_the_others(
    zoo: Path, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sinks = [f"sqlite://{tmp_path}/a.db", f"jsonl://{tmp_path}/a.jsonl", f"images://{tmp_path}/o"]
    options = ["--bundle", bundle.path, "--source", zoo, *(part for sink in sinks for part in ("--sink", sink))]
    code, out, errors = outcome(dskd.runtime.__main__.main, options, capfd)
    assert code == 1
    assert len(errors) == BAD_IN_ZOO
    assert all(line.startswith("dropped: ") and one_line(line) == line for line in errors)
    for k in range(len(BAD)):
        assert sum(f"bad{k:03}.png" in line for line in errors) == 1
    assert f"captured {BAD_IN_ZOO + len(ODD_NAMES)} inspected {len(ODD_NAMES)} dropped {BAD_IN_ZOO}" in out
    assert all(one_line(line) == line or "  " in line for line in out.splitlines())
    assert len(out.splitlines()) == len(ODD_NAMES) + 2
    database = sqlite3.connect(tmp_path / "a.db")
    frames = [row[0] for row in database.execute("SELECT frame FROM inspections")]
    assert sorted(frames) == sorted(
        ["caf\\udce9.png", "two lines.png", "esc\\x1b[31mred.png", "tab here.png", "日本 #1?.png"]
    )
    assert database.execute("SELECT count(*) FROM dropped").fetchone()[0] == BAD_IN_ZOO
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert sum("dropped" in line for line in lines) == BAD_IN_ZOO
    assert len(list((tmp_path / "o").rglob("*.png"))) == len(ODD_NAMES)


def test_a_run_by_the_real_command_says_one_line_per_bad_file(
    zoo: Path, bundle: Bundle, command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("bad000.png", "bad008.png", "bad011.png", "bad012.png", "bad022.png"):
        shutil.copy(zoo / name, folder)
    (folder / "cut.jpg").write_bytes(SOUND["jpeg"][:-300])
    (folder / "cut.tif").write_bytes(SOUND["tiff"][:-300])
    (folder / "flipped.jpg").write_bytes(SOUND["jpeg"][:700] + b"\xff\xc0\xff" + SOUND["jpeg"][703:])
    (folder / "good.png").write_bytes(SOUND["png"])
    done = command("runtime", "--bundle", bundle.path, "--source", f"folder://{folder}", "--json", timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 8
    told = json.loads(done.stdout)
    assert told["counts"]["captured"] == 9
    assert [inspection["frame"] for inspection in told["inspections"]] == ["good.png"]


@pytest.mark.parametrize("name", ["text", "jpeg bomb", "tiff of three pages", "1x1"])
def test_one_bad_image_alone_gives_one_line_and_code_1(
    name: str, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "alone.jpg"
    path.write_bytes(BAD[name][0])
    code, _, errors = outcome(dskd.runtime.__main__.main, ["--bundle", bundle.path, "--source", path], capfd)
    assert code == 1
    assert len(errors) == 1
    assert_one_clear_line(errors[0], str(path))


# ------------------------------------------------------------------------------------------------------- configurations

BAD_YAML = {
    "no yaml": "recipe: [1, 2\nx: 3",
    "tab": "recipe:\n\tepochs: 3",
    "only a word": "hello",
    "only a number": "3",
    "a list": "- 1\n- 2",
    "empty": "",
    "only a comment": "# nothing yet",
    "two documents": "a: 1\n---\nb: 2",
    "a key twice": "recipe: {epochs: 1}\nrecipe: {epochs: 2}",
    "an inner key twice": "recipe: {epochs: 1, epochs: 2}",
    "python object": "recipe: !!python/object/apply:os.system ['true']",
    "unknown tag": "recipe: !thing {}",
    "unhashable key": "? [a, b]\n: 1",
    "a date that is none": "method: 2020-99-99",
    "binary that is none": "method: !!binary '@@'",
    "control byte": "method: \x07",
    "alias": "recipe: &a {epochs: 3}\nloss: *a",
    "alias of nothing": "recipe: *a",
    "an alias of itself": "recipe: &a [*a]",
    "laughs": "a: &a [x]\n" + "".join(f"{y}: &{y} [{','.join([f'*{x}'] * 9)}]\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True)),
    "merged laughs": "a: &a {x: 1}\n" + "".join(f"{y}: &{y} {{<<: [{','.join([f'*{x}'] * 9)}]}}\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True)),
    "deep": "[" * 20_000,
    "deep mapping": "recipe: " + "{a: " * 20_000,
    "number as key": "1: 2",
    "nothing as key": "~: 2",
    "null section": "recipe: ~",
    "list as section": "recipe: [1]",
    "word as section": "recipe: fast",
    "list as number": "recipe: {epochs: [3]}",
    "word as number": "recipe: {epochs: many}",
    "half an epoch": "recipe: {epochs: 2.5}",
    "yes as number": "recipe: {epochs: yes}",
    "no as number": "recipe: {learning_rate: no}",
    "zero epochs": "recipe: {epochs: 0}",
    "minus epochs": "recipe: {epochs: -3}",
    "batch of one": "recipe: {batch: 1}",
    "nan": "recipe: {learning_rate: .nan}",
    "infinity": "recipe: {learning_rate: .inf}",
    "infinite weight": "loss: {cosine: .inf}",
    "nan sigma": "map: {sigma: .nan}",
    "huge sigma": "map: {sigma: 1e300}",
    "warm-up over one": "recipe: {warm_up: 1.5}",
    "huge seed": "recipe: {seed: 99999999999999999999}",
    "negative seed": "recipe: {seed: -1}",
    "unknown precision": "recipe: {precision: float8}",
    "unknown backbone": "backbone: resnet19",
    "unknown method": "method: magic",
    "side not of 32": "input: {height: 100, width: 96}",
    "side of zero": "input: {height: 0, width: 96}",
    "negative side": "input: {height: -32, width: 96}",
    "huge side": "input: {height: 3200000, width: 96}",
    "crop of three": "input: {height: 64, width: 96, crop: [1, 2, 3]}",
    "negative crop": "input: {height: 64, width: 96, crop: [-5, 0, 10, 10]}",
    "empty crop": "input: {height: 64, width: 96, crop: [0, 0, 0, 10]}",
    "crop of words": "input: {height: 64, width: 96, crop: [a, b, c, d]}",
    "held out all": "data: {held_out: 1.0}",
    "rate of zero": "thresholds: {reject_rate: 0}",
    "rate of nan": "thresholds: {review_rate: .nan}",
    "review rarer than reject": "thresholds: {review_rate: 0.01, reject_rate: 0.05}",
    "share over one": "augment: {pseudo_anomalies: 7}",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_YAML)
def test_a_bad_configuration_is_a_wrong_call_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD_YAML[name])
    with pytest.raises(CallError) as refused:
        load_config(file, [])
    assert_one_clear_line(str(refused.value), str(file))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe\x00", "cannot be read"), (b"caf\xe9: 1", "cannot be read"), (b"#" * (2 << 20), "over")],
)
def test_a_configuration_that_is_no_text_is_a_wrong_call(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(CallError, match=words) as refused:
        load_config(file, [])
    assert_one_clear_line(str(refused.value), str(file))


@pytest.mark.parametrize("name", ["", "missing.yaml", "loop", "a\0b", "x" * 300])
def test_a_configuration_that_is_no_file_is_a_wrong_call(name: str, tmp_path: Path) -> None:
    make_loop(tmp_path / "loop")
    with pytest.raises(CallError):
        load_config(tmp_path / name, [])


@pytest.mark.parametrize(
    ("given_key", "near"),
    [
        ("recipe.epoch", "recipe.epochs"), ("recipe.lerning_rate", "recipe.learning_rate"),
        ("recipie.epochs", "recipe.epochs"), ("recipie.epoch", "recipe.epochs"), ("los.cosine", "loss.cosine"),
        ("input.hight", "input.height"), ("input.tilling.side", "input.tiling.side"), ("side", "input.tiling.side"),
        ("thresholds.review", "thresholds.review_rate"), ("augment.flip_verticl", "augment.flip_vertical"),
        ("bakbone", "backbone"), ("metod", "method"), ("epochs", "recipe.epochs"), ("batch", "recipe.batch"),
        ("sigma", "map.sigma"), ("crop", "input.crop"), ("width", "input.width"), ("fusion", "map.fusion"),
        ("loss.epochs", "recipe.epochs"), ("recipe.sigma", "map.sigma"), ("dskd.fussion", "dskd.fusion"),
        ("recipe.epoch.deep", "recipe.epochs"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_the_nearest_known_one(given_key: str, near: str) -> None:
    with pytest.raises(CallError) as refused:
        load_config(None, [f"{given_key}=1"])
    assert f"{given_key} is unknown; did you mean {near}?" in str(refused.value)
    assert_one_clear_line(str(refused.value), "unknown")


@pytest.mark.parametrize(
    "override",
    [
        "", "=", "=3", "epochs", "recipe", "recipe.epochs", "recipe.epochs=", "recipe.epochs=many", "recipe..epochs=3",
        ".=3", "recipe.=3", "recipe=3", "recipe.epochs.deep=3", "recipe.epochs=[1", "recipe.epochs={a: 1}",
        "recipe.epochs=*x", "recipe.epochs=!!python/name:os.system", "recipe.epochs=1e400", "recipe.seed=-1",
        "recipe.learning_rate=nan", "recipe.learning_rate=.nan", "input.crop=1", "input.crop.x=1", "xyzzy=1",
        "recipe.epochs=" + "[" * 5000, "method=\x07", "recipe.\n=1", "augment.flip=perhaps", "input.height=1_0",
    ],
)  # fmt: skip
def test_a_bad_override_is_a_wrong_call(override: str) -> None:
    with pytest.raises(CallError) as refused:
        load_config(None, [override])
    assert len(one_line(str(refused.value))) > 20


def assert_taken_or_refused(file: Path | None, overrides: list[str], names: str) -> None:
    """Any exception but a CallError in one line goes through and fails the test."""
    try:
        config = load_config(file, overrides)
    except CallError as error:
        message = str(error)
    else:
        assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
        return
    assert_one_clear_line(one_line(message), names)


@quick
@given(st.text(max_size=80))
def test_any_text_as_configuration_is_taken_or_refused(text: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
        file.flush()
        assert_taken_or_refused(Path(file.name), [], file.name)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)  # fmt: skip


@quick
@given(section=st.sampled_from(sorted(TrainConfig.model_fields)), tree=TREES)
def test_any_tree_in_any_section_is_taken_or_refused(section: str, tree: object) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump({section: tree}, file, allow_unicode=False)
        assert_taken_or_refused(Path(file.name), [], file.name)


@quick
@given(key=st.sampled_from(["recipe.epochs", "map.sigma", "input.crop", "backbone", "augment.flip"]), tree=TREES)
def test_any_value_of_an_override_is_taken_or_refused(key: str, tree: object) -> None:
    value = yaml.safe_dump(tree, default_flow_style=True)
    assert_taken_or_refused(None, [f"{key}={value}"], key.split(".")[0])


# ------------------------------------------------------------------------------------------------------ sources, sinks

BAD_SOURCES: dict[str, type[DskdError]] = {
    "": CallError,
    "nowhere": CallError,
    "nowhere.png": CallError,
    "folder://": CallError,
    "folder:///nowhere/at/all": CallError,
    "folder://{tmp}/empty": CallError,
    "folder://{tmp}/text.txt": CallError,
    "folder://[::1": CallError,
    "folder:///%00": CallError,
    "file://": CallError,
    "file:///nowhere.mp4": CallError,
    "file:///%00.png": CallError,
    "file://[": CallError,
    "http://[": CallError,
    "http://example.org/part.png": CallError,
    "rtsp//missing-colon": CallError,
    "://x": CallError,
    "FTP://x": CallError,
    "{tmp}/empty": CallError,
    "{tmp}/fifo": CallError,
    "{tmp}/fifo.png": CallError,
    "{tmp}/loop": CallError,
    "/dev/null": CallError,
    "a\0b": CallError,
    "x" * 5000: CallError,
    "\udcff": CallError,
    "{tmp}/text.txt": DskdError,
    "{tmp}/empty.mp4": DskdError,
    "{tmp}/cut.mp4": DskdError,
    "file://{tmp}/text.txt": DskdError,
    "v4l2://": CallError,
    "v4l2:///dev/video77": MissingPart,
    "v4l2:///%00": CallError,
    "v4l2://{tmp}/text.txt": MissingPart,
    "v4l2:///dev/null": MissingPart,
}


@pytest.fixture
def corner(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * 300)
    make_fifo(tmp_path / "fifo")
    make_fifo(tmp_path / "fifo.png")
    make_loop(tmp_path / "loop")
    return tmp_path


@pytest.mark.parametrize("uri", BAD_SOURCES)
def test_a_bad_source_is_refused_with_the_right_code(uri: str, corner: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DskdError) as refused:
        list(frames(open_source(uri.replace("{tmp}", str(corner)))))
    assert refused.value.exit_code == BAD_SOURCES[uri].exit_code
    assert len(one_line(str(refused.value))) > 30
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a b", "50%", "half#1", "what?", "[odd]", "café"])
def test_a_folder_uri_finds_a_folder_of_an_odd_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.png").write_bytes(SOUND["png"])
    assert len(list(frames(open_source(f"folder://{tmp_path}/{name}")))) == 1


def write_foreign_database(path: Path, version: int = 0, owner: int = 0) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE addresses (name TEXT)")
        database.execute(f"PRAGMA user_version={version}")
        database.execute(f"PRAGMA application_id={owner}")
    database.close()


BAD_SINKS: dict[str, type[DskdError]] = {
    "": CallError,
    "nonsense": CallError,
    "{tmp}/plain.db": CallError,
    "smtp://{tmp}/a.csv": CallError,
    "csv://-": CallError,
    "csv://": CallError,
    "archive://": CallError,
    "mqtt://127.0.0.1/a+b": CallError,
    "https://user:password@127.0.0.1/": CallError,
    "https://127.0.0.1/#token=x": CallError,
    "sqlite://": CallError,
    "sqlite": CallError,
    "sqlite:/one-slash.db": CallError,
    "jsonl://": CallError,
    "images://": CallError,
    "sqlite://[": DskdError,
    "sqlite:///%00": CallError,
    "jsonl:///a%00b": CallError,
    "images:///%00": CallError,
    "sqlite://{tmp}": DskdError,
    "sqlite://{tmp}/text.txt": DskdError,
    "sqlite://{tmp}/text.txt/inside.db": DskdError,
    "sqlite://{tmp}/foreign.db": DskdError,
    "sqlite://{tmp}/foreign1.db": DskdError,
    "sqlite://{tmp}/owned.db": DskdError,
    "sqlite://{tmp}/future.db": DskdError,
    "sqlite://{tmp}/cut.db": DskdError,
    "sqlite:///proc/nowhere/a.db": DskdError,
    "sqlite://{tmp}/" + "x" * 300: DskdError,
    "jsonl://{tmp}": DskdError,
    "jsonl://{tmp}/text.txt/a.jsonl": DskdError,
    "jsonl://{tmp}/" + "x" * 300: DskdError,
    "jsonl://{tmp}/loop": DskdError,
    "images://{tmp}/text.txt": DskdError,
    "images://{tmp}/text.txt/deeper": DskdError,
    "images://{tmp}/" + "x" * 300: DskdError,
}


@pytest.mark.parametrize("uri", BAD_SINKS)
def test_a_bad_sink_is_refused_and_left_as_it_was(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("hello, I am no database at all")
    (tmp_path / "[").mkdir()
    make_loop(tmp_path / "loop")
    write_foreign_database(tmp_path / "foreign.db")
    write_foreign_database(tmp_path / "foreign1.db", version=1)
    write_foreign_database(tmp_path / "owned.db", version=1, owner=77)
    write_foreign_database(tmp_path / "future.db", version=99, owner=0x44534B44)
    (tmp_path / "cut.db").write_bytes((tmp_path / "foreign.db").read_bytes()[:60])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(DskdError) as refused:
        open_sinks([uri.replace("{tmp}", str(tmp_path))])
    assert refused.value.exit_code == BAD_SINKS[uri].exit_code
    assert len(one_line(str(refused.value))) > 30
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_a_bad_sink_among_good_ones_closes_the_good_ones(tmp_path: Path) -> None:
    with pytest.raises(CallError):
        open_sinks([f"sqlite://{tmp_path}/a.db", "nonsense"])
    assert not (tmp_path / "a.db").exists()


@pytest.mark.parametrize(("target", "words"), [("jsonl:///dev/full", "space"), ("images:///dev/null/x", "made")])
def test_a_sink_that_takes_nothing_is_one_line_and_code_1(
    target: str, words: str, bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = outcome(dskd.runtime.__main__.main, ["--bundle", bundle.path, "--sink", target], capfd)
    assert code == 1
    assert len(errors) == 1
    assert words in errors[0]


def test_a_pipe_as_jsonl_sink_works(bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, errors = outcome(
        dskd.runtime.__main__.main, ["--bundle", bundle.path, "--sink", "jsonl:///dev/null"], capfd
    )
    assert (code, errors) == (0, [])


# -------------------------------------------------------------------------------------------------- options and masks


@pytest.mark.parametrize(
    "options",
    [
        "--reject-threshold nan", "--review-threshold nan", "--reject-threshold inf", "--review-threshold -inf",
        "--review-threshold 2 --reject-threshold 1", "--reject-threshold much", "--min-area -1", "--min-area 2.5",
        "--min-area many", "--threads -1", "--threads 999999999999999999999", "--threads two", "--backend magic",
        "--nonsense", "stray", "--source", "--roi /nowhere.png", "--roi /dev/zero", "--bundle /nowhere",
        "--bundle /dev/null", "--sink nonsense", "--source nowhere",
    ],
)  # fmt: skip
def test_a_wrong_option_of_the_runtime_is_one_line_and_code_2(
    options: str, bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments: list[object] = [*options.split()]
    if "--bundle" not in options:
        arguments = ["--bundle", bundle.path, *arguments]
    code, out, errors = outcome(dskd.runtime.__main__.main, arguments, capfd)
    assert (code, out) == (2, "")
    assert len(errors) == 1
    assert_one_clear_line(errors[0], "error: ")


def test_an_empty_source_is_not_taken_for_no_source(bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, errors = outcome(dskd.runtime.__main__.main, ["--bundle", bundle.path, "--source", ""], capfd)
    assert (code, out, len(errors)) == (2, "", 1)


MASKS = [  # name, content, exit code, lines on standard error for a run over two frames of 64 x 48
    ("white", encoded("PNG", Image.new("L", (64, 48), 255)), 0, 0),
    ("of another size", encoded("PNG", Image.new("L", (640, 480), 255)), 1, 2),
    ("lying", encoded("PNG", Image.new("L", (48, 64), 255)), 1, 2),
    ("black", encoded("PNG", Image.new("L", (64, 48), 0)), 2, 1),
    ("nearly black", encoded("PNG", Image.new("L", (64, 48), 127)), 2, 1),
    ("text", b"hello", 2, 1),
    ("cut", SOUND["png"][:-40], 2, 1),
]


@pytest.mark.parametrize(("name", "data", "expected", "lines"), MASKS, ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_a_region_of_interest(
    name: str, data: bytes, expected: int, lines: int, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mask, folder = tmp_path / "mask.png", tmp_path / "frames"
    folder.mkdir()
    mask.write_bytes(data)
    for frame in ("a.png", "b.png"):
        (folder / frame).write_bytes(SOUND["png"])
    code, _, errors = outcome(
        dskd.runtime.__main__.main, ["--bundle", bundle.path, "--source", folder, "--roi", mask], capfd
    )
    assert (code, len(errors)) == (expected, lines)
    assert all("mask" in line for line in errors)


def test_a_mask_that_is_black_inside_the_crop_passes_nothing() -> None:
    from dskd.runtime.inspection.decision import Settings, decide

    roi = np.zeros((100, 100), np.bool_)
    roi[:10] = True
    spec = InputSpec(height=64, width=64, crop=(20, 20, 60, 60))
    for score in (0.0, 1.0):
        with pytest.raises(CallError, match="black inside the crop"):
            decide(score, lambda: np.ones((64, 64), np.float32), (100, 100), spec, Settings(0.5, 0.6, roi=roi))


def test_read_mask_takes_a_grey_mask(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(encoded("PNG", Image.fromarray(GREY)))
    assert np.array_equal(read_mask(tmp_path / "m.png"), GREY > 127)


def test_a_full_disk_behind_standard_output_is_one_line_and_code_1(bundle: Bundle) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dskd.runtime", "--bundle", str(bundle.path)],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "space" in done.stderr


def test_a_terminal_that_lacks_the_letters_is_no_failure(bundle: Bundle, command: Command, tmp_path: Path) -> None:
    (tmp_path / "日本.png").write_bytes(SOUND["png"])
    done = command(
        "runtime", "--bundle", bundle.path, "--source", tmp_path, PYTHONIOENCODING="ascii:strict", timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u65e5\\u672c.png" in done.stdout


# ------------------------------------------------------------------------------------------------------------ training


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """An MVTec layout with bad files in every place."""
    rng = np.random.default_rng(0)
    root = tmp_path / "mixed"
    for folder in ("train/good", "test/good", "test/dent", "ground_truth/dent"):
        (root / folder).mkdir(parents=True)
    good = [cv2.imencode(".png", good_part(rng, 96, 96))[1].tobytes() for _ in range(16)]
    for k in range(12):
        (root / "train/good" / f"{k}.png").write_bytes(good[k])
    for name in ("text", "png bomb", "animated gif", "1x1"):
        (root / "train/good" / f"{name}.png").write_bytes(BAD[name][0])
    make_fifo(root / "train/good/fifo.png")
    for k in (12, 13):
        (root / "test/good" / f"{k}.png").write_bytes(good[k])
    for k in (14, 15):
        (root / "test/dent" / f"{k}.png").write_bytes(good[k])
    (root / "test/dent/bad.png").write_bytes(b"")
    mask = np.zeros((96, 96), np.uint8)
    mask[30:50, 30:50] = 255
    (root / "ground_truth/dent/14_mask.png").write_bytes(encoded("PNG", Image.fromarray(mask)))
    (root / "ground_truth/dent/15_mask.png").write_bytes(b"no mask at all")
    return root


def test_training_names_and_skips_bad_files_wherever_they_lie(
    mixed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    out = tmp_path / "runs" / "mixed"
    changes = [
        "input.height=64", "input.width=64", "recipe.epochs=1", "recipe.batch=4", "recipe.precision=float32",
        *NARROW,
    ]  # fmt: skip
    options = [part for change in changes for part in ("--set", change)]
    arguments = ["--data", mixed, "--out", out, "--teacher-weights", "random", "--device", "cpu", *options]
    code, _, _ = outcome(dskd.train.__main__.main, arguments, capfd)
    assert code == 0
    skipped = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    names = ["1x1.png", "animated gif.png", "fifo.png", "png bomb.png", "text.png", "bad.png", "15_mask.png"]
    assert len(skipped) == len(names)
    assert all(sum(name in line for line in skipped) == 1 for name in names)
    record = json.loads((out / "run.json").read_text())
    assert record["training_images"] + len(record["held_out"]) == 12
    assert record["figures"]["teacher"]


def test_strict_training_refuses_the_first_bad_file(mixed: Path, tmp_path: Path, command: Command) -> None:
    done = command(
        "train", "--data", mixed, "--out", tmp_path / "run", "--teacher-weights", "random", "--strict", timeout=60
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "1x1.png" in errors[0]
    assert "Traceback" not in done.stderr


def test_pictures_that_the_crop_leaves_are_found_before_training(mixed: Path) -> None:
    spec = InputSpec(height=64, width=64, crop=(50, 50, 60, 60))
    with pytest.raises(BadImage, match="leaves the frame") as refused:
        usable(find_images(mixed).good[:1], spec, strict=True)
    assert_one_clear_line(str(refused.value), "0.png")


def test_too_few_usable_images_are_said(mixed: Path) -> None:
    paths = find_images(mixed).good
    with pytest.raises(DskdError, match="only 0 usable"):
        usable([path for path in paths if not path.stem.isdigit()], SPEC, strict=False)


@pytest.mark.parametrize(
    "options",
    [
        "--data /nowhere", "--data /dev/null", "--data {tmp}", "--data {tmp}/empty", "--data {mixed} --category none",
        "--data {mixed} --set recipe.epoch=3", "--data {mixed} --set nonsense", "--data {mixed} --config /nowhere.yaml",
        "--data {mixed} --config {tmp}", "--data {mixed} --device tpu", "--data {mixed} --nonsense",
        "--data {mixed} --out {tmp}/file/inside", "--data {mixed} --out {tmp}/file",
        "--data {mixed} --teacher-weights /nowhere.pth", "--data", "--strict=3",
    ],
)  # fmt: skip
def test_a_wrong_call_of_training_is_one_line_and_code_2(
    options: str, mixed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    arguments = options.replace("{mixed}", str(mixed)).replace("{tmp}", str(tmp_path)).split()
    code, out, errors = outcome(dskd.train.__main__.main, [*arguments], capfd)
    assert (code, out) == (2, "")
    assert len(errors) == 1
    assert_one_clear_line(errors[0], "error: ")
    assert (tmp_path / "file").read_text() == "in the way"
