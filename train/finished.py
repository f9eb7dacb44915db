"""Whether a folder holds the finished run that is asked for."""

from __future__ import annotations

from pathlib import Path

from dskd.runtime.errors import CallError
from dskd.train.config import TrainConfig
from dskd.train.data import InspectionSet, data_sha256
from dskd.train.fixture import as_found, settle_fixture
from dskd.train.map_choice import as_decided
from dskd.train.networks.backbones import BACKBONES
from dskd.train.products import split_products
from dskd.train.shape import settle_input
from dskd.train.trained_run import TrainedRun, load_run
from dskd.train.weights import load_teacher


def finished(
    folder: Path, config: TrainConfig, images: InspectionSet, teacher_weights: str | None, strict: bool = True
) -> TrainedRun | None:
    """The run in ``folder`` if it is complete and of exactly this configuration, these training images and this teacher."""
    try:
        done = load_run(folder)
    except CallError:
        return None
    config, _ = settle_input(settle_fixture(as_found(config, done.config), images)[0], images)
    config = as_decided(config, done.config)
    training = [path for part, _ in split_products(images, config, strict) for path in part]
    _, _, teacher = load_teacher(BACKBONES[config.backbone], teacher_weights)
    found = (done.config, done.record["training_data_sha256"], done.record["teacher_weights_sha256"])
    return done if found == (config, data_sha256(training), teacher) else None
