"""Distillation losses over several scales. Features are tuples of [B, C, H, W], fine to coarse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dskd.train.networks.cosine_distance import cosine_distance

LARGEST_AFFINITY = 16  # positions on a side: 256 x 256 pairs per image and scale

Features = Sequence[Tensor]


def l2(teacher: Features, student: Features, normalised: bool = False) -> Tensor:
    """Sum over scales of the mean squared difference: of raw features (constrains magnitude), or of unit vectors."""
    if normalised:
        teacher, student = ([F.normalize(f.float(), dim=1) for f in features] for features in (teacher, student))
    return torch.stack([F.mse_loss(s.float(), t.float()) for t, s in zip(teacher, student, strict=True)]).sum()


def cosine(teacher: Features, student: Features) -> Tensor:
    """Sum over scales of the mean per-position cosine distance (constrains direction)."""
    return torch.stack([cosine_distance(t, s).mean() for t, s in zip(teacher, student, strict=True)]).sum()


def flattened_cosine(teacher: Features, student: Features) -> Tensor:
    """Sum over scales of one cosine distance per image, over all channels and positions at once (RD4AD's code)."""
    return torch.stack([(1.0 - _whole(t, s)).mean() for t, s in zip(teacher, student, strict=True)]).sum()


def contrast(one: Features, other: Features, margin: float) -> Tensor:
    """Sum over scales of how far the cosine similarity of whole images exceeds ``margin`` (RD++'s cosine embedding)."""
    return torch.stack([F.relu(_whole(a, b) - margin).mean() for a, b in zip(one, other, strict=True)]).sum()


def _whole(one: Tensor, other: Tensor) -> Tensor:
    """Cosine similarity of all channels and positions at once: [B]."""
    return F.cosine_similarity(one.float().flatten(1), other.float().flatten(1), dim=1)


def masked_cosine(teacher: Features, expert: Features, mask: Tensor) -> Tensor:
    """Sum over scales of the mean absolute difference of cosine distance and mask (URD's second teacher term).

    ``mask`` [B, 1, H, W], 1 where the teacher's image was altered; each scale's mask is made from the finer one's.
    """
    terms = []
    for t, x in zip(teacher, expert, strict=True):
        resized = F.interpolate(mask, t.shape[2:], mode="bilinear", align_corners=True)
        mask = (resized > 0.5).to(resized.dtype)
        terms.append((cosine_distance(t, x) - mask[:, 0]).abs().mean())
    return torch.stack(terms).sum()


def channel_cosine(teacher: Features, student: Features) -> Tensor:
    """Sum over scales of the mean cosine distance of whole channels, each a vector over positions."""
    parts = [
        (1.0 - F.cosine_similarity(t.float().flatten(2), s.float().flatten(2), dim=2)).mean()
        for t, s in zip(teacher, student, strict=True)
    ]
    return torch.stack(parts).sum()


def intra_affinity(teacher: Features, student: Features) -> Tensor:
    """Sum over scales of the mean absolute difference of similarities between positions of one image."""

    def affinity(feature: Tensor) -> Tensor:
        height, width = (min(side, LARGEST_AFFINITY) for side in feature.shape[2:])
        vectors = F.normalize(F.adaptive_avg_pool2d(feature.float(), (height, width)).flatten(2), dim=1)
        return vectors.transpose(1, 2) @ vectors

    return torch.stack([F.l1_loss(affinity(s), affinity(t)) for t, s in zip(teacher, student, strict=True)]).sum()


def inter_affinity(teacher: Features, student: Features) -> Tensor:
    """Sum over scales of the mean absolute difference of similarities between images of the batch; 0 for one image."""
    count = len(teacher[0])
    if count < 2:
        return teacher[0].new_zeros(())
    others = ~torch.eye(count, dtype=torch.bool, device=teacher[0].device)

    def affinity(feature: Tensor) -> Tensor:
        means = F.normalize(feature.float().mean((2, 3)), dim=1)
        return (means @ means.T)[others]

    return torch.stack([F.l1_loss(affinity(s), affinity(t)) for t, s in zip(teacher, student, strict=True)]).sum()
