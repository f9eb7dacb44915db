"""The training loop: mixed precision, data parallel, checkpoint and exact resume."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dskd.runtime import atomic
from dskd.runtime.errors import DskdError
from dskd.runtime.result import Image
from dskd.train.batches import Schedule, batches
from dskd.train.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from dskd.train.config import TrainConfig
from dskd.train.group import Process, agree, lost
from dskd.train.methods.base import Method
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.image_input import ImageInput
from dskd.train.progress import duration, gone, progress, to_come
from dskd.train.settings import RecipeConfig

log = logging.getLogger(__name__)
BETAS = (0.5, 0.999)  # RD4AD's: a short memory of gradients suits targets that are features
MOMENTUM = 0.9  # STFPM's
UNSAVED = 60.0  # seconds of work that a kill may cost, where steps are slow
FEW = 20  # steps after which, if there are twice as many, the time for all of them is told


def learning_rate_factor(step: int, steps: int, warm_up: float, falls: bool = True) -> float:
    """Linear rise over the first ``warm_up`` share of the steps, then half a cosine down to 0 if it ``falls``."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    if not falls:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def autocast_type(recipe: RecipeConfig, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision, None for plain float32."""
    if recipe.precision != "auto":
        return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[recipe.precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    capable = (
        torch.backends.cpu.get_cpu_capability().startswith("AVX512") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return torch.bfloat16 if capable else None


def schedule_of(images: int, config: TrainConfig, process: Process, products: Sequence[int] = ()) -> Schedule:
    """Which pictures each step takes, and how many steps there are."""
    recipe = config.recipe
    drawn = recipe.batch * recipe.accumulate
    return Schedule(images, drawn, recipe.epochs, recipe.seed, process.rank, process.world, products)


def plan(config: TrainConfig, schedule: Schedule, held_out: int, device: torch.device) -> str:
    """What will be done, in one line, before anybody waits for it."""
    recipe = config.recipe
    return (
        f"plan: {schedule.count} pictures to train on, {held_out} held out, {config.input.width} x {config.input.height} "
        f"pixels, {config.method} with {config.backbone} on {device.type}, {recipe.epochs} epochs: {schedule.steps} steps"
    )


def forecast(training: float) -> str:
    """How long it takes in all, where training takes so many seconds more."""
    return (
        f"about {duration(gone() + training + to_come())} in all: {duration(gone())} gone, {duration(training)} more for "
        f"training, {duration(to_come())} for the map, thresholds and the report"
    )


def train(
    method: Method,
    images: Image,
    config: TrainConfig,
    run: dict[str, str],
    folder: Path,
    process: Process,
    products: Sequence[int] = (),
) -> None:
    """Trains ``method`` on ``images`` [N, H, W, 3]; goes on from ``folder``'s checkpoint where there is one.

    ``products`` counts the images of each product, in order, where there are several.
    """
    recipe, device = config.recipe, process.device
    method.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    to_input = ImageInput(BACKBONES[config.backbone]).to(device)
    optimiser = new_optimiser(method, recipe)
    peaks = [float(group["lr"]) for group in optimiser.param_groups]
    schedule = schedule_of(len(images), config, process, products)
    half = autocast_type(recipe, device)
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        schedule.first_step, scaling = load_checkpoint(checkpoint, method, optimiser, run)
        if scaler.is_enabled():
            scaler.load_state_dict(scaling)
        log.info("going on from step %d of %d", schedule.first_step, schedule.steps)
    agree(process, {**run, "checkpoint": str(schedule.first_step)})
    step_module: nn.Module = method
    if process.world > 1:
        step_module = DistributedDataParallel(method, find_unused_parameters=method.phases > 1)
    curve = Curve(folder / "log.csv", schedule.first_step, schedule.steps_per_epoch) if process.first else None
    workers = min(8, (os.cpu_count() or 2) // 2) if device.type == "cuda" else 0
    loader = batches(images, config.augment, schedule, workers, config.data.turned)
    bar = progress(loader, initial=schedule.first_step, total=schedule.steps, desc="training", unit="step")
    pace = _Pace(schedule.first_step, schedule.steps)
    saved = time.monotonic()
    for step, (clean, seen) in enumerate(bar, schedule.first_step):
        factor = learning_rate_factor(step, schedule.steps, recipe.warm_up, recipe.schedule == "cosine")
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        inputs = [to_input(x.to(device)).contiguous(memory_format=torch.channels_last) for x in (clean, seen)]
        torch.manual_seed(int(np.random.SeedSequence([recipe.seed, step, process.rank]).generate_state(1)[0]))
        terms: dict[str, Tensor] = {}
        for phase in range(method.phases):
            more = (phase,) if method.phases > 1 else ()
            with lost():
                terms |= _update(step_module, inputs, more, optimiser, scaler, half, recipe, step)
        if process.first:
            pace.note(step)
        if curve:
            values = {name: term.item() for name, term in terms.items()}
            curve.add(step, {"learning_rate": optimiser.param_groups[0]["lr"], **values})
            bar.set_postfix(loss=f"{sum(values.values()):.3f}", refresh=False)
        done = step + 1
        due = done % recipe.checkpoint_every == 0 or time.monotonic() - saved > UNSAVED
        if process.first and (due or done == schedule.steps):
            if not all(torch.isfinite(p).all() for p in method.parameters()):
                raise DskdError(f"training diverged at step {step} (weights); lower recipe.learning_rate")
            save_checkpoint(checkpoint, method, optimiser, done, scaler.state_dict(), run)
            saved = time.monotonic()
    if curve:
        curve.close()


class _Pace:
    """Tells once, after a few steps from ``first`` on, how long all of it takes."""

    def __init__(self, first: int, steps: int) -> None:
        self._first, self._steps, self._few = first, steps, min(FEW, (steps - first) // 2)
        self._begun = 0.0

    def note(self, step: int) -> None:
        """``step`` is done."""
        if step == self._first:
            self._begun = time.monotonic()  # the first step is slower
        elif step == self._first + self._few:
            log.info("%s", forecast((time.monotonic() - self._begun) / self._few * (self._steps - step - 1)))


def new_optimiser(method: Method, recipe: RecipeConfig) -> torch.optim.Optimizer:
    """Over the method's parameter groups."""
    groups: Any = method.parameter_groups()
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, betas=BETAS, weight_decay=recipe.weight_decay)


def _update(
    module: nn.Module,
    inputs: list[Tensor],
    phase: tuple[int, ...],
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    half: torch.dtype | None,
    recipe: RecipeConfig,
    step: int,
) -> dict[str, Tensor]:
    """One step of the optimiser; returns the loss terms. Raises DskdError where the loss is no number.

    Gradients of ``recipe.accumulate`` parts of the batch are added up; parameters without one stay as they are.
    """
    optimiser.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    parts = list(zip(*(x.chunk(recipe.accumulate) for x in inputs), strict=True))
    for part in parts:
        with torch.autocast(inputs[0].device.type, half) if half else nullcontext():
            terms: dict[str, Tensor] = module(*part, *phase)
            loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise DskdError(f"training diverged at step {step} (loss {loss.item()}); lower recipe.learning_rate")
        scaler.scale(loss).backward()
        sums = {name: sums.get(name, 0.0) + term.detach() / len(parts) for name, term in terms.items()}
    if recipe.clip:
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], recipe.clip)
    scaler.step(optimiser)
    scaler.update()
    return sums


class Curve:
    """``log.csv``: one row per step. Rows that a killed run wrote after its last checkpoint are taken out.

    With ``--verbose`` the last row of each epoch is told too.
    """

    def __init__(self, path: Path, first_step: int, steps_per_epoch: int) -> None:
        self._steps_per_epoch = steps_per_epoch
        rows = read_curve(path) if path.exists() else []
        kept = [row for row in rows if int(row["step"]) < first_step]
        self._columns = list(kept[0]) if kept else None
        text = io.StringIO()
        if self._columns:
            writer = csv.DictWriter(text, self._columns)
            writer.writeheader()
            writer.writerows(kept)
        atomic.write_text(path, text.getvalue())
        self._file = path.open("a", newline="")
        self._start = time.time() - (float(kept[-1]["seconds"]) if kept else 0.0)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Appends a row; ``seconds`` of training, those before a kill included."""
        row = {"step": step, "seconds": round(time.time() - self._start, 3), **values}
        writer = csv.DictWriter(self._file, list(row))
        if self._columns is None:
            writer.writeheader()
            self._columns = list(row)
        writer.writerow(row)
        self._file.flush()
        epoch, rest = divmod(step + 1, self._steps_per_epoch)
        if rest == 0:
            log.debug("epoch %d: %s", epoch, ", ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_curve(path: Path) -> list[dict[str, str]]:
    """Rows of a log, without a last one that is not whole: cut by a crash, or still being written."""
    whole = path.read_text().rpartition("\n")[0]
    rows = csv.DictReader(io.StringIO(whole))
    return [row for row in rows if None not in row.values() and row.get("step", "").isdigit()]
