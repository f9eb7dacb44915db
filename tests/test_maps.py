"""The anomaly map against torch's resize and SciPy's Gaussian filter, and the cosine distance at its edges."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from dskd.train.networks.cosine_distance import cosine_distance
from dskd.train.networks.maps import AnomalyMap, CosineDistances

SIZES = [(256, 256), (64, 96), (96, 32), (32, 32)]


def features(height: int, width: int, seed: int, channels: tuple[int, ...] = (5, 7, 9)) -> tuple[Tensor, ...]:
    """Post-ReLU-like features of two images at three scales."""
    torch.manual_seed(seed)
    scales = zip(channels, (4, 8, 16), strict=True)
    return tuple(torch.randn(2, c, height // s, width // s).relu() for c, s in scales)


def reference_map(
    teacher: tuple[Tensor, ...],
    student: tuple[Tensor, ...],
    size: tuple[int, int],
    sigma: float,
    weights: tuple[float, ...] = (1, 1, 1),
) -> np.ndarray:
    """float64, by the libraries that the published methods use."""
    total = np.zeros((len(teacher[0]), *size))
    for t, s, weight in zip(teacher, student, weights, strict=True):
        distance = 1 - F.cosine_similarity(t.double(), s.double(), dim=1)
        total += weight * F.interpolate(distance[:, None], size, mode="bilinear", align_corners=True)[:, 0].numpy()
    if sigma == 0:
        return total
    return np.stack([gaussian_filter(one, sigma, mode="reflect") for one in total])


@pytest.mark.parametrize("sigma", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_map_is_resize_sum_and_gaussian(size: tuple[int, int], sigma: float) -> None:
    teacher, student = features(*size, seed=1), features(*size, seed=2)
    score, anomaly_map = AnomalyMap(*size, sigma)(teacher, student)
    expected = reference_map(teacher, student, size, sigma)
    assert anomaly_map.dtype == score.dtype == torch.float32
    assert anomaly_map.shape == (2, *size)
    np.testing.assert_allclose(anomaly_map.numpy(), expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(score.numpy(), anomaly_map.numpy().max(axis=(1, 2)))


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 2.0, 0.5), (0.25, 0.25, 3.0)], ids=str)
def test_scales_count_by_their_weights(weights: tuple[float, float, float]) -> None:
    teacher, student = features(64, 96, seed=1), features(64, 96, seed=2)
    _, anomaly_map = AnomalyMap(64, 96, 4.0, CosineDistances(weights))(teacher, student)
    expected = reference_map(teacher, student, (64, 96), 4.0, weights)
    np.testing.assert_allclose(anomaly_map.numpy(), expected, rtol=0, atol=1e-5)


def test_a_defect_at_the_border_keeps_its_weight_there() -> None:
    """SciPy's border repeats the edge sample; numpy's and torch's "reflect" do not and would lower the score."""
    teacher = tuple(torch.ones(1, 2, 64 // s, 64 // s) for s in (4, 8, 16))
    student = tuple(f.clone() for f in teacher)
    student[0][0, 1, 0, 0] = 0  # only the corner differs
    score, anomaly_map = AnomalyMap(64, 64)(teacher, student)
    expected = reference_map(teacher, student, (64, 64), 4.0)
    assert anomaly_map.argmax() == 0
    assert float(score) == pytest.approx(expected.max(), abs=1e-6)
    assert expected.max() > 0.03


def test_equal_features_give_no_anomaly() -> None:
    alive = tuple(f + 0.1 for f in features(64, 64, seed=5))  # a dead position would count as unlike itself
    assert float(AnomalyMap(64, 64)(alive, alive)[1].abs().max()) < 1e-5


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 6e4, 1e12]),
    st.sampled_from([1e-6, 1.0, 6e4, 1e12]),
)
def test_distance_is_bounded_and_blind_to_size(seed: int, teacher_size: float, student_size: float) -> None:
    torch.manual_seed(seed)
    t, s = torch.rand(1, 16, 3, 4), torch.rand(1, 16, 3, 4)
    found = cosine_distance(t * teacher_size, s * student_size)
    assert found.shape == (1, 3, 4)
    assert float(found.min()) >= -1e-6
    assert float(found.max()) <= 1 + 1e-6
    expected = 1 - F.cosine_similarity(t.double(), s.double(), dim=1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        pytest.param([0.0, 0.0], [0.0, 0.0], 1.0, id="both dead"),
        pytest.param([3.0, 4.0], [0.0, 0.0], 1.0, id="student dead"),
        pytest.param([0.0, 0.0], [3.0, 4.0], 1.0, id="teacher dead"),
        pytest.param([1.0, 0.0], [0.0, 2.0], 1.0, id="orthogonal"),
        pytest.param([3.0, 4.0], [6.0, 8.0], 0.0, id="parallel"),
        pytest.param([1.0, 1.0], [-1.0, -1.0], 2.0, id="opposed"),
    ],
)
def test_distance_by_hand(teacher: list[float], student: list[float], expected: float) -> None:
    t, s = (torch.tensor(v).view(1, 2, 1, 1) for v in (teacher, student))
    assert float(cosine_distance(t, s)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0], ids=["dead", "almost dead", "alive"])
