"""The state of a run in one safetensors file, so that it is replaced whole or not at all. No pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from dskd.runtime import atomic
from dskd.runtime.errors import CallError, DskdError

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"  # beside the checkpoint, once a run is finished
_MODEL, _OPTIMISER = "model.", "optimiser."


def save_checkpoint(
    path: Path, model: nn.Module, optimiser: Optimizer, step: int, scaler: dict[str, float], run: dict[str, str]
) -> None:
    """Writes model, optimiser, step and the loss scaler's state. ``run`` says what the state belongs to (configuration and data hashes)."""
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"step": str(step), "scaler": json.dumps(scaler), "run": json.dumps(run)}
    with atomic.replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_checkpoint(
    path: Path, model: nn.Module, optimiser: Optimizer, run: dict[str, str]
) -> tuple[int, dict[str, float]]:
    """Restores model and optimiser; returns the step and the loss scaler's state (empty where none is used).

    Raises CallError where the state belongs to another configuration or other images, DskdError where it is damaged.
    """
    tensors, metadata = read_tensors(path)
    step, scaler, found = _metadata(path, metadata)
    for key, value in run.items():
        if found.get(key) != value:
            raise CallError(
                f"{path}: belongs to another {key}; name another --out, or remove the folder to start again"
            )
    if not tensors:  # of a finished run: nothing is left to be trained
        finished = read_tensors(path.with_name(MODEL))[0]
        known = {name: tensor for name, tensor in finished.items() if name in model.state_dict()}
        load_model(path.with_name(MODEL), model, known)
        return step, scaler
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMISER):
            index, _, key = name.removeprefix(_OPTIMISER).partition(".")
            if not index.isdecimal() or len(index) > 9:
                raise _damaged(path, "names in it")
            state.setdefault(int(index), {})[key] = tensor
    load_model(path, model, {n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)})
    try:
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, "the optimiser's state") from error
    return step, scaler


def lighten(path: Path) -> int:
    """Takes everything out of a finished run's checkpoint but what it belongs to; returns the bytes that were freed.

    The same command then still knows that the run is trained: its weights are those of ``MODEL`` beside it.
    """
    before = path.stat().st_size
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    with atomic.replacing(path) as temporary:
        save_file({}, temporary, metadata)
    return before - path.stat().st_size


def _metadata(path: Path, metadata: dict[str, str]) -> tuple[int, dict[str, float], dict[str, object]]:
    """Step, loss scaler and what the state belongs to. Raises DskdError where they are none."""
    try:
        scaler, run = json.loads(metadata.get("scaler", "{}")), json.loads(metadata.get("run", "{}"))
        step = metadata.get("step", "")
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "what it says of itself") from error
    numbers = isinstance(scaler, dict) and all(type(value) in (int, float) for value in scaler.values())
    if not numbers or not isinstance(run, dict) or not (step.isascii() and step.isdecimal() and len(step) < 16):
        raise _damaged(path, "what it says of itself")
    return int(step), scaler, run


def _damaged(path: Path, what: str) -> DskdError:
    return DskdError(f"{path}: is damaged ({what}); remove the folder and train again")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (
        SafetensorError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise DskdError(f"{path}: cannot be read ({error}); remove the folder and train again") from error


def load_model(path: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Puts ``tensors`` into ``model``. Raises DskdError where names or shapes do not fit."""
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise DskdError(f"{path}: does not fit this configuration ({reason}); train again") from error
