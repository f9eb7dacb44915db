"""The accuracy benchmark: rows, budget, resume, table and overlays."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SMALL

from dskd.benchmarks.lab.models.accuracy import CONTESTANTS, first_of_each, main, within_budget
from dskd.benchmarks.lab.models.comparison import COLUMNS, set_table, table
from dskd.benchmarks.lab.models.probes import PROBES
from dskd.runtime.errors import CallError
from dskd.train.config import load_config
from dskd.train.methods import METHODS
from dskd.train.products import find_products
from dskd.train.synthetic import PRODUCTS, write_set


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough good parts for a calibration."""
    return write_set(tmp_path_factory.mktemp("plates"), train=20, test_good=3, per_defect=1)


SETTINGS = [part for setting in SMALL for part in ("--set", setting)]


def words(plates: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(plates), "--out", str(out), "--teacher-weights", "random", "--json", *SETTINGS, *more]


@pytest.mark.thorough
@pytest.mark.slow
def test_rows_are_trained_exported_and_calibrated_once(
    plates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words(plates, tmp_path, "--methods", "stfpm:1", "--precisions", "int8,fp32,int8-cpu", "--images", "17")
    assert main(asked) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report["rows"]
    assert [(row["method"], row["seed"], row["precision"]) for row in rows] == [
        ("stfpm", 0, precision) for precision in ("fp32", "int8", "int8-cpu")
    ]
    assert [row["latency_ms"] is None for row in rows] == [False, True, False]  # no CPU runs TensorRT's graph
    assert len({row["megabytes"] for row in rows}) == 3
    assert all({*COLUMNS, "parameters", "macs", "latency_ms", "images_shown", "painted"} <= set(row) for row in rows)
    assert {row["images_shown"] for row in rows} == {16}  # 17 pictures in batches of 4
    assert rows[0]["image_auroc"] is not None
    lines = table(rows).splitlines()
    assert len(lines) == 2 + 3  # a line for each precision
    assert (tmp_path / "accuracy.md").read_text().splitlines() == lines
    assert json.loads((tmp_path / "accuracy.json").read_text()) == report
    pictures = sorted((tmp_path / "overlays").iterdir())
    assert [picture.name for picture in pictures] == sorted(
        f"{kind}-000.png" for kind in ("good", "blob", "colour_shift", "crack", "missing_piece", "scratch")
    )
    assert cv2.imread(str(pictures[0])).shape[1] == 3 * 96  # picture, mask, one method
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed-*/**/*") if path.is_file()}
    assert main(asked) == 0
    again = json.loads(capsys.readouterr().out)["rows"]
    assert [{**row, "latency_ms": 0} for row in again] == [{**row, "latency_ms": 0} for row in rows]  # timed each time
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps  # nothing was made again


@pytest.mark.thorough
@pytest.mark.slow
def test_a_common_model_has_figures_of_each_product_and_of_probes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_set(tmp_path, train=20, test_good=3, per_defect=1, product=name) for name in PRODUCTS]
    asked = words(folders[0], tmp_path / "out", "--methods", "rd", "--images", "60")
    assert main([*asked, *(part for folder in folders[1:] for part in ("--data", str(folder)))]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert set(row["products"]) == set(PRODUCTS)
    mean = np.mean([figures["image_auroc"] for figures in row["products"].values()])
    assert row["image_auroc"] == pytest.approx(mean)
    assert set(row["probes"]) == set(PROBES)
    assert all(0 <= value <= 1 for value in row["probes"].values())
    assert row["images_shown"] == 48  # three products of 17: batches of 4 leave the rest out


def test_every_contestant_has_a_valid_configuration() -> None:
    for settings in CONTESTANTS.values():
        assert load_config(None, list(settings)).method in METHODS


def test_a_budget_is_met_in_whole_epochs(plates: Path) -> None:
    images, config = find_products([plates]), load_config(None, SMALL)
    assert within_budget(config, images, None) == config
    for budget, epochs in ((1, 1), (17, 1), (170, 10), (175, 10), (180, 11)):
        assert within_budget(config, images, budget).recipe.epochs == epochs


def test_examples_are_the_first_of_each_kind_by_name(plates: Path) -> None:
    chosen = first_of_each(find_products([plates]))
    assert [item.defect for item in chosen] == sorted({item.defect for item in find_products([plates]).test})
    assert {item.path.name for item in chosen} == {"000.png"}


def test_the_table_says_how_many_seeds_and_leaves_blank_what_is_not_known() -> None:
    row = {"method": "rd", "precision": "fp32", "images_shown": 640, "parameters": 18_166_000, "macs": 4_323_000_000}
    rows = [{**row, "image_auroc": value, "pro": None, "latency_ms": 50} for value in (0.9, 0.94)]
    head, _, line = table(rows).splitlines()
    cells = dict(zip(head.split("|"), line.split("|"), strict=True))
    found = {name.strip(): cell.strip() for name, cell in cells.items()}
    assert (found["seeds"], found["image AUROC"], found["PRO"]) == ("2", "0.920 ± 0.028", "")
    assert (found["M parameters"], found["GMAC"]) == ("18.17", "4.32")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "patchcore"], "patchcore: is not known; known are dskd"),
        (["--precisions", "fp64"], "--precisions takes fp32"),
        (["--seeds", "0"], "at least 1"),
        (["--methods", "dskd,rd:0"], "at least 1"),
        (["--methods", "rd:two"], "rd:two: is neither NAME nor NAME:SEEDS"),
    ],
)
def test_a_wrong_call_is_refused(plates: Path, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(CallError, match=message):
        main(words(plates, tmp_path, *more))


def test_a_set_without_labels_is_refused(plates: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="needs good and defective test images"):
        main(words(plates / "train" / "good", tmp_path))


def test_sets_stand_side_by_side_with_their_mean() -> None:
    def row(seed: int, auroc: float, pro: float | None) -> dict[str, object]:
        return {"method": "dskd", "precision": "fp32", "seed": seed, "image_auroc": auroc, "pro": pro}

    lines = set_table({"tiles": [row(0, 0.9, 0.7), row(1, 0.94, 0.72)], "castings": [row(0, 0.98, None)]}).splitlines()
    assert lines[0].split(" | ")[3:] == [
        "tiles: image AUROC / PRO",
        "castings: image AUROC / PRO",
        "mean image AUROC |",
    ]
    assert lines[2] == "| dskd | fp32 | 1 | 0.920 ± 0.028 / 0.710 ± 0.014 | 0.980 | 0.950 |"
