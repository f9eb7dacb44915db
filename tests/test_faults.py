"""The fault drill in its short form: detected, recovered, every frame accounted for, nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

FIELDS = {"name", "detected_s", "recovered_s", "captured", "inspected", "dropped", "lost", "duplicates"}
NAMES = ["camera-killed", "camera-stalled", "camera-replaced", "broker-down", "disk-full", "sqlite-locked", "idle-reader", "corrupt-frame", "backend-raising", "kills"]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("drill") / "tiny").path


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_drill(small: Path, command, name: str) -> None:  # type: ignore[no-untyped-def]
    if name == "broker-down" and not (shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")):
        pytest.skip("mosquitto is not installed")
    if name == "disk-full" and shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    done = command("benchmarks", "faults", "--short", "--json", "--bundle", small, "--only", name, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (fault,) = json.loads(done.stdout)["faults"]
    assert set(fault) == FIELDS
    assert fault["captured"] == fault["inspected"] + fault["dropped"] > 0
    assert fault["lost"] == 0
    assert fault["detected_s"] < 60
    assert fault["recovered_s"] < 60


@pytest.mark.slow
def test_a_short_soak_counts_everything(small: Path, command) -> None:  # type: ignore[no-untyped-def]
    done = command(
        "benchmarks", "soak", "--json", "--minutes", "0.1", "--fps", "5", "--size", "128x96", "--bundle", small
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}  # growth in six seconds says nothing: any code
    assert rows["inspections lost"]["median"] == 0
    assert rows["frames unaccounted for"]["median"] == 0
    assert rows["inspections"]["median"] > 0


def test_an_unknown_benchmark_is_one_line(command) -> None:  # type: ignore[no-untyped-def]
    done = command("benchmarks", "fautls")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "faults" in command("benchmarks", "--help").stdout
