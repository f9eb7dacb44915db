"""The fault drill in its short form: detected, recovered, every frame accounted for, nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

FIELDS = {"name", "detected_s", "recovered_s", "captured", "inspected", "dropped", "lost", "duplicates"}
NAMES = ["camera-killed", "camera-stalled", "camera-replaced", "broker-down", "disk-full", "sqlite-locked", "idle-reader", "corrupt-frame", "backend-raising", "kills"]  # fmt: skip
IN_SHORT = ("camera-killed", "broker-down", "disk-full")  # a source, a sink and the store
DRILLS = [pytest.param(name, marks=() if name in IN_SHORT else pytest.mark.thorough) for name in NAMES]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("drill") / "tiny").path


@pytest.mark.slow
@pytest.mark.parametrize("name", DRILLS)
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


@pytest.mark.thorough
@pytest.mark.slow
def test_a_short_soak_counts_everything(small: Path, command, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    if not (shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")):
        pytest.skip("mosquitto is not installed")
    out = tmp_path / "soak.json"
    words = ["--minutes", "0.1", "--fps", "5", "--size", "128x96", "--bundle", small, "--out", out]
    done = command("benchmarks", "soak", "--json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    rows = {row["name"]: row["median"] for row in found["rows"]}
    assert set(found["lost"].values()) == {0}
    assert rows["captured"] == rows["inspected"] + rows["dropped"] > 10
    for name in ("inspections", "browser answers", "scraper answers", "plc results", "webhook deliveries", "memory"):
        assert rows[name] > 0, name
    assert rows["mqtt deliveries"] >= rows["webhook deliveries"]
    samples = json.loads(out.read_text())["samples"]
    assert samples[-1]["inspected"] > samples[0]["inspected"]
    assert {"memory", "threads", "descriptors"} <= set(samples[0])


@pytest.mark.slow
def test_ten_triggers_a_second_over_modbus(small: Path, command) -> None:  # type: ignore[no-untyped-def]
    """Every part is answered once, in order, none is missed."""
    done = command("benchmarks", "triggers", "--json", "--minutes", "0.1", "--deadline", "5000", "--bundle", small)
    assert done.stdout.startswith("{"), done.stderr
    found = json.loads(done.stdout)
    rows = {row["name"]: row["median"] for row in found["rows"]}
    held_back = found["faults"].pop("held back")  # a busy machine's doing
    assert set(found["faults"].values()) == {0}
    assert done.returncode == (1 if held_back else 0)
    assert rows["parts triggered"] == rows["parts answered"] == rows["answered: inspected"] == 60


def test_an_unknown_benchmark_is_one_line(command) -> None:  # type: ignore[no-untyped-def]
    done = command("benchmarks", "fautls")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "faults" in command("benchmarks", "--help").stdout
