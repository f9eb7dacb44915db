"""RD++: its loss against the method specification, section 4.3, and what its parts learn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hand_formulas import check_rates, check_terms, cosines, each_position, whole_images
from networks import image_pair, method_of
from torch import Tensor

from dskd.train.methods.rdpp import RdppConfig


def terms_by_hand(method: Any, clean: Tensor, seen: Tensor, weight: float, reconstruct: float, contrast: float,
                  margin: float) -> dict[str, Tensor]:  # fmt: skip
    target, noisy = method.teacher(clean), method.teacher(seen)
    projected, restored = method.projections(target), method.projections(noisy)
    similar = [cosines(a.flatten(1), b.flatten(1), 1) for a, b in zip(noisy, projected, strict=True)]
    return {
        "decoder_student": whole_images(target, method.decoder(method.embedding(projected))),
        "reconstruct": weight * reconstruct / 1.11 * each_position(projected, restored),
        "contrast": weight * contrast / 1.11 * sum((part - margin).clamp_min(0).mean() for part in similar),
    }


def test_terms_are_those_of_the_paper_with_the_codes_weights() -> None:
    method, images = method_of("method=rdpp").train(), image_pair()
    with torch.no_grad():
        assert method.own.margin == 0.5  # over what networks without training reach
        method.own = RdppConfig(margin=-0.3)
        check_terms(method(*images), terms_by_hand(method, *images, 0.2, 0.01, 0.1, -0.3))
        method.own = RdppConfig(weight=0.6, reconstruct_weight=0.3, contrast_weight=0.7, margin=-0.4)
        check_terms(method(*images), terms_by_hand(method, *images, 0.6, 0.3, 0.7, -0.4))


@pytest.mark.parametrize(("settings", "factor"), [((), 0.2), (("rdpp.projection_rate=0.5",), 0.5)])
def test_projections_learn_at_their_own_rate(settings: tuple[str, ...], factor: float) -> None:
    with torch.device("meta"):
        method = method_of("method=rdpp", "recipe.learning_rate=0.25", *settings)
    check_rates(method, {"embedding": 0.25, "decoder": 0.25, "projections": 0.25 * factor})


def test_pseudo_anomalies_never_reach_the_decoder() -> None:
    method = method_of("method=rdpp").train()
    clean, seen = image_pair(2, (0, 1))
    torch.testing.assert_close(method(clean, seen)["decoder_student"], method(clean, clean)["decoder_student"])
    assert method(clean, seen)["reconstruct"] > method(clean, clean)["reconstruct"] + 1e-6


def test_the_transport_term_is_there_where_asked_for() -> None:
    clean, seen = image_pair(4, (0, 1))
    assert "transport" not in method_of("method=rdpp").train()(clean, seen)
    torch.manual_seed(1)
    method = method_of("method=rdpp", "rdpp.transport=pairwise", "rdpp.positions=32").train()
    term = method(clean, seen)["transport"]
    assert term.requires_grad
    assert float(term.detach()) > 0
