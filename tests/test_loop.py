"""The training loop: learning rate, exact resume, refusals, precision."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NARROW
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from dskd.runtime.errors import CallError, DskdError
from dskd.train import loop
from dskd.train.checkpoint import CHECKPOINT, MODEL, lighten, load_checkpoint, save_checkpoint
from dskd.train.config import TrainConfig, load_config
from dskd.train.group import Process
from dskd.train.loop import Curve, learning_rate_factor, new_optimiser, read_curve, train
from dskd.train.methods.base import Method, build
from dskd.train.networks.backbones import BACKBONES

ROOT = Path(__file__).resolve().parents[1]
CPU = Process(torch.device("cpu"))
RUN = {"configuration": "a", "images": "b", "teacher": "c"}
TINY = ["input.height=32", "input.width=64", "recipe.batch=2", "recipe.epochs=2", "recipe.precision=float32", *NARROW]
NARROWER = ["input.width=32"]  # for float16, in which a CPU has no fast convolution
COUNT = 6  # images: 3 steps per epoch, 6 in all
Images = NDArray[np.uint8]


def config(*settings: str) -> TrainConfig:
    return load_config(None, [*TINY, *settings])


def pictures(count: int = COUNT, height: int = 32, width: int = 64) -> Images:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8)


def fresh(settings: TrainConfig) -> Method:
    torch.manual_seed(settings.recipe.seed)
    return build(settings, BACKBONES[settings.backbone].encoder().eval().requires_grad_(False))


def trained(settings: TrainConfig, folder: Path, images: object = None, run: dict[str, str] = RUN) -> Method:
    """A fresh method, trained in ``folder`` to the end, or on from its checkpoint."""
    folder.mkdir(exist_ok=True)
    method = fresh(settings)
    train(method, pictures() if images is None else images, settings, run, folder, CPU)  # type: ignore[arg-type]
    return method


def state_of(method: Method) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


class Killed:
    """Images that end the run when ``after`` of them have been read."""

    def __init__(self, images: Images, after: int) -> None:
        self.images, self.left = images, after

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Images:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.images[index]


def curve_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# Learning rate


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.5), (99, 0.5 * (1 + math.cos(math.pi * 89 / 90)))],
)
def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine(step: int, expected: float) -> None:
    assert learning_rate_factor(step, 100, 0.1) == pytest.approx(expected)


@given(st.integers(1, 500), st.floats(0, 0.99))
def test_the_rate_is_never_zero_nor_over_its_peak_and_rises_only_before_it(steps: int, warm_up: float) -> None:
    factors = [learning_rate_factor(step, steps, warm_up) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = int(np.argmax(factors))
    assert factors[peak] == 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_the_logged_rate_is_the_schedule_times_the_configured_one(tmp_path: Path) -> None:
    settings = config("recipe.learning_rate=0.002", "recipe.warm_up=0.34", "dskd.students=encoder")
    trained(settings, tmp_path)
    rates = [float(row["learning_rate"]) for row in curve_of(tmp_path)]
    falling = [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    assert rates == pytest.approx([0.001, 0.002, *(0.002 * f for f in falling)])


# Resume


@pytest.mark.parametrize(
    ("precision", "killed_after"),
    [pytest.param("float32", 4, id="float32"), pytest.param("bfloat16", 5, id="bfloat16, after the last checkpoint")],
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, precision: str, killed_after: int) -> None:
    """Killed in the middle of the second epoch; nothing may tell that it happened."""
    settings = config("recipe.checkpoint_every=2", f"recipe.precision={precision}", "augment.pseudo_anomalies=0.5")
    straight = trained(settings, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        trained(settings, tmp_path / "killed", Killed(pictures(), killed_after * 2))
    resumed = trained(settings, tmp_path / "killed")
    assert differing(state_of(resumed), state_of(straight)) == []
    assert differing(state_of(straight), state_of(fresh(settings)))  # it did train
    ends = [load_file(tmp_path / name / "checkpoint.safetensors") for name in ("straight", "killed")]
    assert differing(*ends) == []
    curves = [curve_of(tmp_path / name) for name in ("straight", "killed")]
    kept = [[{k: v for k, v in row.items() if k != "seconds"} for row in curve] for curve in curves]
    assert kept[0] == kept[1]
    assert [row["step"] for row in kept[0]] == [str(step) for step in range(6)]


def test_slow_steps_are_kept_before_their_number_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "UNSAVED", 0.0)
    with pytest.raises(KeyboardInterrupt):
        trained(config("recipe.checkpoint_every=1000"), tmp_path, Killed(pictures(), 3 * 2))
    resumed = fresh(config())
    first_step, _ = load_checkpoint(tmp_path / CHECKPOINT, resumed, new_optimiser(resumed, config().recipe), RUN)
    assert first_step > 0


@pytest.mark.parametrize("name", ["rdpp", "urd", "stfpm"])
def test_draws_phases_and_momentum_go_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Two optimiser steps of gradients from two parts each; killed between them."""
    settings = config(
        f"method={name}", "recipe.checkpoint_every=1", "recipe.epochs=1", "recipe.accumulate=2", "recipe.batch=2",
        *(["rdpp.transport=pairwise", "rdpp.positions=4"] if name == "rdpp" else []),
    )  # fmt: skip
    images = pictures(8, 64, 64)
    straight = trained(settings, tmp_path / "straight", images)
    with pytest.raises(KeyboardInterrupt):
        trained(settings, tmp_path / "killed", Killed(images, 4))
    resumed = trained(settings, tmp_path / "killed", images)
    assert differing(state_of(resumed), state_of(straight)) == []
    assert len(curve_of(tmp_path / "straight")) == 2
    assert differing(state_of(straight), state_of(fresh(settings)))  # it did train


