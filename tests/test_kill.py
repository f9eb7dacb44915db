"""SIGKILL at any moment: training goes on to the same weights, no half bundle loads, no reported inspection is lost."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, Command

from dskd.runtime import atomic, pipeline
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.capture.sources import open_source
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.sinks.by_uri import open_sinks
from dskd.train.loop import read_curve
from dskd.train.trained_run import TrainedRun

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
PATIENCE = 60.0  # seconds until a moment that never comes fails the test


def start(*arguments: object, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT, env=ENVIRONMENT, stdout=stdout, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def kill_when(process: subprocess.Popen[str], moment: Callable[[], bool], delay: float = 0.0) -> None:
    """Kills the process hard at the moment; fails where it ended before, for then nothing was tested."""
    end = time.monotonic() + PATIENCE
    try:
        while not moment():
            assert process.poll() is None, "the process ended before the moment to kill it"
            assert time.monotonic() < end, "the moment to kill never came"
            time.sleep(0.001)
        time.sleep(delay)
        assert process.poll() is None, "the process ended before it was killed"
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


# ------------------------------------------------------------------------------------------------------------ training

STEPS = 6  # 12 training images in batches of 4, two epochs


def training(small_set: Path, out: Path) -> list[object]:
    changes = [*SMALL, "recipe.checkpoint_every=2"]
    settings = [part for change in changes for part in ("--set", change)]
    return ["train", "--data", small_set, "--out", out, "--teacher-weights", "random", "--device", "cpu", *settings]


@pytest.fixture(scope="module")
def uninterrupted(small_set: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    done = command(*training(small_set, out), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return out


def logged_steps(run: Path) -> list[int]:
    file = run / "log.csv"
    return [int(row["step"]) for row in read_curve(file)] if file.exists() else []


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "after the first step, before any checkpoint": lambda run: 0 in logged_steps(run),
    "while a checkpoint is written": lambda run: bool(list(run.glob(".checkpoint.safetensors.*.tmp"))),
    "between two checkpoints": lambda run: 4 in logged_steps(run),
    "after the last step, before thresholds and report": lambda run: (run / "model.safetensors").exists(),
}


def curve(run: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_curve(run / "log.csv")]


@pytest.mark.thorough
@pytest.mark.slow
def test_training_killed_again_and_again_goes_on_to_the_same_weights(
    small_set: Path, uninterrupted: Path, command: Command, tmp_path: Path
) -> None:
    """One run, killed at each moment in turn and started again by the same command, against one that never was."""
    run = tmp_path / "run"
    for moment in MOMENTS.values():
        kill_when(start(*training(small_set, run)), partial(moment, run))
        assert not (run / "run.json").exists()
        assert logged_steps(run) == list(range(len(logged_steps(run))))
    done = command(*training(small_set, run), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert f"going on from step {STEPS} of {STEPS}" in done.stderr
    assert (run / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()
    assert logged_steps(run) == list(range(STEPS))
    assert curve(run) == curve(uninterrupted)
    records = [json.loads((folder / "run.json").read_text()) for folder in (run, uninterrupted)]
    assert records[0]["held_out_scores"] == records[1]["held_out_scores"]
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in uninterrupted.iterdir())


@pytest.mark.slow
def test_training_resumed_from_its_middle_goes_on_from_there(
    small_set: Path, uninterrupted: Path, command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    kill_when(start(*training(small_set, run)), lambda: 2 in logged_steps(run))
    done = command(*training(small_set, run), OMP_NUM_THREADS="1")
    resumed = re.search(r"going on from step (\d+) of 6", done.stderr)
    assert resumed  # the checkpoint after step 1 was written before step 2 was logged
    assert int(resumed.group(1)) in (2, 4)
    assert (run / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()
    assert curve(run) == curve(uninterrupted)


@pytest.mark.thorough
@pytest.mark.slow
def test_folders_whose_names_are_no_text_go_all_the_way(small_set: Path, command: Command, tmp_path: Path) -> None:
    """As an old archive's Latin-1 leaves them."""
    data = Path(os.fsdecode(os.fsencode(tmp_path) + b"/pr\xfcfling"))
    shutil.copytree(small_set / "train", data / "train")
    shutil.copytree(small_set / "test/good", data / "test/good")
    defect = Path(os.fsdecode(os.fsencode(data) + b"/test/ri\xdf"))
    shutil.copytree(next(path for path in sorted((small_set / "test").iterdir()) if path.name != "good"), defect)
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    done = command(*training(data, run), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    done = command("export.onnx", "--run", run, "--out", bundle)
    assert done.returncode == 0, done.stderr
    assert command("runtime", "--bundle", bundle, "--source", defect).returncode == 0


# -------------------------------------------------------------------------------------------------------------- export


@pytest.mark.slow
def test_export_killed_at_any_stage_keeps_the_old_bundle_and_the_next_one_clears_up(
    trained_run: TrainedRun, bundle: Bundle, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(bundle.path, out)
    export = ["export.onnx", "--run", trained_run.folder, "--out", out, "--licence", "new"]
    for stage in ("model.onnx", "golden/inputs.npy"):
        moment = partial(exists_below, tmp_path, f".bundle.*.tmp/{stage}")
        kill_when(start(*export), moment)
        assert load_bundle(out).manifest.provenance.licence == "test"
        (left,) = tmp_path.glob(".bundle.*.tmp")  # that of this kill alone
        with pytest.raises(DskdError, match=r"manifest\.yaml"):
            load_bundle(left)
    done = command(*export, "--json")
    assert done.returncode == 0, done.stderr
    assert load_bundle(out).id == json.loads(done.stdout)["id"]
    assert load_bundle(out).manifest.provenance.licence == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def exists_below(folder: Path, pattern: str) -> bool:
    return any(folder.glob(pattern))


def replaced(folder: Path, inode: int) -> Callable[[], bool]:
    return lambda: folder.stat().st_ino != inode  # raises, and so fails, where the folder is missing for a moment


REPLACE = """
import sys, time
from pathlib import Path
from dskd.runtime import atomic, pipeline
out = Path(sys.argv[1])
while True:
    with atomic.replacing_directory(out) as folder:
        for k in range(5):
            (folder / str(k)).write_text("x" * 1000)
        (folder / "whole").touch()
"""


def test_a_folder_under_replacement_is_whole_at_every_kill(tmp_path: Path) -> None:
    """The folder is there, whole, each time, and what is left over is cleared by the next writer."""
    out, rng = tmp_path / "folder", random.Random(0)
    with atomic.replacing_directory(out) as folder:
        for name in (*map(str, range(5)), "whole"):
            (folder / name).touch()
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", REPLACE, str(out)], cwd=ROOT, env=ENVIRONMENT)
        kill_when(process, replaced(out, out.stat().st_ino), rng.uniform(0, 0.03))
        assert sorted(path.name for path in out.iterdir()) == ["0", "1", "2", "3", "4", "whole"]
    with atomic.replacing_directory(out) as folder:
        (folder / "last").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in out.iterdir()] == ["last"]


def test_a_folder_under_replacement_is_never_missing(tmp_path: Path) -> None:
    """Looked at without pause, so that a gap of microseconds between two renames would be seen."""
    out = tmp_path / "folder"
    out.mkdir()
    process = subprocess.Popen([sys.executable, "-c", REPLACE, str(out)], cwd=ROOT, env=ENVIRONMENT)
    seen, end = set(), time.monotonic() + PATIENCE
    try:
        while len(seen) < 150 and time.monotonic() < end:
            seen.add(out.stat().st_mtime_ns)  # raises where the folder is missing
    finally:
        process.kill()
        process.wait()
    assert len(seen) >= 150


def test_a_living_writers_folder_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    out = tmp_path / "folder"
    with atomic.replacing_directory(out) as first:
        (first / "first").touch()
        with atomic.replacing_directory(out) as second:
            (second / "second").touch()
        assert [path.name for path in out.iterdir()] == ["second"]
        assert (first / "first").exists()
    assert [path.name for path in out.iterdir()] == ["first"]


@pytest.mark.parametrize("content", ["folder", "file", "manifest of another program"])
def test_export_never_replaces_what_is_no_bundle(
    content: str, trained_run: TrainedRun, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    if content == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / ("manifest.yaml" if "manifest" in content else "photo.txt")).write_text("precious")
    done = command("export.onnx", "--run", trained_run.folder, "--out", out)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "precious" in (out if out.is_file() else next(out.iterdir())).read_text()


# ---------------------------------------------------------------------------------------------------------- inspection


@pytest.fixture(scope="module")
def many(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 frames, every tenth of them bad."""
    folder = tmp_path_factory.mktemp("many")
    pictures = sorted((small_set / "test").rglob("*.png"))
    for k in range(600):
        place = folder / f"{k:04}.png"
        if k % 10:
            place.symlink_to(pictures[k % len(pictures)])
        else:
            place.write_bytes(b"bad")
    return folder


def stored(path: Path) -> set[str]:
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    found = {row[0] for table in ("inspections", "dropped") for row in database.execute(f"SELECT frame FROM {table}")}
    database.close()
    return found


def whole_lines(path: Path) -> list[dict[str, object]]:
    """The complete lines; at most the last may be cut."""
    *lines, last = path.read_text().split("\n")
    assert last == "" or len(lines) > 0
    return [json.loads(line) for line in lines if line]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(1, 5))])
def test_no_reported_inspection_is_lost_by_a_kill(seed: int, many: Path, bundle: Bundle, tmp_path: Path) -> None:
    rng = random.Random(seed)
    wanted, delay = rng.randrange(1, 150), rng.uniform(0, 0.02)
    base = ["runtime", "--bundle", bundle.path, "--source", many, "--threads", 1]
    sinks = ["--sink", f"sqlite://{tmp_path}/a.db", "--sink", f"jsonl://{tmp_path}/a.jsonl"]
    printed = (tmp_path / "stdout").open("w+")
    process = start(*base, *sinks, "--sink", "jsonl://-", stdout=printed.fileno())
    kill_when(process, lambda: (tmp_path / "stdout").read_bytes().count(b"\n") >= wanted, delay)
    printed.close()
    reported = {line["frame"] for line in whole_lines(tmp_path / "stdout")}
    filed = {line["frame"] for line in whole_lines(tmp_path / "a.jsonl")}
    kept = stored(tmp_path / "a.db")
    assert wanted <= len(reported) < 600
    assert reported <= filed <= kept
    assert len(kept - reported) <= pipeline.MOST_TOGETHER  # one write, on its way from the store to those who are told
    assert kept == {f"{k:04}.png" for k in range(len(kept))}  # in order, without a gap


def test_nobody_hears_of_an_inspection_that_the_store_does_not_take(
    bundle: Bundle, small_set: Path, tmp_path: Path
) -> None:
    """The order that the kills above could only meet by luck: where the store fails, no other sink has the row."""
    backend = open_backend(bundle, threads=1)
    inspector = Inspector(bundle, backend, Settings(review=0.1, reject=0.2))
    sinks = open_sinks([f"jsonl://{tmp_path}/a.jsonl", f"sqlite://{tmp_path}/a.db"])
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("DROP TABLE records")
    database.close()
    tally = pipeline.Tally()
    with pytest.raises(DskdError, match="cannot store"):
        list(pipeline.run(open_source(str(small_set / "test" / "good")), inspector, sinks, tally))
    assert (tmp_path / "a.jsonl").read_text() == ""
    assert tally.inspected == 0


def test_inspection_after_a_kill_goes_on_in_the_same_files(
    many: Path, bundle: Bundle, small_set: Path, command: Command, tmp_path: Path
) -> None:
    sinks = ["--sink", f"sqlite://{tmp_path}/a.db", "--sink", f"jsonl://{tmp_path}/a.jsonl"]
    process = start("runtime", "--bundle", bundle.path, "--source", many, *sinks)
    kill_when(process, lambda: (tmp_path / "a.jsonl").exists() and (tmp_path / "a.jsonl").stat().st_size > 3000)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"frame": "cut by the ki')  # what a power cut leaves
    before = stored(tmp_path / "a.db")
    good = small_set / "test" / "good"
    done = command("runtime", "--bundle", bundle.path, "--source", good, *sinks)
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path / "a.db") == before | {path.name for path in good.iterdir()}
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    cut = [line for line in lines if line.endswith("cut by the ki")]
    assert len(cut) == 1
    assert [json.loads(line)["frame"] for line in lines[-4:]] == sorted(path.name for path in good.iterdir())
