"""Whether training finds out that parts lie anywhere, and what it then leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, Once
from located import PART, SIZE, bracket, poses, write_brackets

import dskd
from dskd.benchmarks.evaluate import evaluate
from dskd.runtime.bundle.loading import load_bundle
from dskd.runtime.capture.image_files import read_image, write_image
from dskd.runtime.errors import CallError
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.fixture.find import find_part
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.inspection.proved import open_proved
from dskd.runtime.result import Frame
from dskd.train import data
from dskd.train.config import load_config
from dskd.train.data import InspectionSet, find_images
from dskd.train.fixture import settle_fixture
from dskd.train.results import ALIGNED
from dskd.train.shape import settle_input
from dskd.train.synthetic import write_set

BRACKETS = ("stamped_bracket", {"size": (192, 256), "train": 16, "test_good": 3, "per_defect": 1})


def settled(images: InspectionSet, *settings: str) -> tuple[object, str]:
    config, reason = settle_fixture(load_config(None, list(settings)), images)
    return config.input.fixture, reason


@pytest.fixture(scope="module")
def brackets(once: Once) -> InspectionSet:
    return find_images(once("brackets", lambda to: write_set(to, product=BRACKETS[0], **BRACKETS[1])) / BRACKETS[0])


def test_parts_that_lie_anywhere_are_found_first(brackets: InspectionSet) -> None:
    config, reason = settle_fixture(load_config(None, []), brackets)
    fixture = config.input.fixture
    assert fixture is not None
    assert (fixture.finder, fixture.turn) == ("contour", 180)
    assert reason.startswith("contour: parts lie turned and moved; found in all 16 pictures")
    assert fixture.width > fixture.height  # the longer side lies level
    shaped, why = settle_input(config, brackets)
    assert why.endswith(f"the part as the fixture cuts it out is {fixture.height} x {fixture.width}")
    assert shaped.input.width > shaped.input.height
    assert shaped.input.fixture == fixture


@pytest.mark.parametrize("product", ["brushed_plate", "woven_cloth", "printed_label"])
def test_parts_that_fill_the_picture_or_lie_still_are_looked_at_as_they_are(product: str, tmp_path: Path) -> None:
    images = find_images(write_set(tmp_path, train=12, test_good=1, per_defect=0, product=product))
    assert settled(images)[0] is None
    assert settled(images)[1].startswith("none: ")


def test_a_part_that_always_lies_alike_needs_no_fixture(tmp_path: Path) -> None:
    for k in range(12):
        write_image(tmp_path / f"{k}.png", bracket((160.0 + k % 3, 120.0, 20.0), seed=k))
    assert settled(find_images(tmp_path)) == (None, "none: parts lie still")


def test_dark_corners_and_a_light_from_the_side_are_no_part(tmp_path: Path) -> None:
    y, x = np.mgrid[-0.5 : 0.5 : SIZE[0] * 1j, -0.5 : 0.5 : SIZE[1] * 1j]
    for k, pose in enumerate(poses(12, seed=4)):
        light = (1 - 0.8 * (x**2 + y**2) + 0.1 * x)[..., None] * (255.0 - bracket(pose, seed=k)) * 0.8
        write_image(tmp_path / f"{k}.png", light.astype(np.uint8))
    fixture, reason = settled(find_images(tmp_path))
    assert reason.startswith("contour: parts lie turned and moved; found in all 12 pictures")
    assert fixture.width < 1.3 * PART[1]  # type: ignore[attr-defined]


def test_few_pictures_without_the_part_are_named_or_forgiven(tmp_path: Path) -> None:
    write_brackets(tmp_path, 12)
    write_image(tmp_path / "07.png", np.full((*SIZE, 3), 22, np.uint8))
    images = find_images(tmp_path)
    fixture, reason = settled(images)
    assert (fixture, reason) == (None, f"none: 07.png: {reason.partition('07.png: ')[2]}")
    assert reason.startswith("none: 07.png: part not found: nothing on the background is large enough")
    fixture, reason = settled(images, "thresholds.reject_rate=0.1", "thresholds.review_rate=0.1")
    assert fixture is not None
    assert "found in 11 of 12 pictures" in reason
    config, _ = settle_fixture(load_config(None, ["thresholds.reject_rate=0.1", "thresholds.review_rate=0.1"]), images)
    assert len(data.usable(images.good, config.input, strict=False)) == 11


def test_round_parts_are_moved_and_not_turned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:240, 0:320]
    for k in range(12):
        across, down = 160 + rng.uniform(-60, 60), 120 + rng.uniform(-40, 40)
        away = np.hypot(x - across, y - down)
        grey = np.where((away < 60) & (away > 25), 150, 25) + rng.normal(0, 2, away.shape)
        write_image(tmp_path / f"{k}.png", np.repeat(grey[..., None], 3, 2).clip(0, 255).astype(np.uint8))
    fixture, reason = settled(find_images(tmp_path))
    assert reason.startswith("contour: parts lie moved; ")
    assert fixture.turn == 0  # type: ignore[attr-defined]


def test_what_is_asked_for_overrules_the_choice(brackets: InspectionSet, tmp_path: Path) -> None:
    assert settled(brackets, "fixture=none") == (None, "none: as asked for")
    assert settled(brackets, "input.crop=[0,0,99,99]") == (None, "none: input.crop says where the part lies")
    assert settled(brackets, "input.tiling.side=64") == (None, "none: tiles cover the whole frame (input.tiling)")
    with pytest.raises(CallError, match=r"fixture.kind contour: tiles cover the whole frame"):
        settled(brackets, "input.tiling.side=64", "fixture=contour")
    cloth = find_images(write_set(tmp_path, train=12, test_good=1, per_defect=0, product="woven_cloth"))
    with pytest.raises(CallError, match=r"fixture.kind contour: one part on a plain background"):
        settled(cloth, "fixture=contour")


def test_a_box_or_a_mask_on_one_picture_says_what_is_sought(tmp_path: Path) -> None:
    write_brackets(tmp_path / "good", 10)
    images = find_images(tmp_path / "good")
    x, y = ((length - side) // 2 for length, side in zip(SIZE[::-1], PART[::-1], strict=True))
    box = [x, y, PART[1], PART[0]]
    write_image(tmp_path / "one.png", bracket(((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 0.0)))
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + PART[0], x : x + PART[1]] = 255
    write_image(tmp_path / "mask.png", mask)
    picture = f"fixture.picture={tmp_path / 'one.png'}"
    fixture, reason = settled(images, picture, f"fixture.box={box}")
    assert reason.startswith(f"template: a box of {PART[1]} x {PART[0]} pixels, found in 10 of 10 good pictures")
    assert settled(images, picture, f"fixture.mask={tmp_path / 'mask.png'}")[0] == fixture
    cut = find_part(read_image(images.good[0]), fixture).cut_out(read_image(images.good[0]))  # type: ignore[arg-type]
    assert cut.shape[:2] == (PART[0] + 2 * round(0.06 * PART[1]), PART[1] + 2 * round(0.06 * PART[1]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["fixture=box"], "fixture.kind"),
        (["fixture.kind=template"], "give fixture.picture and either fixture.box or fixture.mask"),
        (
            ["fixture.picture=a.png", "fixture.box=[0,0,9,9]", "fixture.mask=b.png"],
            "either fixture.box or fixture.mask",
        ),
        (["fixture.kind=contour", "fixture.box=[0,0,9,9]"], "takes no picture, box or mask"),
        (["fixture.kind=none", "fixture.picture=a.png"], "takes no picture, box or mask"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(settings: list[str], told: str) -> None:
    with pytest.raises(CallError, match=told):
        load_config(None, settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["fixture.box=[0,0,900,90]"], "must lie on the picture of 320x240"),
        (["fixture.box=[0,0,3,3]"], "sides of 16 or more"),
        (["fixture.box=[0,0,60,60]"], "is found in [0-8] of 10 good pictures"),
    ],
)
def test_a_box_that_cannot_be_sought_is_refused(settings: list[str], told: str, tmp_path: Path) -> None:
    write_brackets(tmp_path / "good", 10)
    write_image(tmp_path / "one.png", bracket((160.0, 120.0, 0.0)))
    with pytest.raises(CallError, match=told):
        settled(find_images(tmp_path / "good"), f"fixture.picture={tmp_path / 'one.png'}", *settings)


def test_a_mask_follows_its_part_into_the_picture_that_is_cut_out(brackets: InspectionSet) -> None:
    spec = settle_fixture(load_config(None, []), brackets)[0].input
    for item in [item for item in brackets.test if item.mask]:
        whole = data.load_mask(item, spec.of_upright())
        cut = data.load_mask(item, spec)
        assert cut.any()
        share = cut.mean() / whole.mean()
        frame, fixture = read_image(item.path), spec.fixture
        assert fixture is not None
        assert share == pytest.approx(frame.size / 3 / fixture.width / fixture.height, rel=0.25)


def test_from_pictures_to_verdicts(once: Once, brackets: InspectionSet) -> None:
    from trained import exported

    from dskd.train.finished import finished
    from dskd.train.run import run
    from dskd.train.trained_run import load_run

    asked = [*SMALL, "recipe.epochs=1"]

    def fill(folder: Path) -> None:
        run(load_config(None, asked), brackets, "random", folder, "cpu", strict=True)
        exported(load_run(folder), folder / "bundle")

    folder = once("run on brackets", fill)
    fixture = load_run(folder).config.input.fixture
    assert fixture is not None
    assert read_image(folder / ALIGNED).shape[:2] == (fixture.height, fixture.width)
    reason = json.loads((folder / "run.json").read_text())["choices"]["fixture"]
    assert "parts lie turned and moved" in reason
    assert "parts lie turned and moved" in (folder / "report.html").read_text()
    bundle = load_bundle(folder / "bundle")
    assert bundle.manifest.input.fixture == fixture
    assert bundle.manifest.provenance.choices["fixture"] == reason
    backend, check = open_proved(bundle, "onnxruntime")
    assert check.images == bundle.manifest.golden
    assert read_image(bundle.golden().frames[0]).shape == (192, 256, 3)
    inspector = Inspector(bundle, backend, Settings.of(bundle.manifest.graphs[backend.graph].thresholds))
    held_out = Path(json.loads((folder / "run.json").read_text())["held_out"][0])
    found = inspector.inspect(Frame("test", "f", 0.0, read_image(held_out)))
    scored = json.loads((folder / "run.json").read_text())["held_out_scores"][0]
    assert found.score == pytest.approx(scored, rel=1e-3)
    assert found.found is not None
    with dskd.load(bundle.path, backend="onnxruntime") as model:
        evaluation, failed = evaluate(model, brackets.test)
    assert not failed
    assert len(evaluation.judged) == len(brackets.test)
    assert 0 < evaluation.pixel_figures["pro"] <= 1
    assert finished(folder, load_config(None, asked), brackets, "random") is not None
    assert finished(folder, load_config(None, [*asked, "fixture=none"]), brackets, "random") is None
    few = replace(brackets, good=brackets.good[:12])
    assert finished(folder, load_config(None, asked), few, "random") is None
