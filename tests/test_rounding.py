"""Training with rounding: what a rounded convolution computes, that gradients pass, that nothing of it stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dskd.runtime.errors import CallError
from dskd.train.data import find_images
from dskd.train.networks.rounding import rounding
from dskd.train.run import run
from dskd.train.trained_run import TrainedRun, load_run


def path() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ConvTranspose2d(5, 2, 2, 2))


def to_steps(values: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    return torch.round(values * 127 / largest) * largest / 127


def test_inputs_and_weights_are_rounded_but_those_of_the_first() -> None:
    network, image = path(), torch.randn(2, 3, 9, 9)
    first, _, second, last = network
    with torch.no_grad():
        x = torch.relu(first(image))
        weight = to_steps(second.weight, second.weight.abs().amax((1, 2, 3), keepdim=True))
        x = nn.functional.conv2d(to_steps(x, x.abs().max()), weight, second.bias)
        weight = to_steps(last.weight, last.weight.abs().amax((0, 2, 3), keepdim=True))
        expected = nn.functional.conv_transpose2d(to_steps(x, x.abs().max()), weight, last.bias, stride=2)
        plain = network(image)
        with rounding(network, first=network[0]):
            found = network(image)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert float((found - plain).abs().max()) > 1e-4


def test_gradients_pass_and_everything_is_as_before_afterwards() -> None:
    network, image = path(), torch.randn(2, 3, 9, 9)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with rounding(network, first=network[0]):
        network(image).square().sum().backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        assert all(gradient is not None and float(gradient.abs().sum()) > 0 for gradient in gradients)
        with torch.no_grad():
            network[2].parametrizations.weight.original += 1  # type: ignore[union-attr, operator]
    assert set(network.state_dict()) == set(before)
    torch.testing.assert_close(network[2].weight, before["2.weight"] + 1)
    assert not network[2]._forward_pre_hooks


def test_zeros_stay_zeros() -> None:
    network = path()
    with rounding(network, first=network[0]), torch.no_grad():
        network[2].bias.zero_()
        assert not network[2](torch.zeros(1, 4, 5, 5)).any()


def test_a_finished_run_is_tuned_with_rounding(trained_run: TrainedRun, small_set: Path, tmp_path: Path) -> None:
    settings = {"start": str(trained_run.folder), "rounded": True, "epochs": 1, "learning_rate": 1e-5}
    recipe = trained_run.config.recipe.model_copy(update=settings)
    config = trained_run.config.model_copy(update={"recipe": recipe})
    run(config, find_images(small_set), "random", tmp_path / "tuned", "cpu", True)
    tuned = load_run(tmp_path / "tuned")
    before, after = trained_run.method.state_dict(), tuned.method.state_dict()
    assert list(after) == list(before)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("decoder.") for name in moved)
    assert not any(name.startswith("teacher.") for name in moved)
    largest = max(float((after[n] - before[n]).abs().max()) for n in moved if n.endswith("weight"))
    assert largest < 0.01  # a low rate from where the finished run stands, not from scratch


def test_a_start_that_is_no_run_is_refused(trained_run: TrainedRun, small_set: Path, tmp_path: Path) -> None:
    recipe = trained_run.config.recipe.model_copy(update={"start": str(tmp_path / "nothing")})
    config = trained_run.config.model_copy(update={"recipe": recipe})
    with pytest.raises(CallError, match="holds no finished training run"):
        run(config, find_images(small_set), "random", tmp_path / "tuned", "cpu", True)
