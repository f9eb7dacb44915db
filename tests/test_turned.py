"""Turned copies: chosen by good pictures alone, never where up means something, and learnt from everywhere alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from dskd.calibration.__main__ import turned_in
from dskd.calibration.usual_errors import relearn
from dskd.runtime.bundle.loading import FLOAT, Bundle
from dskd.runtime.errors import CallError
from dskd.runtime.result import Image
from dskd.train.batches import AugmentedImages
from dskd.train.config import TrainConfig, load_config
from dskd.train.map_choice import as_decided
from dskd.train.networks.backbone import Encoder
from dskd.train.networks.backbones import BACKBONES
from dskd.train.settings import AugmentConfig
from dskd.train.trained_run import TrainedRun
from dskd.train.turn_choice import FEWEST, Seen, choose, judge, settle_turned
from dskd.train.turned import FLIPPED, HALF, LOOKS, MIRRORED, WAYS, Copies, Turned, Way, drawn, plan, turn

PLAIN = AugmentConfig(pseudo_anomalies=0)
QUICK: list[Turned] = ["quarter", "none"]
OTHERS: list[Turned] = ["quarter_mirrored", "half_mirrored", "half", "mirrored", "flipped"]


@pytest.fixture(scope="module")
def teacher() -> Encoder:
    torch.manual_seed(0)
    return BACKBONES["resnet18"].encoder().eval().requires_grad_(False)


def parts(turned: Turned, count: int = 64, height: int = 64, width: int = 64) -> Image:
    """Pictures of a bright F on a grey ground, as alike as parts are, laid the ways in turn, each way alike often in every fold."""
    rng, ways = np.random.default_rng(1), ((0, False), *WAYS[turned])
    found = []
    for k in range(count):
        picture = rng.normal(90, 8, (height, width, 3))
        y, x = height // 5 + rng.integers(3), width // 4 + rng.integers(3)
        shade = rng.uniform(180, 230)
        picture[y : y + height // 2, x : x + width // 8] = shade
        picture[y : y + height // 8, x : x + width // 2] = shade
        picture[y + height // 4 : y + height // 3, x : x + width // 4] = shade
        found.append(turn(np.clip(picture, 0, 255).astype(np.uint8), ways[k // 4 % len(ways)]))
    return np.ascontiguousarray(np.stack(found))


@pytest.mark.parametrize("turned", QUICK)
def test_the_ways_in_which_parts_lie_are_found_and_no_others(turned: Turned, teacher: Encoder) -> None:
    assert choose(judge(teacher, parts(turned))) == turned


@pytest.mark.thorough
@pytest.mark.parametrize("turned", OTHERS)
def test_the_ways_of_every_other_setting_are_found(turned: Turned, teacher: Encoder) -> None:
    assert choose(judge(teacher, parts(turned, 96))) == turned


def test_an_oblong_input_is_never_turned_by_a_quarter(teacher: Encoder) -> None:
    assert set(judge(teacher, parts("none", 8, width=96))) == {HALF, MIRRORED, FLIPPED}


def test_the_ways_of_a_setting_after_one_another_are_among_them() -> None:
    picture = np.arange(16 * 3, dtype=np.uint8).reshape(4, 4, 3)
    for ways in WAYS.values():
        laid = {turn(picture, way).tobytes() for way in ((0, False), *ways)}
        again = {turn(turn(picture, one), other).tobytes() for one in ways for other in ways}
        assert again <= laid
        assert len(laid) == 1 + len(ways)


@pytest.mark.parametrize(
    ("found", "usual"),
    [
        (Seen(96, 0.1, 0.06, 60), True),
        (Seen(96, 0.1, 0.06, 90), False),  # told apart
        (Seen(96, 0.6, 0.06, 48), False),  # farther from the usual
        (Seen(20, 0.1, 0.3, 10), False),  # perhaps farther
        (Seen(10, 0.0, 0.01, 5), False),  # too few to say that they are not told apart
    ],
)
def test_a_way_is_taken_only_where_both_tests_are_sure(found: Seen, usual: bool) -> None:
    assert found.as_usual() is usual


def settled(tmp_path: Path, teacher: Encoder, pictures: Image, *settings: str) -> tuple[TrainConfig, str]:
    files = [tmp_path / f"{k:03}.png" for k in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        cv2.imwrite(str(file), picture)
    height, width = pictures.shape[1:3]
    config = load_config(None, [f"input.height={height}", f"input.width={width}", *settings])
    return settle_turned(config, teacher, files)


def test_what_was_chosen_is_said_with_what_decided_it(tmp_path: Path, teacher: Encoder) -> None:
    config, reason = settled(tmp_path, teacher, parts("half"))
    assert config.data.turned == "half"
    assert reason.startswith("half: of 64 good pictures laid otherwise (mirrored: 100% told apart, +")


@pytest.mark.parametrize(
    ("count", "settings", "turned", "why"),
    [
        (FEWEST - 1, (), "none", f"{FEWEST - 1} good pictures are too few to tell, {FEWEST} are needed"),
        (4, ("data.turned=quarter",), "quarter", "as asked for"),
        (32, ("data.turned=none",), "none", "as asked for"),
    ],
)
def test_where_nothing_is_asked_of_the_pictures_the_reason_is_said(
    count: int, settings: tuple[str, ...], turned: Turned, why: str, tmp_path: Path, teacher: Encoder
) -> None:
    config, reason = settled(tmp_path, teacher, parts("half", count), *settings)
    assert config.data.turned == turned
    assert reason == f"{turned}: {why}"


def test_quarter_turns_of_an_oblong_input_are_refused(tmp_path: Path, teacher: Encoder) -> None:
    with pytest.raises(CallError, match="quarter: the input is 96 x 64 pixels"):
        settled(tmp_path, teacher, parts("none", 2, width=96), "data.turned=quarter")


def test_few_pictures_are_looked_at_in_all_ways_and_many_in_one() -> None:
    assert plan(3, "none") == plan(3, "auto") == [(k, (0, False)) for k in range(3)]
    assert len(plan(10, "quarter_mirrored")) == 80
    assert len(plan(100, "quarter_mirrored")) == LOOKS
    many = plan(2 * LOOKS, "half")
    assert [index for index, _ in many] == list(range(2 * LOOKS))
    assert {way for _, way in many} == {(0, False), HALF}


def test_copies_are_the_pictures_laid_so_by_slice_and_one_after_another() -> None:
    pictures = parts("none", 5)
    copies, looks = Copies(pictures, "half_mirrored"), plan(5, "half_mirrored")
    assert len(copies) == len(looks) == 20
    wanted = np.stack([turn(pictures[index], way) for index, way in looks])
    np.testing.assert_array_equal(copies[3:9], wanted[3:9])
    np.testing.assert_array_equal(np.stack(list(copies)), wanted)


def test_students_are_shown_every_way_and_the_clean_picture_lies_alike() -> None:
    picture = parts("none", 1)
    shown = AugmentedImages(picture, PLAIN, 0, "quarter")
    found = {shown[epoch, 0][0].tobytes() for epoch in range(40)}
    ways: tuple[Way, ...] = ((0, False), *WAYS["quarter"])
    assert found == {turn(picture[0], way).tobytes() for way in ways}
    assert all((clean == seen).all() for clean, seen in (shown[epoch, 0] for epoch in range(4)))


def test_without_copies_training_sees_what_it_saw_before() -> None:
    rng = np.random.default_rng(0)
    picture = parts("none", 1)[0]
    assert drawn(picture, "none", rng) is picture
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn


def test_run_and_bundle_say_what_was_chosen_and_calibration_learns_from_the_same(
    trained_run: TrainedRun, bundle: Bundle
) -> None:
    reason, provenance = trained_run.record["choices"]["turned copies"], bundle.manifest.provenance  # type: ignore[index]
    assert reason.startswith(f"{trained_run.config.data.turned}: ")
    assert provenance.choices["turned copies"] == reason
    assert turned_in(bundle) == trained_run.config.data.turned
    older: dict[str, object] = {}
    for data, turned in ((older, "none"), ({"turned": "quarter"}, "quarter")):
        settings = provenance.model_copy(update={"config": {"data": data}})
        manifest = bundle.manifest.model_copy(update={"provenance": settings})
        assert turned_in(dataclasses.replace(bundle, manifest=manifest)) == turned


def test_a_quantised_graph_learns_from_copies_too(bundle: Bundle) -> None:
    pictures = list(parts("none", 2, bundle.manifest.input.height, bundle.manifest.input.width))
    found = []
    for given, turned in ((pictures, "half"), ([turn(p, way) for p in pictures for way in ((0, False), HALF)], "none")):
        model = onnx.load(bundle.graph_file(FLOAT))
        relearn(model, given, 0.1, "usual errors", turned)  # type: ignore[arg-type]
        found.append(model.SerializeToString())
    assert found[0] == found[1]


def test_a_finished_run_is_what_was_asked_for_whatever_was_chosen() -> None:
    done = load_config(None, ["data.turned=half"])
    assert as_decided(load_config(None, []), done).data == done.data
    assert as_decided(load_config(None, ["data.turned=none"]), done).data.turned == "none"
