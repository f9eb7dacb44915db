"""Local distances against the Mahalanobis distance written out, and what they are for: calm on usual errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dskd.export.prune import cost, prune
from dskd.train.config import load_config
from dskd.train.error_statistics import ErrorStatistics, PrincipalComponents
from dskd.train.evaluate import EagerGraph
from dskd.train.local_statistics import build_map, fit_map
from dskd.train.methods.base import build
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.local_distance import LocalDistance

CHANNELS, SIDES, STRIDES = (5, 4, 6), (32, 48), (4, 8, 16)
WEIGHTS, RIDGE = (0.0, 2.0, 1.0), 0.5
SIZE = 2 * (4 + 6)  # of the vector at each position: error and direction of the two scales that count
Features = tuple[Tensor, ...]


def features(count: int, seed: int) -> tuple[Features, Features]:
    """Teacher and student features of three scales whose errors differ from position to position."""
    generator, places = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    teacher, student = [], []
    for channels, stride in zip(CHANNELS, STRIDES, strict=True):
        height, width = SIDES[0] // stride, SIDES[1] // stride
        mixing = torch.randn(height, width, channels, channels, generator=places)
        taught = torch.rand(count, channels, height, width, generator=generator) + 0.5
        noise = torch.randn(count, height, width, channels, generator=generator)
        error = 0.1 * torch.einsum("bhwc,hwcd->bdhw", noise, mixing) * torch.linspace(0.1, 1, width)
        teacher.append(taught)
        student.append((taught + error).clamp_min(0))
    return tuple(teacher), tuple(student)


def fitted(teacher: Features, student: Features, rank: int, batch: int = 7, components: int = 100) -> LocalDistance:
    distance = LocalDistance(CHANNELS, *SIDES, WEIGHTS, components, rank)
    principal = PrincipalComponents(SIZE)
    principal.add(distance.vectors(teacher, student).numpy())
    distance.learn_components(principal.strongest(distance.project.shape[1]))
    statistics = ErrorStatistics(distance.mean.shape[0], distance.mean.shape[2])
    batches = [zip(*(scale.split(batch) for scale in side), strict=True) for side in (teacher, student)]
    for t, s in zip(*batches, strict=True):
        statistics.add(distance.components(t, s).numpy())
    distance.learn(statistics.usual_errors(distance.usual.shape[2], RIDGE))
    return distance


def vectors_of(teacher: Features, student: Features) -> np.ndarray:
    """[B, C, H, W] at the coarsest scale, written out."""
    errors, directions = [], []
    for weight, t, s in list(zip(WEIGHTS, teacher, student, strict=True))[1:]:
        own = weight * F.normalize(t.double(), dim=1)
        size = (SIDES[0] // 16, SIDES[1] // 16)
        errors.append(F.interpolate(own - weight * F.normalize(s.double(), dim=1), size, mode="area"))
        directions.append(F.interpolate(own, size, mode="area"))
    return torch.cat((*errors, *directions), 1).numpy()


@pytest.mark.parametrize("components", [9, 100])
@pytest.mark.parametrize("rank", [2, 4, 50])
def test_distance_is_mahalanobis_of_a_principal_component_model(rank: int, components: int) -> None:
    teacher, student = features(200, seed=1)
    distance, kept = fitted(teacher, student, rank, components=components), min(components, SIZE)
    vectors = vectors_of(teacher, student)
    flat = vectors.transpose(0, 2, 3, 1).reshape(-1, SIZE)
    basis = np.linalg.eigh(np.cov(flat.T, bias=True))[1][:, -kept:]
    vectors = np.einsum("bchw,cd->bdhw", vectors, basis)
    rows, columns = vectors.shape[2:]
    covariance = [[np.cov(vectors[:, :, h, w].T, bias=True) for w in range(columns)] for h in range(rows)]
    shared, weight = np.mean(covariance, (0, 1)), 20 / (200 + 20)  # it counts as 20 pictures beside the 200
    ridge = RIDGE * np.mean([[np.trace(c) / kept for c in row] for row in covariance])
    new_teacher, new_student = features(5, seed=2)
    (found,) = distance(new_teacher, new_student)
    assert found.shape == (5, rows, columns)
    assert found.dtype == torch.float32
    new = np.einsum("bchw,cd->bdhw", vectors_of(new_teacher, new_student), basis) - vectors.mean(0)
    for h in range(rows):
        for w in range(columns):
            variances, directions = np.linalg.eigh(
                (1 - weight) * covariance[h][w] + weight * shared + ridge * np.eye(kept)
            )
            known = min(rank, kept - 1)
            variances[:-known] = variances[:-known].mean()
            inverse = directions / variances @ directions.T
            expected = np.einsum("bd,de,be->b", new[:, :, h, w], inverse, new[:, :, h, w]) / kept
            np.testing.assert_allclose(found[:, h, w].numpy(), expected, rtol=2e-3)


def test_good_images_lie_about_one_and_statistics_do_not_hang_on_the_batch_size() -> None:
    teacher, student = features(200, seed=1)
    one, other = fitted(teacher, student, 4, batch=7), fitted(teacher, student, 4, batch=200)
    (found,) = one(teacher, student)
    assert 0.2 < float(found.mean()) < 1.2
    torch.testing.assert_close(found, other(teacher, student)[0], rtol=1e-3, atol=1e-4)


def test_an_error_counts_by_how_usual_it_is_there() -> None:
    """The same error is unusual at the left, where good images are rebuilt well, and usual at the right."""
    teacher, student = features(400, seed=1)
    distance = fitted(teacher, student, SIZE)
    plain = tuple(torch.ones(1, *scale.shape[1:]) for scale in teacher)
    shifted = tuple(scale.clone() for scale in plain)
    for scale in shifted:
        scale[:, 0] = 0.5
    unusual = (distance(plain, shifted)[0] - distance(plain, plain)[0])[0]
    assert float(unusual[:, 0].min()) > 2 * float(unusual[:, -1].max())


@pytest.mark.parametrize("kind", ["one image", "identical features", "dead features"])
def test_poor_statistics_stay_finite(kind: str) -> None:
    teacher, student = features(1 if kind == "one image" else 20, seed=3)
    if kind == "identical features":
        student = teacher
    if kind == "dead features":
        teacher = student = tuple(torch.zeros_like(scale) for scale in teacher)
    (found,) = fitted(teacher, student, 4)(*features(3, seed=4))
    assert torch.isfinite(found).all()


def small_graph(*settings: str) -> tuple[EagerGraph, float]:
    config = load_config(None, ["input.height=64", "input.width=96", *settings])
    torch.manual_seed(0)
    method = build(config, BACKBONES["resnet18"].encoder().requires_grad_(False)).eval()
    return EagerGraph(
        method.inference_path("teacher"), build_map(config), BACKBONES["resnet18"]
    ).eval(), config.map.ridge


def test_a_map_is_fitted_where_it_is_local_and_exact_in_the_pruned_graph() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 64, 96, 3), np.uint8)
    graph, ridge = small_graph("map.distance=local", "map.rank=8")
    assert isinstance(graph.anomaly_map.distances, LocalDistance)
    fit_map(graph, images, images, ridge, torch.device("cpu"))
    with torch.no_grad():
        score, anomaly_map = graph(torch.from_numpy(images))
        pruned_score, pruned_map = prune(graph)(torch.from_numpy(images))
    assert float(anomaly_map.std()) > 1e-3
    assert 0.2 < float(anomaly_map.mean()) < 2  # about 1 less the ridge's share
    torch.testing.assert_close(pruned_score, score, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(pruned_map, anomaly_map, rtol=1e-3, atol=1e-4)


def test_a_scale_without_weight_costs_nothing_in_the_pruned_graph() -> None:
    image = torch.zeros((1, 64, 96, 3), dtype=torch.uint8)
    without, _ = small_graph()
    with_finest, _ = small_graph("map.scale_weights=[1,1,1]")
    lean, full = prune(without), prune(with_finest)
    saved = sum(p.numel() for p in with_finest.path.decoder.stage1.parameters())
    assert isinstance(lean.path.decoder.stage1, nn.Identity)
    assert cost(lean, lean, image).macs < 0.9 * cost(full, full, image).macs
    assert sum(p.numel() for p in full.parameters()) - sum(p.numel() for p in lean.parameters()) == pytest.approx(
        saved, abs=500
    )


def test_a_shared_distance_knows_all_positions_as_one() -> None:
    """The same as if every position were a picture of one position, so that a shift of the picture shifts the map."""
    teacher, student = features(60, seed=1)
    shared = LocalDistance(CHANNELS, *SIDES, WEIGHTS, 9, 4, shared=True)
    basis = PrincipalComponents(SIZE)
    basis.add(shared.vectors(teacher, student).numpy())
    shared.learn_components(basis.strongest(9))
    vectors = shared.components(teacher, student).numpy()
    statistics = ErrorStatistics(1, 9)
    statistics.add(vectors.reshape(1, -1, 9))
    shared.learn(statistics.usual_errors(4, RIDGE))
    assert shared.mean.shape == (1, 1, 9)
    (found,) = shared(*features(3, seed=2))
    assert found.shape == (3, 2, 3)
    flat = vectors.reshape(-1, 9).astype(np.float64)
    variances, directions = np.linalg.eigh(np.cov(flat.T, bias=True))
    variances += RIDGE * variances.mean()
    rest = variances[:-4].mean()
    model = (directions * np.concatenate((np.full(5, rest), variances[-4:]))) @ directions.T
    new = shared.components(*features(3, seed=2)).numpy() - flat.mean(0)
    expected = np.einsum("pbc,cd,pbd->pb", new, np.linalg.inv(model), new).T.reshape(3, 2, 3) / 9
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)
