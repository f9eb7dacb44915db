"""One training run and the folder it leaves: config.yaml, model.safetensors, run.json, log.csv, report.html."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from dskd.runtime import atomic
from dskd.runtime.bundle.loading import file_sha256
from dskd.runtime.errors import CallError
from dskd.runtime.result import Image
from dskd.train import data, loop
from dskd.train.checkpoint import MODEL, load_model
from dskd.train.config import TrainConfig
from dskd.train.fixture import settle_fixture
from dskd.train.forecast import after_training
from dskd.train.group import Process, join_processes
from dskd.train.local_statistics import fit_map
from dskd.train.map_choice import settle_map
from dskd.train.methods.base import Method, build
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.rounding import rounding
from dskd.train.products import split_products
from dskd.train.progress import enter, expect
from dskd.train.rehearsal import rehearse
from dskd.train.results import finish
from dskd.train.shape import settle_input
from dskd.train.trained_run import build_maps, graph_of, load_run
from dskd.train.turn_choice import settle_turned
from dskd.train.turned import Copies
from dskd.train.weights import load_teacher

log = logging.getLogger(__name__)
AFTER_TRAINING = {"map", "thresholds"}  # settings that can change without training again
FOR_UNITS = 8  # frames whose tiles say how far the distances of good ones spread
PACKAGES = ("dskd-edge", "torch", "numpy", "opencv-python", "opencv-python-headless", "onnx", "onnxruntime", "onnxsim")


def run(
    config: TrainConfig,
    images: data.InspectionSet,
    teacher_weights: str | None,
    folder: Path,
    device: str,
    strict: bool,
) -> dict[str, object]:
    """Trains, sets thresholds, evaluates every reading where there are labelled images, writes the report.

    Returns the record that is also written to ``run.json``.
    """
    process = join_processes(device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallError(f"--out {folder}: cannot be made ({error.strerror}); name a folder to write to") from error
    with atomic.sole_writer(folder) if process.first else nullcontext():
        if process.first:
            atomic.clear_leftovers(folder)
        return _run(config, images, teacher_weights, folder, process, strict)


def _run(
    config: TrainConfig,
    images: data.InspectionSet,
    teacher_weights: str | None,
    folder: Path,
    process: Process,
    strict: bool,
) -> dict[str, object]:
    config, fixture = settle_fixture(config, images)
    log.info("fixture %s", fixture)
    config, shape = settle_input(config, images)
    log.info("input %s", shape)
    torch.manual_seed(config.recipe.seed)
    teacher, weights_name, weights_sha256 = load_teacher(BACKBONES[config.backbone], teacher_weights)
    method = build(config, teacher)
    splits = split_products(images, config, strict)
    config, copies = settle_turned(config, teacher, [path for pair in splits for part in pair for path in part])
    log.info("turned copies %s", copies)
    training = [path for part, _ in splits for path in part]
    digests = [file_sha256(path) for path in training]
    belongs = {
        "configuration": hashlib.sha256(config.model_dump_json(exclude=AFTER_TRAINING).encode()).hexdigest(),
        "images": data.combined_sha256(digests),
        "teacher": weights_sha256,
        "number of processes": str(process.world),
    }
    if config.recipe.start:
        belongs["start"] = _start_from(Path(config.recipe.start), method)
    prepared = folder / f"prepared-{process.rank}.npy"
    counts = data.count_inputs(training, config.input)
    inputs = data.prepare_inputs(training, counts, config.input, prepared)
    if process.first and data.all_alike(inputs):
        log.warning("all good pictures look the same: thresholds learned from them mean nothing; take more parts")
    seconds = rehearse(config, method.to(process.device), inputs, process.device)
    path = method.inference_path(next(iter(method.readings())))
    parts = [len(part) for part, _ in splits]
    shares = np.add.reduceat(counts, np.cumsum([0, *parts[:-1]])).tolist()  # network inputs of each product
    held_out = [path for _, part in splits for path in part]
    if process.first:
        schedule = loop.schedule_of(len(inputs), config, process, shares)
        log.info("%s", loop.plan(config, schedule, len(held_out), process.device))
        seen, tiles = len(Copies(inputs, config.data.turned)), len(inputs) / len(training)
        expect(after_training(config, list(method.readings()), seen, len(held_out), len(images.test), tiles, seconds))
    enter("training")
    with rounding(path, method.teacher.first) if config.recipe.rounded else nullcontext():
        loop.train(method, inputs, config, belongs, folder, process, shares)
    if process.world > 1:
        dist.destroy_process_group()
    enter("the map")
    maps, reason = build_maps(config, method), ""
    if process.first:
        config, maps, reason = _learn_maps(config, method, inputs, held_out, process.device)
    del inputs
    prepared.unlink()
    prepared.with_suffix(".json").unlink()
    record: dict[str, object] = {}
    if process.first:
        record = {
            "name": images.name,
            "minutes": round(float(loop.read_curve(folder / "log.csv")[-1]["seconds"]) / 60, 1),
            "data": [str(part.resolve()) for part in images.folders]
            if images.products
            else str(images.folder.resolve()),
            "training_images": len(training),
            "training": [str(path.resolve()) for path in training],
            "training_sha256": digests,
            "training_data_sha256": belongs["images"],
            "held_out": [str(path.resolve()) for path in held_out],
            "held_out_sha256": [file_sha256(path) for path in held_out],
            "choices": {"fixture": fixture, "input": shape, "turned copies": copies, "map": reason},
            "teacher_weights": weights_name,
            "teacher_weights_sha256": weights_sha256,
            "versions": versions(),
        }
        finish(config, method, maps, images, [part for _, part in splits], folder, process.device, record)
    return record


def _learn_maps(
    config: TrainConfig, method: Method, inputs: Image, held_out: list[Path], device: torch.device
) -> tuple[TrainConfig, nn.ModuleDict, str]:
    """The configuration with its map decided, the maps with what they learn from good pictures, and why this map."""
    default, *others = method.readings()
    looks = Copies(inputs, config.data.turned)
    settled = settle_map(config, graph_of(method, build_maps(config, method), default), looks, held_out, device)
    config, maps = settled.config, build_maps(settled.config, method)
    tiles = [data.read_tiles(path, config.input) for path in held_out[: FOR_UNITS if config.input.tiling else None]]
    seen = np.concatenate(tiles)
    fit_map(graph_of(method, maps, default), looks, seen, config.map.ridge, device, settled.learnt)
    for reading in others:
        fit_map(graph_of(method, maps, reading), looks, seen, config.map.ridge, device)
    return config, maps, settled.reason


def _start_from(folder: Path, method: Method) -> str:
    """Gives ``method`` the weights of a finished run; returns the sha256 of their file."""
    started = load_run(folder)
    load_model(folder / MODEL, method, started.method.state_dict())
    return str(started.record["model_sha256"])


def point_latest(folder: Path) -> None:
    """Makes ``latest`` beside the run lead to it, in one step, and says so where it led elsewhere."""
    folder = folder.resolve()
    link = folder.parent / "latest"
    if link == folder or (link.exists() and not link.is_symlink()):
        log.warning("%s is no link and stays as it is; name the run with --run", link)
        return
    before = link.resolve() if link.is_symlink() else folder
    temporary = folder.parent / f".latest.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    os.replace(temporary, link)
    if before != folder:
        shown = Path(os.path.relpath(link))
        log.info("%s leads to %s now, before it led to %s", shown, folder.name, before.name)


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