def test_gradients_of_several_parts_add_up(tmp_path: Path) -> None:
    """Without BatchNorm's view of a batch, two parts of two make the step of one whole, twice as large."""
    steps = {}
    for parts in (1, 2):
        settings = config(
            "method=stfpm", f"recipe.accumulate={parts}", f"recipe.batch={4 // parts}", "recipe.epochs=1",
            "recipe.learning_rate=0.001", "recipe.weight_decay=0",
        )  # fmt: skip
        method = fresh(settings)
        for part in method.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = 0.0
                part.train = lambda mode=True, part=part: part  # type: ignore[method-assign, misc]
                part.training = False
        before = {name: p.detach().clone() for name, p in method.encoder_student.named_parameters()}  # type: ignore[union-attr]
        train(method, pictures(4), settings, RUN, _made(tmp_path / str(parts)), CPU)
        after = dict(method.encoder_student.named_parameters())  # type: ignore[union-attr]
        steps[parts] = torch.cat([(after[name] - before[name]).flatten() for name in before]).detach()
        assert len(curve_of(tmp_path / str(parts))) == 1
    torch.testing.assert_close(steps[2], 2 * steps[1], rtol=1e-2, atol=1e-6)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_constant_rate_stays_and_sgd_has_momentum_and_decay() -> None:
    factors = [learning_rate_factor(step, 100, 0.1, falls=False) for step in range(100)]
    assert factors[10:] == [1.0] * 90
    assert factors[0] == 0.1
    settings = config("method=stfpm")
    optimiser = new_optimiser(fresh(settings), settings.recipe)
    group = optimiser.param_groups[0]
    assert isinstance(optimiser, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.4, 0.9, 1e-4)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    settings = config("dskd.students=encoder")
    first = state_of(trained(settings, tmp_path))
    again = trained(settings, tmp_path, Killed(pictures(), 0))  # reading any image would end it
    assert differing(state_of(again), first) == []
    assert len(curve_of(tmp_path)) == 6


def test_a_finished_run_keeps_no_checkpoint_and_still_knows_that_it_is_trained(tmp_path: Path) -> None:
    settings = config("dskd.students=encoder", "recipe.epochs=1")
    first = state_of(trained(settings, tmp_path))
    save_file(
        {**{name: tensor.contiguous() for name, tensor in first.items()}, "maps.of.the.run": torch.zeros(3)},
        tmp_path / MODEL,
    )
    freed = lighten(tmp_path / CHECKPOINT)
    assert (tmp_path / CHECKPOINT).stat().st_size < 2000 < freed
    again = trained(settings, tmp_path, Killed(pictures(), 0))  # reading any image would end it
    assert differing(state_of(again), first) == []
    with pytest.raises(CallError, match="belongs to another images"):
        trained(settings, tmp_path, run={**RUN, "images": "other"})
    (tmp_path / MODEL).unlink()
    with pytest.raises(DskdError, match=r"model.safetensors: cannot be read"):
        trained(settings, tmp_path)


def test_float16_scales_its_loss_and_goes_on_with_the_same_scale(tmp_path: Path) -> None:
    settings = config("recipe.checkpoint_every=2", "recipe.precision=float16", "dskd.students=encoder", *NARROWER)
    images = pictures(width=32)
    straight = trained(settings, tmp_path / "straight", images)
    with pytest.raises(KeyboardInterrupt):
        trained(settings, tmp_path / "killed", Killed(images, 6))
    assert differing(state_of(trained(settings, tmp_path / "killed", images)), state_of(straight)) == []


