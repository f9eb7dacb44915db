"""What a training run leaves behind, and who may write there."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import NARROW, Command

from dskd.export.run_to_bundle import export
from dskd.runtime import atomic
from dskd.runtime.capture.image_files import write_image
from dskd.runtime.errors import CallError
from dskd.runtime.inspection.overlay import COLOURS
from dskd.runtime.inspection.threshold import WHAT_IS_ODD, conformal_thresholds
from dskd.train import progress
from dskd.train.__main__ import summary
from dskd.train.config import TrainConfig, load_config
from dskd.train.data import find_images, split
from dskd.train.defects import ALL_PAINTERS
from dskd.train.evaluate import Scored
from dskd.train.report import Labelled, write_report
from dskd.train.results import labelled_figures
from dskd.train.run import point_latest, run
from dskd.train.trained_run import TrainedRun, load_run


def test_report_shows_figures_thresholds_and_decodable_pictures(trained_run: TrainedRun) -> None:
    page = (trained_run.folder / "report.html").read_text()
    figures = trained_run.record["figures"]
    for reading in ("teacher", "encoder_student"):
        assert f"inference path {reading.replace('_', ' ')}" in page
        assert f"{figures[reading]['image_auroc']:.4f}" in page
    assert f"{trained_run.thresholds.reject.score:.4f}" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert (
        len(pictures) == 3 + 6 + 4 + 3 + 6
    )  # histogram, losses, heat's colours; misses, false alarms (4 good ones), usual ones, finds
    for kind, value in trained_run.record["painted"].items():
        assert f"<td>{kind.replace('_', ' ')}</td><td>{value:.4f}</td>" in page
    for data in pictures:
        assert cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) is not None
    assert not re.search(r'(src|href)="http', page)


def test_report_of_a_plain_folder_shows_good_parts_and_painted_defects(trained_run: TrainedRun, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scored = Scored(rng.random(12).astype(np.float32), rng.random((12, 32, 48), np.float32))
    pictures = rng.integers(0, 255, (12, 32, 48, 3), np.uint8)
    shown = Labelled(pictures, ["good"] * 5 + ["scratch"] * 7, [f"{k}.png" for k in range(12)], scored, painted=True)
    page = tmp_path / "report.html"
    curve = trained_run.folder / "log.csv"
    write_report(
        page, "part", {}, trained_run.thresholds, scored.scores[:5], {}, shown, {"all": 0.75, "scratch": 0.75}, curve
    )
    for heading in ("Painted defects with the lowest scores", "Held-out good parts with the highest scores"):
        assert f"<h2>{heading}</h2>" in page.read_text()
    assert page.read_text().count('src="data:image/png;base64,') == 3 + 6 + 5 + 3 + 6
    assert "<td>scratch</td><td>0.7500</td>" in page.read_text()


def test_report_counts_the_verdicts_of_each_class_and_says_what_colours_mean(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    thresholds = conformal_thresholds(np.arange(1, 100) / 100, 0.05, 0.01)  # 0.95 and 0.99
    scores = np.array([0.1, 0.96, 0.2, 0.97, 1.5, 2.0, 0.3], np.float32)
    scored, pictures = Scored(scores, np.zeros((7, 32, 48), np.float32)), np.zeros((7, 32, 48, 3), np.uint8)
    defects = ["good", "good", "scratch", "scratch", "scratch", "dark_spot", "dark_spot"]
    shown = Labelled(pictures, defects, [f"{k}.png" for k in range(7)], scored, painted=True)
    page, curve = tmp_path / "report.html", trained_run.folder / "log.csv"
    write_report(page, "Training report: part", {}, thresholds, scores[:2], {}, shown, {"all": 0.75}, curve)
    text = page.read_text()
    rows = re.findall(r"<tr><td>([^<]+)<td>(\d+)<td>(\d+)<td>(\d+)</tr>", text)
    assert rows == [
        ("good, held out", "1", "1", "0"), ("dark spot, painted", "1", "0", "1"), ("scratch, painted", "1", "1", "1"),
    ]  # fmt: skip
    assert "<tr><th>parts<th>PASS<th>REVIEW<th>REJECT</tr>" in text
    assert "<h1>Training report: part</h1>" in text
    for verdict, (blue, green, red) in COLOURS.items():
        assert f'style="background: rgb({red}, {green}, {blue})">{verdict}</span>' in text
    assert 'alt="colours of the heat"' in text


@pytest.mark.parametrize(("folder", "words"), [("good", "are good; add some defective"), ("crack", "are defective")])
def test_pictures_of_one_kind_give_no_figures_and_one_line_says_why(
    folder: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for name in ("train/good/0.png", f"test/{folder}/0.png", f"test/{folder}/1.png", f"ground_truth/{folder}/0.png"):
        write_image(tmp_path / name, part if "ground" not in name else np.full((64, 64), 255, np.uint8))
    write_image(tmp_path / "ground_truth" / folder / "1.png", np.full((32, 64), 255, np.uint8))
    nothing = torch.nn.ModuleDict()
    found = labelled_figures(TrainConfig(), nothing, nothing, find_images(tmp_path), torch.device("cpu"), {})  # type: ignore[arg-type]
    assert found == ({}, None)
    assert [record.getMessage().partition(" /")[0] for record in caplog.records][:1] == ["skipped"]
    assert [words in record.getMessage() for record in caplog.records][1:] == [True]


def test_painted_figure_covers_every_kind(trained_run: TrainedRun) -> None:
    painted = trained_run.record["painted"]
    assert set(painted) <= {"all", *ALL_PAINTERS}
    assert all(0 <= value <= 1 for value in painted.values())


def spied_pieces(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Names of the pieces of work that were said to follow training, and of those that began."""
    expected, begun = list[str](), list[str]()
    expect, bar = progress.expect, progress._Bar.__init__

    def spied_expect(pieces: list[tuple[str, float]]) -> None:
        expected.extend(name for name, _ in pieces)
        expect(pieces)

    def spied_bar(self: progress._Bar, *given: Any, desc: str, **options: Any) -> None:
        begun.append(desc)
        bar(self, *given, desc=desc, **options)

    monkeypatch.setattr("dskd.train.run.expect", spied_expect)
    monkeypatch.setattr(progress._Bar, "__init__", spied_bar)
    return expected, begun


