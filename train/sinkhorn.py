"""Sinkhorn divergence between point clouds, the optimal-transport term of RD++ (Feydy et al., AISTATS 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DIAMETER = 2.0  # of the unit sphere: where the blur starts from


def sinkhorn_divergence(one: Tensor, other: Tensor, blur: float = 0.05, scaling: float = 0.7) -> Tensor:
    """Debiased divergence of two clouds of unit vectors [B, N, D] with equal weights and cost |x - y|²/2: [B].

    The blur is lowered from the diameter to ``blur`` by factors of ``scaling``. Potentials are found without gradient;
    one last update carries it (the envelope theorem).
    """
    steps = max(0, math.ceil(math.log(DIAMETER / blur) / -math.log(scaling)))
    temperatures = [max(blur, DIAMETER * scaling**k) ** 2 for k in range(steps + 1)]
    cross = _transport(one, other, temperatures)
    own = (_transport(one, one, temperatures) + _transport(other, other, temperatures)) / 2
    return cross - own


def _transport(x: Tensor, y: Tensor, temperatures: list[float]) -> Tensor:
    """Entropic transport cost by symmetric updates of the dual potentials in the log domain: [B]."""
    cost = _squared(x, y) / 2
    with torch.no_grad():
        fixed = cost.detach()
        f, g = fixed.new_zeros(fixed.shape[:2]), fixed.new_zeros(fixed.shape[0], fixed.shape[2])
        for temperature in temperatures:
            f, g = (f + _soft_minimum(fixed, g, temperature)) / 2, (g + _soft_minimum(fixed.mT, f, temperature)) / 2
        g = _soft_minimum(fixed.mT, f, temperatures[-1])
    return _soft_minimum(cost, g, temperatures[-1]).mean(1) + g.mean(1)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances [B, N, M], whose gradient at zero is finite."""
    return (x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None] - 2 * x @ y.mT).clamp_min(0)


def _soft_minimum(cost: Tensor, potential: Tensor, temperature: float) -> Tensor:
    """[B, N, M], [B, M] -> [B, N]."""
    share = math.log(cost.shape[2])
    return -temperature * ((potential[:, None] - cost) / temperature - share).logsumexp(2)
