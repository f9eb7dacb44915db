"""Training names and skips bad pictures wherever they lie; a wrong call is one line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import NARROW, Command
from odd_files import BAD, assert_one_clear_line, encoded, make_fifo, outcome
from PIL import Image

import dskd.train.__main__
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import BadImage
from dskd.runtime.errors import DskdError
from dskd.train.data import find_images, usable
from dskd.train.synthetic import good_part

SPEC = InputSpec(height=64, width=96)


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