def test_thresholds_change_without_training_again(
    trained_run: TrainedRun, small_set: Path, small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, begun = spied_pieces(monkeypatch)
    weights = (trained_run.folder / "model.safetensors").read_bytes()
    changed = small_config.model_copy(
        update={"thresholds": small_config.thresholds.model_copy(update={"review_rate": 0.5})}
    )
    try:
        run(changed, find_images(small_set), "random", trained_run.folder, "cpu", strict=True)
        assert load_run(trained_run.folder).thresholds.review.false_reject_rate == 0.5
        assert (trained_run.folder / "model.safetensors").read_bytes() == weights
        assert begun[begun.index("training") + 1 :] == expected  # what is still to come was known
    finally:
        run(small_config, find_images(small_set), "random", trained_run.folder, "cpu", strict=True)


def test_two_trainings_do_not_write_to_one_folder(small_set: Path, small_config: TrainConfig, tmp_path: Path) -> None:
    with atomic.sole_writer(tmp_path), pytest.raises(CallError, match="another process"):
        run(small_config, find_images(small_set), "random", tmp_path, "cpu", strict=True)


@pytest.mark.parametrize("out", ["runs/a", "runs/latest"])
def test_latest_leads_to_the_run(tmp_path: Path, out: str) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    point_latest(tmp_path / "runs" / "a")
    point_latest(tmp_path / out)
    assert (tmp_path / "runs" / "latest").resolve() == tmp_path / "runs" / "a"
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"a", "latest"}


def test_latest_says_when_it_leads_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    for name in ("a", "b", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True, exist_ok=True)
        point_latest(Path("runs") / name)
    assert caplog.messages == ["runs/latest leads to b now, before it led to a"]


def test_latest_leaves_a_real_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "a").mkdir()
    point_latest(tmp_path / "a")
    assert not (tmp_path / "latest").is_symlink()


@pytest.mark.slow
def test_a_bad_part_among_the_good_ones_that_were_held_out_is_named(tmp_path: Path) -> None:
    rng, good = np.random.default_rng(0), tmp_path / "good"
    good.mkdir()
    plate = rng.integers(90, 160, (64, 64, 3)).astype(np.float32)
    for number in range(24):
        noise = rng.normal(0, 3, plate.shape)
        write_image(good / f"{number:02}.png", np.clip(plate + noise, 0, 255).astype(np.uint8))
    settings = ["input.height=64", "input.width=64", "recipe.epochs=1", "recipe.batch=4", "data.held_out=0.4", *NARROW]
    images = find_images(good)
    bad = split(images.good, 0.4, 0)[1][3]
    write_image(bad, rng.integers(0, 255, (64, 64, 3), np.uint8))
    record = run(load_config(None, settings), images, "random", tmp_path / "run", "cpu", strict=True)
    assert record["odd_held_out"] == str(bad.resolve())
    assert f"look at {bad.resolve()}: {WHAT_IS_ODD}" in summary(record, tmp_path / "run")
    assert WHAT_IS_ODD in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_bundle_with_a_crop_inspects_its_own_golden_frames(small_set: Path, command: Command, tmp_path: Path) -> None:
    settings = ["input.crop=[20, 10, 200, 160]", "input.height=64", "input.width=64", "recipe.epochs=1", *NARROW]
    run(load_config(None, settings), find_images(small_set), "random", tmp_path / "run", "cpu", strict=True)
    bundle, _ = export(load_run(tmp_path / "run"), "teacher", tmp_path / "bundle", opset=20, batch=1, licence="test")
    done = command("runtime", "--bundle", bundle.path, "--review-threshold", "0", "--reject-threshold", "0", "--json")
    assert done.returncode == 0, done.stderr
    boxes = re.findall(r'"box": \[(\d+), (\d+), (\d+), (\d+)\]', done.stdout)
    assert boxes
    for x, y, width, height in (map(int, box) for box in boxes):
        assert 20 <= x < x + width <= 220
        assert 10 <= y < y + height <= 170
