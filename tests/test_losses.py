"""Losses against hand formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from train import losses

Scales = tuple[Tensor, ...]


def random_scales(seed: int) -> Scales:
    torch.manual_seed(seed)
    return tuple(torch.rand(2, c, n, n) for c, n in ((3, 8), (5, 4), (7, 2)))


def arrays(scales: Scales) -> list[np.ndarray]:
    return [f.double().numpy() for f in scales]


def test_l2_is_the_sum_of_mean_squares() -> None:
    teacher, student = random_scales(1), random_scales(2)
    expected = sum(((t - s) ** 2).mean() for t, s in zip(arrays(teacher), arrays(student), strict=True))
    assert float(losses.l2(teacher, student)) == pytest.approx(expected, rel=1e-6)


def test_cosine_is_the_sum_of_mean_distances_at_each_position() -> None:
    teacher, student = random_scales(1), random_scales(2)
    expected = 0.0
    for t, s in zip(arrays(teacher), arrays(student), strict=True):
        distances = []
        for image in range(t.shape[0]):
            for row in range(t.shape[2]):
                for column in range(t.shape[3]):
                    a, b = t[image, :, row, column], s[image, :, row, column]
                    distances.append(1 - a @ b / np.sqrt((a @ a) * (b @ b)))
        expected += float(np.mean(distances))
    assert float(losses.cosine(teacher, student)) == pytest.approx(expected, rel=1e-5)


def test_flattened_cosine_is_the_sum_of_one_distance_per_image() -> None:
    teacher, student = random_scales(1), random_scales(2)
    expected = 0.0
    for t, s in zip(arrays(teacher), arrays(student), strict=True):
        pairs = [(a.ravel(), b.ravel()) for a, b in zip(t, s, strict=True)]
        expected += float(np.mean([1 - a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs]))
    assert float(losses.flattened_cosine(teacher, student)) == pytest.approx(expected, rel=1e-5)


def test_l2_sees_magnitude_and_cosine_direction() -> None:
    teacher = random_scales(3)
    doubled = tuple(2 * f for f in teacher)
    assert float(losses.cosine(teacher, doubled)) == pytest.approx(0, abs=1e-6)
    assert float(losses.flattened_cosine(teacher, doubled)) == pytest.approx(0, abs=1e-6)
    assert float(losses.l2(teacher, doubled)) == pytest.approx(sum(float(f.square().mean()) for f in teacher), rel=1e-6)


def test_the_two_cosines_differ_where_positions_differ_in_strength() -> None:
    teacher = (torch.tensor([10.0, 0.0, 0.0, 1.0]).view(1, 2, 1, 2),)  # positions (10, 0) and (0, 1)
    student = (torch.tensor([10.0, 1.0, 0.0, 0.0]).view(1, 2, 1, 2),)  # positions (10, 0) and (1, 0)
    assert float(losses.cosine(teacher, student)) == pytest.approx(0.5)
    assert float(losses.flattened_cosine(teacher, student)) == pytest.approx(1 - 100 / 101)


@pytest.mark.parametrize("loss", [losses.l2, losses.cosine, losses.flattened_cosine], ids=lambda f: f.__name__)
def test_half_precision_gives_the_float32_loss(loss: object) -> None:
    teacher, student = (tuple(f.bfloat16() for f in random_scales(seed)) for seed in (4, 5))
    found = loss(teacher, student)  # type: ignore[operator]
    assert found.dtype == torch.float32
    exact = loss(tuple(f.double() for f in teacher), tuple(f.double() for f in student))  # type: ignore[operator]
    assert float(found) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("loss", [losses.l2, losses.cosine, losses.flattened_cosine], ids=lambda f: f.__name__)
def test_a_missing_scale_is_refused(loss: object) -> None:
    with pytest.raises(ValueError, match="shorter"):
        loss(random_scales(1), random_scales(2)[:2])  # type: ignore[operator]


@pytest.mark.parametrize("loss", [losses.l2, losses.cosine, losses.flattened_cosine], ids=lambda f: f.__name__)
def test_a_dead_student_gets_a_finite_gradient(loss: object) -> None:
    teacher = random_scales(6)
    student = tuple((0 * f).requires_grad_() for f in teacher)
    loss(teacher, student).backward()  # type: ignore[operator]
    assert all(torch.isfinite(f.grad).all() for f in student)
