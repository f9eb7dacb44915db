"""SNL-style distillation: its four terms against the method specification, section 6.2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hand_formulas import check_rates, check_terms, cosines, each_position
from networks import image_pair, method_of
from torch import Tensor

from dskd.train.methods.snl import SnlConfig


def unit(vectors: Tensor) -> Tensor:
    """Rows of length 1."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def terms_by_hand(method: Any, clean: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """Each with weight 1; no scale of a 64 x 64 picture has more than 16 x 16 positions."""
    target = method.teacher(clean)
    rebuilt = method.decoder(method.aggregation(method.embedding(method.teacher(seen))))
    channel, intra, inter = [], [], []
    for t, s in zip(target, rebuilt, strict=True):
        channel.append((1 - cosines(t.flatten(2), s.flatten(2), 2)).mean())
        at, at_student = (unit(f.flatten(2).transpose(1, 2)) for f in (t, s))  # [B, N, C]
        intra.append((at @ at.transpose(1, 2) - at_student @ at_student.transpose(1, 2)).abs().mean())
        of, of_student = (unit(f.mean((2, 3))) for f in (t, s))  # [B, C]
        apart = [abs(of[n] @ of[m] - of_student[n] @ of_student[m]) for n in range(3) for m in range(3) if n != m]
        inter.append(torch.stack(apart).mean())
    sums = {
        name: torch.stack(parts).sum() for name, parts in (("channel", channel), ("intra", intra), ("inter", inter))
    }
    return {"spatial": each_position(target, rebuilt), **sums}


def test_terms_are_the_specifications_each_with_its_weight() -> None:
    method, images = method_of("method=snl").train(), image_pair(3)
    weights = {"spatial": 0.3, "channel": 0.5, "intra": 0.7, "inter": 1.1}
    with torch.no_grad():
        expected = terms_by_hand(method, *images)
        check_terms(method(*images), expected)
        method.own = SnlConfig(**weights)
        check_terms(method(*images), {name: weights[name] * value for name, value in expected.items()})


def test_students_and_aggregation_learn_at_one_rate() -> None:
    with torch.device("meta"):
        method = method_of("method=snl", "recipe.learning_rate=0.25")
    assert len(method.parameter_groups()) == 1
    check_rates(method, {"embedding": 0.25, "aggregation": 0.25, "decoder": 0.25})


@pytest.mark.parametrize(("centres", "count"), [(64, 64), (0, 0)])
def test_centres_are_as_many_as_asked_for(centres: int, count: int) -> None:
    with torch.device("meta"):
        method = method_of("method=snl", f"snl.centres={centres}")
    own = dict(method.aggregation.named_parameters())
    assert len(own.get("centres", ())) == count
    path = method.inference_path("teacher")
    assert [name for name, _ in path.embedding.named_children()] == ["embedding", "aggregation"]
