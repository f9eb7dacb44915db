"""Losses against hand formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dskd.train import losses

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


def test_l2_of_unit_vectors_is_twice_the_cosine_distance_over_the_channels() -> None:
    teacher, student = random_scales(1), random_scales(2)
    parts = [2 * losses.cosine([t], [s]) / t.shape[1] for t, s in zip(teacher, student, strict=True)]
    torch.testing.assert_close(losses.l2(teacher, student, normalised=True), sum(parts), rtol=1e-5, atol=1e-6)


def test_contrast_counts_only_what_is_over_its_margin() -> None:
    one, other = random_scales(1), random_scales(2)
    whole = [torch.cosine_similarity(a.flatten(1), b.flatten(1)) for a, b in zip(one, other, strict=True)]
    expected = sum((c - 0.5).clamp_min(0).mean() for c in whole)
    torch.testing.assert_close(losses.contrast(one, other, 0.5), expected)
    assert float(losses.contrast(one, [-f for f in other], 0.5)) == 0


def test_masked_cosine_wants_orthogonal_vectors_inside_the_mask_and_equal_ones_outside() -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    expert = torch.zeros(1, 2, 8, 8)
    expert[:, 0] = 1
    right = expert.clone()
    right[:, :, :, :4] = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert float(losses.masked_cosine([right], [expert], mask)) == pytest.approx(0, abs=1e-6)
    assert float(losses.masked_cosine([expert], [expert], mask)) == pytest.approx(0.5, abs=1e-6)
    assert float(losses.masked_cosine([right], [right], mask)) == pytest.approx(0.5, abs=1e-6)


def test_channel_cosine_compares_whole_channels() -> None:
    teacher, student = random_scales(1), random_scales(2)
    expected = sum(
        (1 - torch.cosine_similarity(t.flatten(2), s.flatten(2), dim=2)).mean()
        for t, s in zip(teacher, student, strict=True)
    )
    torch.testing.assert_close(losses.channel_cosine(teacher, student), expected)
    doubled = [s * torch.rand(1, s.shape[1], 1, 1) * 3 for s in teacher]
    assert float(losses.channel_cosine(teacher, doubled)) == pytest.approx(0, abs=1e-5)  # blind to a channel's size


@pytest.mark.parametrize("loss", [losses.intra_affinity, losses.inter_affinity])
def test_affinities_are_blind_to_a_common_turn_of_all_vectors(loss: Callable[..., Tensor]) -> None:
    teacher, student = random_scales(1), random_scales(2)
    turned = [
        torch.einsum("cd,bdhw->bchw", torch.linalg.qr(torch.randn(t.shape[1], t.shape[1]))[0], t) for t in teacher
    ]
    assert float(loss(teacher, turned)) == pytest.approx(0, abs=1e-5)
    assert float(loss(teacher, student)) > 1e-3


def test_inter_affinity_of_one_image_is_nothing() -> None:
    one = tuple(f[:1] for f in random_scales(1))
    assert float(losses.inter_affinity(one, one)) == 0


def test_large_scales_are_pooled_for_affinities() -> None:
    teacher, student = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(k)) for k in range(2))
    pooled = [torch.nn.functional.avg_pool2d(f, 4) for f in (teacher, student)]
    torch.testing.assert_close(
        losses.intra_affinity([teacher], [student]), losses.intra_affinity(*[[p] for p in pooled])
    )
