"""The map of a part is chosen by painted defects, said with its reason, and never chosen where it was set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dskd.runtime.result import Image
from dskd.train.config import TrainConfig, load_config
from dskd.train.data import load_inputs
from dskd.train.evaluate import EagerGraph, score_frames
from dskd.train.local_statistics import build_map, fit_map
from dskd.train.map_choice import Candidate, Judged, Looking, as_decided, candidates, judge, settle_map
from dskd.train.methods.base import build
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.joined_distance import FIRST
from dskd.train.selection import auroc, painted
from dskd.train.synthetic import write_set

CPU = torch.device("cpu")
SMALL = ["input.height=64", "input.width=96", "map.components=24", "map.rank=4", "map.remembered=40"]
SUM = Candidate("here", FIRST)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = write_set(tmp_path_factory.mktemp("set"), train=20, test_good=1, per_defect=1)
    return sorted((folder / "train" / "good").glob("*.png"))


def untrained(config: TrainConfig) -> EagerGraph:
    torch.manual_seed(0)
    method = build(config, BACKBONES["resnet18"].encoder().requires_grad_(False)).eval()
    return EagerGraph(method.inference_path("teacher"), build_map(config), BACKBONES["resnet18"]).eval()


def settled(settings: list[str], good: list[Path], held_out: int) -> tuple[TrainConfig, str]:
    config = load_config(None, [*SMALL, *settings])
    inputs: Image = load_inputs(good[:10], config.input)
    found = settle_map(config, untrained(config), inputs, good[10 : 10 + held_out], CPU)
    return found.config, found.reason


def judged(lead: float, pictures: int) -> Judged:
    """Two candidates, the second of which finds more of the defects by ``lead``."""
    rng = np.random.default_rng(0)
    good = np.repeat(rng.normal(0, 1, (pictures, 1)), 2, 1)
    marked = np.repeat(rng.normal(1, 1, (2 * pictures, 1)), 2, 1)
    marked[:, 1] += lead + rng.normal(0, 0.3, 2 * pictures)
    return Judged(good.astype(np.float32), marked.astype(np.float32), np.repeat(np.arange(pictures), 2))


@pytest.mark.parametrize(("lead", "pictures", "best"), [(0, 200, 0), (0.02, 200, 0), (0.5, 200, 1), (0.15, 8, 0)])
def test_another_is_taken_only_where_it_is_clearly_and_surely_ahead(lead: float, pictures: int, best: int) -> None:
    assert judged(lead, pictures).best() == best


def test_figures_without_a_picture_leave_out_its_defects_too() -> None:
    found = judged(0.5, 20)
    rest = Judged(found.good[1:], found.painted[2:], found.of[2:] - 1)
    np.testing.assert_allclose(found.figures(without=0), rest.figures())


def test_candidates_leave_what_was_set_alone() -> None:
    everything = candidates(load_config(None, []))
    assert everything[0] == SUM
    assert len(set(everything)) == len(everything) > 10
    assert {c.usual for c in candidates(load_config(None, ["map.usual=anywhere"]))} == {"anywhere"}
    assert [c.usual for c in candidates(load_config(None, ["map.shares=[1,0,0,0]"]))] == ["here", "anywhere"]


def test_the_choice_is_by_painted_defects_and_says_so(good: list[Path]) -> None:
    config, reason = settled([], good, 8)
    assert config.map.usual in ("here", "anywhere")
    assert config.map.shares is not None
    assert "painted defects" in reason


@pytest.mark.parametrize(
    ("settings", "held_out", "why"),
    [
        (["map.usual=anywhere", "map.shares=[0,0,0.5,0.5]"], 8, "as asked for"),
        (["map.distance=cosine"], 8, "as asked for"),
        ([], 3, "3 held-out pictures are too few"),
    ],
)
def test_where_nothing_can_be_chosen_the_reason_is_said(
    settings: list[str], held_out: int, why: str, good: list[Path]
) -> None:
    config, reason = settled(settings, good, held_out)
    assert why in reason
    assert held_out == 8 or config.map.shares == FIRST


def test_a_candidate_is_judged_as_the_map_that_it_becomes(good: list[Path]) -> None:
    """The figure of each candidate is that of the graph with these settings."""
    candidate = Candidate("anywhere", (0.25, 0.25, 0.25, 0.25))
    config = load_config(None, [*SMALL, "map.usual=anywhere", "map.shares=[0.25,0.25,0.25,0.25]"])
    inputs, held_out = load_inputs(good[:10], config.input), good[10:18]
    graph = untrained(config)
    found = judge(Looking(config, graph, inputs, ["here", "anywhere"], CPU), held_out, [SUM, candidate])
    fit_map(graph, inputs, load_inputs(held_out, config.input), config.map.ridge, CPU)
    frames = [picture for _, picture, _ in painted(held_out)]
    calm = score_frames(graph, _frames(held_out), len(held_out), config.input, CPU, "good").scores
    marked = score_frames(graph, frames, len(frames), config.input, CPU, "painted").scores
    assert found.figures()[1] == pytest.approx(auroc(calm, marked), abs=0.02)


def _frames(paths: list[Path]) -> list[np.ndarray]:
    from dskd.runtime.capture.image_files import read_image

    return [read_image(path) for path in paths]


def test_a_finished_run_is_what_was_asked_for_whatever_was_chosen() -> None:
    asked = load_config(None, ["map.usual=here"])
    chosen = {"usual": "here", "shares": (1.0, 0.0, 0.0, 0.0)}
    done = asked.model_copy(update={"map": asked.map.model_copy(update=chosen)})
    assert as_decided(asked, done) == done
    other = load_config(None, ["map.usual=anywhere"])
    assert as_decided(other, done) != done
