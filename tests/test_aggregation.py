"""Residual aggregation and injection: what they compute."""

from __future__ import annotations

import pytest
import torch

from dskd.train.methods.snl import FLOOR, ResidualAggregation
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.injection import InjectedDecoder, Injection, similarity


def aggregation(channels: int = 12, centres: int = 5) -> ResidualAggregation:
    torch.manual_seed(0)
    module = ResidualAggregation(channels, centres)
    torch.nn.init.normal_(module.centres)
    return module.eval()


def test_aggregation_is_its_formula() -> None:
    module, z = aggregation(), torch.rand(2, 12, 3, 4)
    with torch.no_grad():
        found = module(z)
        sharpness = torch.nn.functional.softplus(module.sharpness)[:, 0]
        for image in range(2):
            points = z[image].flatten(1).T  # [P, D]
            distance = ((points[:, None] - module.centres[None]) ** 2).mean(2)
            share = (-sharpness * distance).softmax(1)  # [P, K]
            residual = torch.stack([
                (share[:, j, None] * (points - module.centres[j])).sum(0) / (share[:, j].sum() + FLOOR)
                for j in range(5)
            ])  # fmt: skip
            grown = module.grow(torch.relu(module.shrink(residual)))
            expected = share @ (module.centres + grown)
            torch.testing.assert_close(found[image].flatten(1).T, expected, rtol=1e-4, atol=1e-5)


def test_a_deviation_at_one_place_does_not_come_through() -> None:
    module, z = aggregation(), torch.rand(1, 12, 8, 8)
    odd = z.clone()
    odd[:, :, 3, 3] += 5
    with torch.no_grad():
        change = (module(odd) - module(z)).flatten(2).norm(dim=1)
    assert float(change.max()) < 0.75 * float((odd - z).norm())


def test_an_injection_goes_by_the_teacher_where_both_agree_and_by_itself_where_not() -> None:
    torch.manual_seed(0)
    injection = Injection(4, 2, guided=True).eval()
    seen = []
    assert injection.guide is not None
    injection.guide.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decoded, taught, finer = torch.rand(1, 4, 2, 2), torch.rand(1, 4, 2, 2), torch.rand(1, 2, 4, 4)
    taught[..., 0, 0] = 3 * decoded[..., 0, 0]  # they agree
    decoded[..., 1, 1], taught[..., 1, 1] = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 1.0, 0, 0])  # they do not
    with torch.no_grad():
        merged = injection.merge(taught + injection.down(torch.nn.functional.interpolate(
            finer, scale_factor=0.5, mode="bilinear", align_corners=False)))  # fmt: skip
        injection(decoded, taught, finer)
    torch.testing.assert_close(seen[0][..., 0, 0], merged[..., 0, 0])
    torch.testing.assert_close(seen[0][..., 1, 1], decoded[..., 1, 1])


def test_the_guide_carries_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients are those of a computation in which the agreement is a given number."""
    torch.manual_seed(0)
    injection = Injection(4, 2, guided=True).eval()
    decoded, taught = (torch.rand(2, 4, 2, 2, requires_grad=True) for _ in range(2))
    finer = torch.rand(2, 2, 4, 4)
    found = torch.autograd.grad(injection(decoded, taught, finer).square().sum(), (decoded, taught))
    agreement = similarity(decoded, taught).detach()
    monkeypatch.setattr("dskd.train.networks.injection.similarity", lambda one, other: agreement)
    expected = torch.autograd.grad(injection(decoded, taught, finer).square().sum(), (decoded, taught))
    assert all(bool(gradient.abs().max() > 1e-3) for gradient in expected)
    torch.testing.assert_close(found, expected)


def test_similarity_is_the_cosine_and_has_no_square_that_half_precision_cannot_hold() -> None:
    torch.manual_seed(0)
    one, other = (300 * torch.rand(2, 1024, 3, 3) for _ in range(2))
    exact = torch.cosine_similarity(one, other, dim=1)[:, None]
    torch.testing.assert_close(similarity(one, other), exact)
    a, b = one.half(), other.half()
    a, b = (x / x.abs().amax(1, keepdim=True) for x in (a, b))  # as the half graph does it
    assert float(a.square().sum(1).max()) < 65504
    torch.testing.assert_close(similarity(one.half(), other.half()).float(), exact, rtol=0, atol=2e-3)
    assert torch.equal(similarity(torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("guided", [True, False])
def test_compared_features_are_those_before_the_injection(guided: bool) -> None:
    torch.manual_seed(0)
    decoder = InjectedDecoder(BACKBONES["resnet18"], guided=guided).eval()
    code = torch.rand(1, 512, 2, 2)
    one, other = (tuple(torch.rand(1, c, n, n) for c, n in ((64, 16), (128, 8), (256, 4))) for _ in range(2))
    with torch.no_grad():
        a, b = decoder(code, one), decoder(code, other)
    assert torch.equal(a[2], b[2])  # nothing is injected before the coarsest
    assert not torch.equal(a[1], b[1])
    assert (decoder.inject3.guide is not None) == guided
