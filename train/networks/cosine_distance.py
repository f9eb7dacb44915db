"""The published distance of teacher and student at each position."""

from __future__ import annotations

from torch import Tensor

from dskd.train.networks.scales import NORM_FLOOR


def cosine_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Per-position cosine distance in float32: two [B, C, H, W] -> [B, H, W] in [0, 1] for post-ReLU features."""
    t, s = teacher.float(), student.float()
    return 1.0 - (t * s).sum(1) / (_norm(t) * _norm(s))


def _norm(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H, W]. The floor stands before the root, whose gradient at zero is infinite."""
    return x.square().sum(1).clamp_min(NORM_FLOOR**2).sqrt()
