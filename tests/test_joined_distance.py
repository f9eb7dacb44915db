"""Joined maps against their parts written out, the nearest distance against all pairs, and what good pictures set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dskd.export.prune import prune
from dskd.runtime.errors import CallError
from dskd.train.config import load_config
from dskd.train.error_statistics import SeenFeatures
from dskd.train.evaluate import EagerGraph, score
from dskd.train.local_statistics import HIGHER, build_map, fit_map, plain_or_usual
from dskd.train.methods.base import build
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.cosine_distance import cosine_distance
from dskd.train.networks.joined_distance import JoinedDistances
from dskd.train.networks.nearest_distance import NearestDistance

HEIGHT, WIDTH = 64, 96
CPU = torch.device("cpu")
SMALL = [f"input.height={HEIGHT}", f"input.width={WIDTH}", "map.components=24", "map.rank=4", "map.remembered=40"]
Features = tuple[Tensor, Tensor, Tensor]


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def small_graph(*settings: str) -> EagerGraph:
    config = load_config(None, [*SMALL, *settings])
    torch.manual_seed(0)
    method = build(config, BACKBONES["resnet18"].encoder().requires_grad_(False)).eval()
    return EagerGraph(method.inference_path("teacher"), build_map(config), BACKBONES["resnet18"]).eval()


def fitted(*settings: str) -> EagerGraph:
    graph = small_graph(*settings)
    fit_map(graph, pictures(20), pictures(6, seed=1), 0.1, CPU)
    return graph


@torch.no_grad()
def features_of(graph: EagerGraph, images: np.ndarray) -> tuple[Features, Features]:
    found: tuple[Features, Features] = graph.path(graph.to_input(torch.from_numpy(images)))
    return found


@pytest.mark.parametrize("usual", ["here", "anywhere"])
@pytest.mark.parametrize("shares", ["[0.5,0.2,0.2,0.1]", "[1,0,0,0]", "[0,1,0,0]", "[0.5,0,0.5,0]", "[0,0,1,1]"])
def test_the_map_is_the_weighted_sum_of_its_parts(usual: str, shares: str) -> None:
    graph = fitted(f"map.usual={usual}", f"map.shares={shares}")
    joined, images = graph.anomaly_map.distances, pictures(3, seed=2)
    assert isinstance(joined, JoinedDistances)
    with torch.no_grad():
        teacher, student = features_of(graph, images)
        whole = small_graph(f"map.usual={usual}", "map.shares=[1,1,1,1]").anomaly_map  # with all scales
        expected = joined.factors[0] * whole.enlarged(joined.to_usual(teacher, student)[0], 16)
        for k, stride in enumerate((4, 8, 16)):
            distance = cosine_distance(teacher[k], student[k])
            expected = expected + joined.factors[k + 1] * whole.enlarged(distance, stride)
        found = graph(torch.from_numpy(images))[1]
        pruned = prune(graph)(torch.from_numpy(images))[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pruned, found, rtol=1e-3, atol=1e-4)


def test_shares_count_in_spreads_of_good_pictures_and_the_map_is_one_where_few_pixels_are_higher() -> None:
    graph = fitted("map.shares=[0.6,0.2,0.1,0.1]")
    held_out = score(graph, pictures(6, seed=1), CPU)
    assert float(np.quantile(held_out.maps[:, ::2, ::2], HIGHER)) == pytest.approx(1, rel=1e-3)
    joined = graph.anomaly_map.distances
    assert isinstance(joined, JoinedDistances)
    spreads = []
    with torch.no_grad():
        for part, stride in joined.each(*features_of(graph, pictures(6, seed=1))):
            maps = graph.anomaly_map.enlarged(part, stride).numpy()[:, ::2, ::2]
            spreads.append(np.subtract(*np.quantile(maps, (0.995, 0.9))))
    shares = joined.factors.numpy() * spreads
    np.testing.assert_allclose(shares / shares.sum(), [0.6, 0.2, 0.1, 0.1], rtol=1e-3)


def test_the_finest_stage_is_left_out_where_it_has_no_share() -> None:
    assert isinstance(prune(fitted("map.shares=[0.5,0,0.5,0]")).path.decoder.stage1, nn.Identity)
    assert not isinstance(prune(fitted("map.shares=[0.5,0.5,0,0]")).path.decoder.stage1, nn.Identity)


def test_the_nearest_distance_is_that_to_the_nearest_and_knows_no_position() -> None:
    distance = NearestDistance((5, 4, 6), 32, 48, (0.0, 1.0, 1.0), 20, 7)
    generator = torch.Generator().manual_seed(0)
    teacher, student = (
        tuple(
            torch.rand(4, c, 32 // s, 48 // s, generator=generator) for c, s in zip((5, 4, 6), (4, 8, 16), strict=True)
        )
        for _ in range(2)
    )
    distance.learn_components(np.eye(20, dtype=np.float32))
    found = distance.components(teacher, student)
    gathered = SeenFeatures(4)
    gathered.add(found.numpy())
    distance.learn(gathered.remembered(7))
    kept = distance.seen.T + distance.mean
    expected = torch.cdist(found.double(), kept.double()[None].expand(len(found), -1, -1)).amin(2).square()
    (answer,) = distance(teacher, student)
    torch.testing.assert_close(answer, expected.T.reshape(4, 2, 3).float(), rtol=1e-3, atol=1e-5)
    turned = [tuple(scale.flip(2, 3) for scale in side) for side in (teacher, student)]
    torch.testing.assert_close(distance(*turned)[0], answer.flip(1, 2), rtol=1e-4, atol=1e-5)


def test_what_is_remembered_covers_all_that_was_seen_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    common, rare = rng.normal(0, 0.1, (395, 1, 3)), rng.normal(5, 0.1, (5, 1, 3))
    seen = SeenFeatures(1)
    seen.add(np.concatenate((common, rare)).astype(np.float32))
    kept = seen.remembered(8)
    features = kept["seen"].T + kept["mean"]
    assert (features.mean(1) > 4).any()
    assert len(np.unique(features.round(4), axis=0)) == 8
    np.testing.assert_allclose(kept["lengths"], np.square(kept["seen"]).sum(0), rtol=1e-5)


def test_fewer_features_than_are_remembered_come_twice() -> None:
    seen = SeenFeatures(1)
    seen.add(np.arange(6, dtype=np.float32).reshape(3, 1, 2))
    assert seen.remembered(5)["seen"].shape == (2, 5)


def test_the_context_is_the_mean_of_the_neighbours_that_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = tuple(
        torch.rand(1, c, 48 // s, 32 // s, generator=generator) for c, s in zip((5, 4, 6), (4, 8, 16), strict=True)
    )
    plain = NearestDistance((5, 4, 6), 48, 32, (0.0, 0.0, 1.0), 18, 7)
    wider = NearestDistance((5, 4, 6), 48, 32, (0.0, 0.0, 1.0), 18, 7, context=True)
    own = plain.vectors(scales, scales)[:, 0, 6:]
    found = wider.vectors(scales, scales)[:, 0, 12:]
    torch.testing.assert_close(found[0], own[:4].mean(0))  # a corner of 3 x 2 positions
    torch.testing.assert_close(found[2], own.mean(0))


def test_an_older_run_has_no_context() -> None:
    older, default = load_config(None, ["map.distance=local"]), load_config(None, [])
    sizes = [plain_or_usual(config).state_dict()["project"].shape[0] for config in (older, default)]
    assert sizes == [2 * (128 + 256), 3 * (128 + 256)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [(["map.shares=[0,0,0,0]"], "map.shares are all 0"), (["map.fusion=product"], "map.fusion product")],
)
def test_a_map_that_cannot_be_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(CallError, match=message):
        load_config(None, settings)
