"""Runs trained on the generated set, and their bundles: what takes torch and onnx, imported by the fixtures that need it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import SMALL

import dskd.calibration.__main__ as calibration
from dskd.calibration.images import FEWEST
from dskd.calibration.quantise import quantisable
from dskd.export.run_to_bundle import export
from dskd.runtime.bundle.loading import Bundle
from dskd.train.config import load_config
from dskd.train.data import find_images
from dskd.train.run import run
from dskd.train.synthetic import write_set
from dskd.train.trained_run import TrainedRun, load_run


def write_pictures(folder: Path) -> None:
    """A generated inspection set in MVTec layout."""
    write_set(folder, train=14, test_good=4, per_defect=2)


def write_good_parts(folder: Path) -> None:
    """As many good pictures as a calibration needs."""
    write_set(folder, train=FEWEST, test_good=2, per_defect=0)


def train_small(images: Path, folder: Path) -> None:
    """Two epochs of DSKD with a random teacher."""
    run(load_config(None, SMALL), find_images(images), "random", folder, "cpu", strict=True)


def train_and_export(settings: Sequence[str], images: Path, folder: Path) -> None:
    """One epoch with a random teacher into ``folder``, and its bundle below."""
    config = load_config(None, [*SMALL, "recipe.epochs=1", *settings])
    run(config, find_images(images), "random", folder, "cpu", strict=True)
    (folder / "checkpoint.safetensors").unlink()  # some hundred megabytes
    exported(load_run(folder), folder / "bundle")


def exported(run: TrainedRun, folder: Path) -> Bundle:
    """The bundle of a run's default reading."""
    return export(run, next(iter(run.method.readings())), folder, opset=20, batch=4, licence="test")[0]


def calibrate(source: Bundle, good: Path, folder: Path) -> None:
    """``python -m calibration`` on a copy of the bundle in ``folder``."""
    shutil.copytree(source.path, folder, dirs_exist_ok=True)
    words = ["--bundle", folder, "--images", good / "train", "--held-out", good / "test"]
    with pytest.MonkeyPatch.context() as patch:  # a few layers stand for all that are judged one by one
        patch.setattr("dskd.calibration.sensitivity.quantisable", lambda model: quantisable(model)[::25])
        assert calibration.main([str(word) for word in words]) == 0
