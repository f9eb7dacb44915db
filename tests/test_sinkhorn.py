"""The transport term against exact transport, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from dskd.train.sinkhorn import sinkhorn_divergence


def clouds(count: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(F.normalize(torch.randn(2, count, 5, generator=generator), dim=2) for _ in range(2))  # type: ignore[return-value]


def test_with_little_blur_it_is_the_exact_cost_of_the_best_matching() -> None:
    one, other = clouds()
    found = sinkhorn_divergence(one, other, blur=0.02, scaling=0.95)
    for x, y, value in zip(one.numpy(), other.numpy(), found.tolist(), strict=True):
        cost = ((x[:, None] - y[None]) ** 2).sum(2) / 2
        assert value == pytest.approx(cost[linear_sum_assignment(cost)].mean(), rel=0.02)


def test_a_cloud_is_no_distance_from_itself_in_any_order() -> None:
    one, _ = clouds()
    torch.testing.assert_close(sinkhorn_divergence(one, one[:, torch.randperm(12)]), torch.zeros(2), rtol=0, atol=1e-5)


def test_it_is_symmetric_and_positive() -> None:
    one, other = clouds()
    forth, back = sinkhorn_divergence(one, other), sinkhorn_divergence(other, one)
    torch.testing.assert_close(forth, back, rtol=1e-4, atol=1e-6)
    assert bool((forth > 0.05).all())


def test_its_gradient_leads_one_cloud_to_the_other() -> None:
    one, other = (cloud.double() for cloud in clouds(6))
    moving = one.clone().requires_grad_()
    before = sinkhorn_divergence(moving, other, scaling=0.95).sum()
    before.backward()
    after = sinkhorn_divergence((moving - 0.05 * moving.grad * 6).detach(), other, scaling=0.95).sum()  # type: ignore[operator]
    assert float(after) < float(before.detach())
    direction = torch.randn_like(one)
    ahead, behind = (sinkhorn_divergence(one + e * direction, other, scaling=0.95).sum() for e in (1e-4, -1e-4))
    slope = float((moving.grad * direction).sum())  # type: ignore[operator]
    assert slope == pytest.approx(float((ahead - behind) / 2e-4), rel=0.05, abs=1e-3)
    assert np.isfinite(slope)
