"""Convolutions that round to eight bits while they are trained, as the INT8 graph of the same network will.

With it the students learn against the teacher that will run: what rounding does to its features becomes part of what is
normal, and what it does to the students is trained away (quantisation-aware training, Jacob et al. 2018, applied to
both sides of a distillation). Weights get a step per output channel, inputs one per tensor from their largest value;
the gradient passes rounding as if it were not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.utils import parametrize

LEVELS = 127
SMALLEST = 1e-12  # a step for what is all zeros
Convolution = (nn.Conv2d, nn.ConvTranspose2d)


@contextmanager
def rounding(path: nn.Module, first: nn.Module) -> Iterator[None]:
    """Inside, every convolution of an inference path but its ``first`` rounds; afterwards all is as before.

    The first one stays in half precision in INT8 graphs too: its few channels cost little and its noise goes everywhere.
    """
    chosen = [part for part in path.modules() if isinstance(part, Convolution) and part is not first]
    hooks = []
    for convolution in chosen:
        channel = 1 if isinstance(convolution, nn.ConvTranspose2d) else 0
        parametrize.register_parametrization(convolution, "weight", _RoundedWeight(channel))
        hooks.append(convolution.register_forward_pre_hook(_round_input))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for convolution in chosen:
            parametrize.remove_parametrizations(convolution, "weight", leave_parametrized=False)


class _RoundedWeight(nn.Module):
    """Weights [..] in steps of their own for each output channel."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self._others = [axis for axis in range(4) if axis != channel]

    def forward(self, weight: Tensor) -> Tensor:
        return _rounded(weight, weight.detach().abs().amax(self._others, keepdim=True))


def _round_input(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (_rounded(inputs[0], inputs[0].detach().abs().amax()),)


def _rounded(values: Tensor, largest: Tensor) -> Tensor:
    step = largest.float().clamp_min(SMALLEST) / LEVELS
    steps = (values.detach().float() / step).round() * step
    return values + (steps.to(values.dtype) - values).detach()
