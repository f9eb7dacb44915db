"""Folders, sources, sinks, options and masks of a run: used where they can be, else one line and the right exit code."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, Command
from odd_files import BAD, GREY, SOUND, assert_one_clear_line, encoded, make_dangling, make_fifo, make_loop, outcome
from PIL import Image

import dskd.runtime.__main__
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import read_mask
from dskd.runtime.capture.sources import frames, open_source
from dskd.runtime.errors import CallError, DskdError, MissingPart, one_line
from dskd.runtime.sinks.by_uri import open_sinks
from dskd.train.synthetic import good_part

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
