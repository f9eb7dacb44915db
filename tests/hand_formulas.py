"""Formulas of the method specification, written out for features of several scales, and the rates of a method's parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Scales = Sequence[Tensor]


def cosines(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Cosine similarity along ``dim``; 0 where a vector is nothing."""
    return (one * other).sum(dim) / (one.norm(dim=dim) * other.norm(dim=dim)).clamp_min(1e-8)


def each_position(one: Scales, other: Scales) -> Tensor:
    """sum_k mean over images and positions of 1 - cos of the channels there."""
    return sum((1 - cosines(a, b, 1)).mean() for a, b in zip(one, other, strict=True))


def whole_images(one: Scales, other: Scales) -> Tensor:
    """sum_k mean over images of 1 - cos of all channels and positions at once."""
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(one, other, strict=True)]
    return sum((1 - cosines(a, b, 1)).mean() for a, b in pairs)


def check_rates(method: Any, expected: dict[str, float]) -> None:
    """Each parameter of the parts named is held once at its part's rate, and no other is held."""
    held = [(id(p), group["lr"]) for group in method.parameter_groups() for p in group["params"]]
    wanted = [(id(p), rate) for part, rate in expected.items() for p in getattr(method, part).parameters()]
    assert len(held) == len(wanted)
    assert dict(held) == dict(wanted)


def check_terms(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names, the same values, and none of them nothing."""
    assert min(map(float, expected.values())) > 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
