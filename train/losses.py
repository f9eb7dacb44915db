"""Distillation losses over several scales. Features are tuples of [B, C, H, W], fine to coarse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from train.networks.maps import cosine_distance


def l2(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Sum over scales of the mean squared difference of raw features (constrains magnitude)."""
    return torch.stack([F.mse_loss(s.float(), t.float()) for t, s in zip(teacher, student, strict=True)]).sum()


def cosine(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Sum over scales of the mean per-position cosine distance (constrains direction)."""
    return torch.stack([cosine_distance(t, s).mean() for t, s in zip(teacher, student, strict=True)]).sum()


def flattened_cosine(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Sum over scales of one cosine distance per image, over all channels and positions at once (RD4AD's code)."""
    return torch.stack(
        [
            (1.0 - F.cosine_similarity(t.float().flatten(1), s.float().flatten(1), dim=1)).mean()
            for t, s in zip(teacher, student, strict=True)
        ]
    ).sum()
