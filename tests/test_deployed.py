"""The benchmark of what runs on the line: figures of our graphs, and of anomalib's where it is installed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dskd.benchmarks.lab.models.labelled import Labelled
from dskd.benchmarks.lab.peers.deployed import main, tell
from dskd.benchmarks.results import Results, read_results
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import CallError
from dskd.train.synthetic import write_set


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("plates"), train=8, test_good=3, per_defect=1)


def test_figures_are_of_scores_against_labels() -> None:
    results = Results(environment={}, command=["deployed"])
    labels = ["good", "crack", "good", "stain"]
    tell("one", [0.1, 0.9, 0.5, 0.4], Labelled([], labels, np.zeros(0, np.uint8), np.zeros(0, bool)), results)
    assert {row.what: row.median for row in results.rows} == {
        "image AUROC": pytest.approx(0.75),
        "image AP": pytest.approx((1 + 2 / 3) / 2),
    }
    assert all(row.better == "higher" for row in results.rows)


def test_each_backend_judges_the_test_pictures(bundle: Bundle, plates: Path, tmp_path: Path) -> None:
    words = ["--bundle", str(bundle.path), "--data", str(plates), "--backend", "onnxruntime,openvino"]
    out = tmp_path / "deployed.json"
    assert main([*words, "--precision", "fp32", "--models", "", "--out", str(out)]) == 0
    found = read_results(out)
    assert found.command[:3] == ["deployed", "--bundle", "/".join(bundle.path.parts[-3:])]
    assert not any(word.startswith("/") for word in found.command)  # no folder of this machine
    rows = [row for row in found.rows if row.what == "image AUROC"]
    assert [row.name for row in rows] == ["onnxruntime fp32", "openvino fp32"]
    assert rows[0].median == pytest.approx(rows[1].median)
    assert 0 <= rows[0].median <= 1


def test_what_cannot_be_judged_is_refused(bundle: Bundle, plates: Path) -> None:
    words = ["--bundle", str(bundle.path), "--data"]
    with pytest.raises(CallError, match="needs good and defective test images"):
        main([*words, str(plates / "train" / "good")])
    with pytest.raises(CallError, match="--models padim"):
        main([*words, str(plates), "--models", "padim"])
    with pytest.raises(CallError, match="--images"):
        main([*words, str(plates), "--images", "0"])


@pytest.mark.thorough
@pytest.mark.slow
def test_anomalib_learns_from_the_same_pictures(
    bundle: Bundle, plates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = os.environ.get("DSKD_PEERS")
    if not folder:
        pytest.skip("DSKD_PEERS names no folder that python -m benchmarks peers filled: anomalib did not run")
    words = ["--bundle", str(bundle.path), "--data", str(plates), "--backend", "onnxruntime", "--precision", "fp32"]
    words += ["--images", "8", "--peers-venv", folder, "--teacher-weights", "random", "--json"]
    assert main([*words, "--inferencers", "torch,openvino"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in found["rows"]} == {"onnxruntime fp32", "anomalib rd, torch", "anomalib rd, openvino"}
