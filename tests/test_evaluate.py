"""``dskd evaluate``: verdicts on labelled pictures, their rates and bounds, and the pages."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from dskd.benchmarks import evaluate
from dskd.benchmarks.evaluation import Evaluation, Judged, Rate
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import CallError
from dskd.runtime.result import Verdict


@pytest.mark.parametrize(("count", "total"), [(0, 16), (1, 16), (16, 16), (3, 1000), (500, 1000), (0, 1)])
def test_bounds_are_clopper_and_pearsons(count: int, total: int) -> None:
    low = beta.ppf(0.025, count, total - count + 1) if count else 0
    high = beta.ppf(0.975, count + 1, total - count) if count < total else 1
    assert (Rate(count, total).low, Rate(count, total).high) == pytest.approx((low, high), abs=1e-9)


def judged(label: str, verdict: Verdict, score: float) -> Judged:
    return Judged(Path(f"{label}.png"), label, verdict, score, score / 2, 1.0)


def test_rates_and_figures_are_of_the_right_pictures() -> None:
    rows = [
        judged("good", Verdict.PASS, 1), judged("good", Verdict.REVIEW, 1.5), judged("good", Verdict.REJECT, 2.5),
        judged("dent", Verdict.PASS, 1.2), judged("dent", Verdict.REJECT, 3), judged("crack", Verdict.REVIEW, 1.9),
    ]  # fmt: skip
    found = Evaluation(rows, {})
    assert [str(r).split(" (")[0] for r in (found.false_rejects, found.misses)] == ["1 of 3, 33.33%", "1 of 3, 33.33%"]
    assert (found.good_in_review.count, found.defects_in_review.count) == (1, 1)
    defective, scores = [r.label != "good" for r in rows], [r.score for r in rows]
    assert found.figures()["image_auroc"] == pytest.approx(roc_auc_score(defective, scores))
    dents = [r for r in rows if r.label != "crack"]
    expected = roc_auc_score([r.label != "good" for r in dents], [r.score for r in dents])
    assert found.figures("dent")["image_auroc"] == pytest.approx(expected)
    assert found.labels == ["good", "crack", "dent"]


def test_one_class_alone_has_rates_and_no_auroc() -> None:
    found = Evaluation([judged("good", Verdict.PASS, 1)], {})
    assert found.figures() == {}
    assert "misses" not in found.as_dict()


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dskd", "evaluate", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_writes_report_acceptance_figures_and_rows(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    done = run(bundle.path, pictures, "--out", tmp_path / "out", "--backend", "onnxruntime", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    with (tmp_path / "out" / "pictures.csv").open() as file:
        rows = list(csv.DictReader(file))
    files = sorted((pictures / "test").rglob("*.png"))
    assert sorted(row["picture"] for row in rows) == [str(file) for file in files]
    labels, scores = [row["class"] != "good" for row in rows], [float(row["score"]) for row in rows]
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)
    assert 0 <= found["pro"] <= 1
    assert 0 <= found["pixel_auroc"] <= 1
    assert found["facts"]["bundle"] == bundle.id
    for name in ("report.html", "acceptance.html"):
        page = (tmp_path / "out" / name).read_text()
        assert bundle.id in page
        assert "http" not in page.replace("http://www.w3.org", "")
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/jpeg") > 5


def test_a_folder_by_class_without_masks_is_enough(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    for name, source in (("OK", "good"), ("dent", "crack")):
        shutil.copytree(pictures / "test" / source, tmp_path / "set" / name)
    (tmp_path / "set" / "dent" / "broken.png").write_bytes(b"no picture")
    done = run(bundle.path, tmp_path / "set", "--out", tmp_path / "out", "--backend", "onnxruntime")
    assert done.returncode == 1
    assert "not judged: " in done.stderr
    assert "broken.png" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["class", "PASS", "REVIEW", "REJECT", "AUROC"]
    assert [line.split()[0] for line in lines[1:3]] == ["good", "dent"]
    assert "pixel" not in done.stdout


@pytest.mark.parametrize(
    ("make", "said"),
    [(lambda f: None, "no pictures"), (lambda f: np.save(f / "x.npy", np.zeros(1)), "no pictures")],
    ids=["empty", "no-pictures"],
)
def test_a_folder_without_classes_is_refused(tmp_path: Path, make, said: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path)
    with pytest.raises(CallError, match=said):
        evaluate.labelled_pictures(tmp_path)


def test_pictures_that_are_not_sorted_by_class_are_refused(pictures: Path, tmp_path: Path) -> None:
    shutil.copy(next((pictures / "test" / "crack").glob("*.png")), tmp_path)
    with pytest.raises(CallError, match="no folders by class"):
        evaluate.labelled_pictures(tmp_path)


def test_masks_lie_beside_the_test_folder_in_it_or_where_it_is_said(pictures: Path, tmp_path: Path) -> None:
    marked = sum(item.mask is not None for item in evaluate.labelled_pictures(pictures))
    assert marked == len(list((pictures / "ground_truth").rglob("*.png")))
    assert sum(item.mask is not None for item in evaluate.labelled_pictures(pictures / "test")) == marked
    inside = shutil.copytree(pictures / "test", tmp_path / "set")
    shutil.copytree(pictures / "ground_truth", inside / "ground_truth")
    found = evaluate.labelled_pictures(inside)
    assert sum(item.mask is not None for item in found) == marked
    assert "ground_truth" not in {item.defect for item in found}
    shutil.move(inside / "ground_truth", tmp_path / "masks")
    found = evaluate.labelled_pictures(inside, tmp_path / "masks")
    assert sum(item.mask is not None for item in found) == marked


def test_it_needs_no_torch() -> None:
    script = (
        "import sys, dskd.benchmarks.evaluate; print([n for n in ('torch', 'onnx', 'matplotlib') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