def test_a_dead_position_does_not_poison_the_gradient(scale: float) -> None:
    torch.manual_seed(0)
    teacher = torch.rand(1, 8, 2, 2)
    student = torch.rand(1, 8, 2, 2)
    student[..., 0, 0] *= scale
    student.requires_grad_()
    cosine_distance(teacher, student).mean().backward()
    assert torch.isfinite(student.grad).all()
    assert float(student.grad[..., 1, 1].abs().max()) > 0


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_features_are_compared_in_float32(half: torch.dtype) -> None:
    torch.manual_seed(0)
    t, s = (100 * torch.rand(2, 1024, 4, 4)).to(half), (100 * torch.rand(2, 1024, 4, 4)).to(half)
    found = cosine_distance(t, s)
    assert found.dtype == torch.float32
    expected = 1 - F.cosine_similarity(t.double(), s.double(), dim=1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


def test_half_precision_stays_out_under_autocast() -> None:
    torch.manual_seed(0)
    t, s = torch.rand(2, 256, 4, 4), torch.rand(2, 256, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_distance(t, s)
    assert torch.equal(found, cosine_distance(t, s))


def test_a_product_ranks_pixels_as_the_published_one() -> None:
    """Scales to the finest grid, multiplied, resized as OpenCV does: STFPM's map, under a root."""
    torch.manual_seed(3)
    pairs = [(torch.rand(2, 4, n, m), torch.rand(2, 4, n, m)) for n, m in ((16, 24), (8, 12), (4, 6))]
    teacher, student = ([pair[k] for pair in pairs] for k in range(2))
    score, found = AnomalyMap(64, 96, sigma=0, fusion="product")(tuple(teacher), tuple(student))
    expected = torch.ones(2, 16, 24)
    for t, s in pairs:
        distance = 1 - torch.cosine_similarity(t, s, dim=1)
        expected *= torch.nn.functional.interpolate(distance[:, None], (16, 24), mode="bilinear")[:, 0]
    resized = np.stack([cv2.resize(one, (96, 64), interpolation=cv2.INTER_LINEAR) for one in expected.numpy()])
    np.testing.assert_allclose(found.numpy() ** 3, resized, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(score, found.amax((1, 2)))


def test_a_product_leaves_out_a_scale_without_weight_and_survives_equal_features() -> None:
    torch.manual_seed(3)
    features = tuple(torch.rand(1, 4, 64 // s, 64 // s) for s in (4, 8, 16))
    others = tuple(torch.rand_like(f) for f in features)
    chosen = AnomalyMap(64, 64, 0, CosineDistances((0.0, 1.0, 1.0)), "product")
    assert torch.equal(chosen(features, others)[1], chosen((others[0], *features[1:]), others)[1])
    assert torch.isfinite(AnomalyMap(64, 64, 0, fusion="product")(features, features)[1]).all()


def test_the_mean_may_be_the_score() -> None:
    torch.manual_seed(3)
    features, others = (tuple(torch.rand(2, 4, 64 // s, 64 // s) for s in (4, 8, 16)) for _ in range(2))
    score, found = AnomalyMap(64, 64, score="mean")(features, others)
    torch.testing.assert_close(score, found.mean((1, 2)))
