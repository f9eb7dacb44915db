"""``--quiet`` leaves the result, warnings and errors; ``--verbose`` adds details, and where an error came from."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import SMALL, Command
from tiny_bundle import tiny_bundle

TRAIN = ["--teacher-weights", "random", *(word for setting in SMALL for word in ("--set", setting)), "--epochs", 1]


def test_training_says_what_it_was_asked_to_say(command: Command, pictures: Path, tmp_path: Path) -> None:
    said = {}
    for word in ("--quiet", "--verbose"):
        done = command("train", "--data", pictures, *TRAIN, "--out", tmp_path / word, word)
        assert done.returncode == 0, done.stderr
        assert re.match(
            r"trained on \d+ good images in \d+\.\d minutes: preparing .*, training .*, the map .*, thresholds and report ",
            done.stdout,
        )
        said[word] = done.stderr
    assert said["--quiet"].splitlines() == [
        "the teacher has random weights: fine to try the commands, useless for accuracy"
    ]
    assert "epoch 1: " in said["--verbose"]
    assert re.search(r"^plan: \d+ pictures to train on", said["--verbose"], re.M)
    assert re.search(r"^about .* in all: .* for the map, thresholds and the report$", said["--verbose"], re.M)
    assert "input " in said["--verbose"]


def test_inspection_prints_counts_alone_or_the_time_of_each_step(command: Command, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    quiet = command("runtime", "--bundle", bundle.path, "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert len(quiet.stdout.splitlines()) == 1
    assert quiet.stdout.startswith("captured ")
    verbose = command("runtime", "--bundle", bundle.path, "--verbose")
    assert "(preprocess " in verbose.stdout, verbose.stdout


def test_an_error_is_one_line_unless_its_place_is_asked_for(command: Command, tmp_path: Path) -> None:
    quiet, verbose = (command("runtime", "--bundle", tmp_path / "none", word) for word in ("--quiet", "--verbose"))
    assert (quiet.returncode, verbose.returncode) == (2, 2)
    assert verbose.stderr.endswith(quiet.stderr)
    assert quiet.stderr.startswith("error: ")
    assert quiet.stderr.count("\n") == 1
    assert "Traceback" in verbose.stderr


def test_a_call_takes_one_of_the_two(command: Command) -> None:
    done = command("runtime", "--quiet", "--verbose")
    assert done.returncode == 2
    assert "not allowed with" in done.stderr
