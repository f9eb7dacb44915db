"""Runs that a benchmark needs: read back where they are finished, else trained, or gone on with where one was killed."""

from __future__ import annotations

from pathlib import Path

from dskd.train.config import TrainConfig
from dskd.train.data import InspectionSet
from dskd.train.finished import finished
from dskd.train.run import run
from dskd.train.trained_run import TrainedRun, load_run


def trained(
    folder: Path, config: TrainConfig, images: InspectionSet, teacher_weights: str | None, device: str
) -> TrainedRun:
    """The finished run of exactly this configuration, these training images and this teacher."""
    found = finished(folder, config, images, teacher_weights)
    if found is None:
        run(config, images, teacher_weights, folder, device, strict=True)
        found = load_run(folder)
    return found
