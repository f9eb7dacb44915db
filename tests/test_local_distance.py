"""Local distances against the Mahalanobis distance written out, and what they are for: calm on usual errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.prune import cost, prune
from train.config import load_config
from train.error_statistics import ErrorStatistics
from train.evaluate import EagerGraph
from train.local_statistics import build_map, fit_map
from train.methods import build
from train.networks.local_distance import LocalDistance
from train.networks.maps import CosineDistance
from train.networks.resnet import BACKBONES, Encoder

CHANNELS, HEIGHT, WIDTH, RIDGE = 6, 2, 3, 0.5


def features(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Teacher and student features whose errors differ in size and direction from position to position."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(HEIGHT, WIDTH, CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(99))
    teacher = torch.rand(count, CHANNELS, HEIGHT, WIDTH, generator=generator) + 0.5
    noise = torch.randn(count, HEIGHT, WIDTH, CHANNELS, generator=generator)
    error = 0.1 * torch.einsum("bhwc,hwcd->bdhw", noise, mixing) * torch.linspace(0.1, 1, WIDTH)
    return teacher, (teacher + error).clamp_min(0)


def fitted(teacher: Tensor, student: Tensor, rank: int, batch: int = 7) -> LocalDistance:
    distance = LocalDistance(CHANNELS, HEIGHT, WIDTH, rank)
    statistics = ErrorStatistics(HEIGHT * WIDTH, CHANNELS)
    for t, s in zip(teacher.split(batch), student.split(batch), strict=True):
        statistics.add(distance.error(t, s).numpy())
    distance.learn(statistics.usual_errors(distance.usual.shape[2], RIDGE))
    return distance


def error_of(teacher: Tensor, student: Tensor) -> np.ndarray:
    return (F.normalize(teacher.double(), dim=1) - F.normalize(student.double(), dim=1)).numpy()


@pytest.mark.parametrize("rank", [2, 4, 50])
def test_distance_is_mahalanobis_of_a_principal_component_model(rank: int) -> None:
    teacher, student = features(200, seed=1)
    distance = fitted(teacher, student, rank)
    errors, kept = error_of(teacher, student), min(rank, CHANNELS - 1)
    covariance = [[np.cov(errors[:, :, h, w].T, bias=True) for w in range(WIDTH)] for h in range(HEIGHT)]
    ridge = RIDGE * np.mean([[np.trace(c) / CHANNELS for c in row] for row in covariance])
    new_teacher, new_student = features(5, seed=2)
    found = distance(new_teacher, new_student)
    assert found.shape == (5, HEIGHT, WIDTH)
    assert found.dtype == torch.float32
    new = error_of(new_teacher, new_student) - errors.mean(0)
    for h in range(HEIGHT):
        for w in range(WIDTH):
            variances, directions = np.linalg.eigh(covariance[h][w] + ridge * np.eye(CHANNELS))
            variances[:-kept] = variances[:-kept].mean()
            inverse = directions / variances @ directions.T
            expected = np.einsum("bd,de,be->b", new[:, :, h, w], inverse, new[:, :, h, w]) / CHANNELS
            np.testing.assert_allclose(found[:, h, w].numpy(), expected, rtol=2e-3)


def test_good_images_lie_under_one_and_statistics_do_not_hang_on_the_batch_size() -> None:
    teacher, student = features(200, seed=1)
    one, other = fitted(teacher, student, 4, batch=7), fitted(teacher, student, 4, batch=200)
    found = one(teacher, student)
    assert 0.2 < float(found.mean()) < 1
    torch.testing.assert_close(found, other(teacher, student), rtol=1e-3, atol=1e-4)


def test_an_error_counts_by_how_usual_it_is_there() -> None:
    """The same error is unusual at the left, where good images are rebuilt well, and usual at the right."""
    teacher, student = features(200, seed=1)
    distance = fitted(teacher, student, CHANNELS)
    flat = torch.ones(1, CHANNELS, HEIGHT, WIDTH)
    shifted = flat.clone()
    shifted[:, 0] = 0.5
    unusual = distance(flat, shifted)[0]
    assert float(unusual[:, 0].min()) > 2 * float(unusual[:, -1].max())


@pytest.mark.parametrize("kind", ["one image", "identical features", "dead features"])
def test_poor_statistics_stay_finite(kind: str) -> None:
    teacher, student = features(1 if kind == "one image" else 20, seed=3)
    if kind == "identical features":
        student = teacher
    if kind == "dead features":
        teacher, student = torch.zeros_like(teacher), torch.zeros_like(student)
    distance = fitted(teacher, student, 4)
    assert torch.isfinite(distance(*features(3, seed=4))).all()


def small_graph(*settings: str) -> tuple[EagerGraph, float]:
    config = load_config(None, ["input.height=64", "input.width=96", *settings])
    torch.manual_seed(0)
    method = build(config, Encoder(BACKBONES["resnet18"]).requires_grad_(False)).eval()
    return EagerGraph(method.inference_path("teacher"), build_map(config)).eval(), config.map.ridge


def test_a_map_is_fitted_where_it_is_local_and_exact_in_the_pruned_graph() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 64, 96, 3), np.uint8)
    graph, ridge = small_graph("map.rank=8")
    assert [type(d) for d in graph.anomaly_map.distances] == [CosineDistance, LocalDistance, LocalDistance]
    fit_map(graph, images, ridge, torch.device("cpu"))
    with torch.no_grad():
        score, anomaly_map = graph(torch.from_numpy(images))
        pruned_score, pruned_map = prune(graph)(torch.from_numpy(images))
    assert float(anomaly_map.std()) > 1e-3
    assert 0.5 < float(anomaly_map.mean()) < 2  # two scales of about 1 less the ridge's share
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