@pytest.mark.parametrize("key", RUN)
def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path: Path, key: str) -> None:
    settings = config("dskd.students=encoder", "recipe.epochs=1")
    trained(settings, tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(CallError, match=f"belongs to another {key}"):
        trained(settings, tmp_path, run={**RUN, key: "other"})
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    settings = config("dskd.students=encoder", "recipe.epochs=1")
    trained(settings, tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no tensors" * 99}[damage])
    with pytest.raises(DskdError, match=r"checkpoint.safetensors: cannot be read"):
        trained(settings, tmp_path)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    small, large = torch.nn.Linear(2, 3), torch.nn.Linear(2, 4)
    save_checkpoint(tmp_path / "c", small, torch.optim.Adam(small.parameters()), 1, {}, RUN)
    with pytest.raises(DskdError, match="does not fit this configuration"):
        load_checkpoint(tmp_path / "c", large, torch.optim.Adam(large.parameters()), RUN)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("", []), ("st", []), ("step,seconds", []), ("step,loss\r\n0,3\r\n1,2", ["0"]), ("step,loss\r\n0,3\r\n", ["0"])],
)
def test_a_log_is_read_at_any_moment_of_writing(tmp_path: Path, text: str, steps: list[str]) -> None:
    (tmp_path / "log.csv").write_bytes(text.encode())
    assert [row["step"] for row in read_curve(tmp_path / "log.csv")] == steps


def test_rows_after_the_checkpoint_and_cut_rows_leave_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("step,seconds,loss\n0,0.1,3\n1,0.2,2\n2,0.3,1\n3,0.")
    assert [row["step"] for row in read_curve(log)] == ["0", "1", "2"]
    curve = Curve(log, 2, 4)
    curve.add(2, {"loss": 9.0})
    curve.close()
    assert [(row["step"], row["loss"]) for row in read_curve(log)] == [("0", "3"), ("1", "2"), ("2", "9.0")]


# Divergence and precision


def poisoned(settings: TrainConfig, value: float) -> Method:
    method = fresh(settings)
    with torch.no_grad():
        method.decoder.stage1[0].conv1.weight[0, 0, 0, 0] = value  # type: ignore[union-attr, index]
    return method


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_a_loss_that_is_no_number_ends_the_run_in_words(tmp_path: Path, value: float) -> None:
    settings = config("dskd.students=decoder")
    with pytest.raises(DskdError, match=r"diverged at step 0 .*lower recipe\.learning_rate"):
        train(poisoned(settings, value), pictures(), settings, RUN, tmp_path, CPU)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_learning_rate_far_too_high_ends_the_run_in_words(tmp_path: Path) -> None:
    settings = config(
        "recipe.learning_rate=1e30",
        "loss.l2_decoder=0.1",
        "recipe.epochs=4",
        "recipe.warm_up=0",
        "dskd.students=decoder",
    )
    with pytest.raises(DskdError, match="diverged"):
        trained(settings, tmp_path)


def test_a_last_step_that_ruins_the_weights_leaves_no_checkpoint(tmp_path: Path) -> None:
    """The loss of the last step is finite, the weights after it are not."""
    settings = config("recipe.epochs=1", "recipe.batch=6", "recipe.clip=0")
    method = fresh(settings)
    ruin = method.decoder.stage1[0].conv1.weight  # type: ignore[union-attr, index]
    ruin.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(DskdError, match="diverged"):
        train(method, pictures(), settings, RUN, tmp_path, CPU)
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_every_precision_trains_float32_weights_and_lowers_the_loss(tmp_path: Path, precision: str) -> None:
    settings = config(
        f"recipe.precision={precision}",
        "recipe.epochs=6",
        "recipe.learning_rate=0.001",
        "augment.pseudo_anomalies=0",
        "dskd.students=encoder",
        *NARROWER,
    )
    method = trained(settings, tmp_path, pictures(width=32))
    assert {p.dtype for p in method.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in method.parameters())
    losses = [float(row["encoder_student"]) for row in curve_of(tmp_path)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_precisions_are_really_different(tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        trained(
            config(f"recipe.precision={precision}", "recipe.epochs=1", "dskd.students=decoder"), tmp_path / precision
        )
        losses[precision] = float(curve_of(tmp_path / precision)[0]["decoder_student"])
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.05)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    norms = {}
    for clip in (0.0, 1e-3):
        settings = config(f"recipe.clip={clip}", "recipe.epochs=1", "recipe.batch=6", "dskd.students=decoder")
        method = trained(settings, tmp_path / str(clip))
        grads = [p.grad for group in method.parameter_groups() for p in group["params"]]  # type: ignore[attr-defined]
        norms[clip] = float(torch.stack([g.norm() for g in grads]).norm())
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[0.0] > 1e-2
