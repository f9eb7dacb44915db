"""Runs that a benchmark needs: read back where they are finished, else trained, or gone on with where one was killed."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import CallError
from train.config import TrainConfig
from train.data import InspectionSet, data_sha256
from train.networks.resnet import BACKBONES
from train.products import split_products
from train.run import TrainedRun, load_run, run
from train.weights import load_teacher


def trained(
    folder: Path, config: TrainConfig, images: InspectionSet, teacher_weights: str | None, device: str
) -> TrainedRun:
    """The finished run of exactly this configuration, these training images and this teacher."""
    found = finished(folder, config, images, teacher_weights)
    if found is None:
        run(config, images, teacher_weights, folder, device, strict=True)
        found = load_run(folder)
    return found


def finished(
    folder: Path, config: TrainConfig, images: InspectionSet, teacher_weights: str | None
) -> TrainedRun | None:
    """The run in ``folder`` if it is complete and the one asked for."""
    try:
        done = load_run(folder)
    except CallError:
        return None
    training = [path for part, _ in split_products(images, config, strict=True) for path in part]
    _, _, teacher = load_teacher(BACKBONES[config.backbone], teacher_weights)
    same = (config, data_sha256(training), teacher)
    return (
        done
        if (done.config, done.record["training_data_sha256"], done.record["teacher_weights_sha256"]) == same
        else None
    )
