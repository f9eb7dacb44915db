"""What would fail after hours of training fails before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import SMALL

from dskd.runtime.errors import CallError
from dskd.train.config import load_config
from dskd.train.data import find_images
from dskd.train.methods.base import Features, build
from dskd.train.methods.rd import DecoderPath, ReverseDistillation
from dskd.train.networks.backbones import BACKBONES
from dskd.train.rehearsal import rehearse
from dskd.train.run import run

TINY = [*SMALL, "embedding.width=0.125", "decoder.width=0.125"]


class Misnamed(ReverseDistillation):
    def readings(self) -> tuple[str, ...]:
        return ("My path",)


class TooCoarse(DecoderPath):
    def forward(self, image: torch.Tensor) -> tuple[Features, Features]:
        features, rebuilt = super().forward(image)
        return features, (rebuilt[0][:, :7], *rebuilt[1:])


class Unfinished(ReverseDistillation):
    def inference_path(self, reading: str) -> DecoderPath:
        return TooCoarse(self.teacher, self.embedding, self.decoder)


@pytest.fixture(
    params=[(Misnamed, r"'My path' needs a name of small letters"), (Unfinished, r"'teacher' gives no map")]
)
def wrong(request: pytest.FixtureRequest) -> Iterator[str]:
    method, said = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReverseDistillation, "of", classmethod(lambda _, *given: method(*given)))
        yield said


def test_a_method_that_cannot_be_finished_is_refused_before_its_first_step(
    wrong: str, pictures: Path, tmp_path: Path
) -> None:
    config = load_config(None, [*TINY, "method=rd"])
    with pytest.raises(CallError, match=wrong):
        run(config, find_images(pictures), "random", tmp_path, "cpu", strict=True)
    assert not (tmp_path / "log.csv").exists()


def test_a_rehearsal_changes_nothing_of_what_is_trained() -> None:
    config = load_config(None, TINY)
    torch.manual_seed(0)
    method = build(config, BACKBONES["resnet18"].encoder().requires_grad_(False)).train()
    before, random = {n: t.clone() for n, t in method.state_dict().items()}, torch.random.get_rng_state()
    inputs = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8).numpy()
    torch.random.set_rng_state(random)
    rehearse(config, method, inputs, torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert method.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
