"""A finished training run, read back from the folder that it left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dskd.runtime.bundle.loading import file_sha256
from dskd.runtime.bundle.manifest import Thresholds
from dskd.runtime.errors import CallError, DskdError
from dskd.train.checkpoint import MODEL, load_model, read_tensors
from dskd.train.config import TrainConfig, load_config
from dskd.train.evaluate import EagerGraph
from dskd.train.local_statistics import build_map
from dskd.train.methods.base import Method, build
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.maps import AnomalyMap

MAPS = "maps."  # names of the maps' tensors begin so in MODEL
RECORD, CONFIG = "run.json", "config.yaml"


@dataclass(frozen=True)
class TrainedRun:
    """A finished run read back from its folder."""

    folder: Path
    config: TrainConfig
    record: dict[str, object]
    method: Method
    maps: nn.ModuleDict

    def graph(self, reading: str) -> EagerGraph:
        """The inference path of that name with its map."""
        return graph_of(self.method, self.maps, reading)

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds from the held-out good images."""
        return Thresholds.model_validate(self.record["thresholds"])


def load_run(folder: Path) -> TrainedRun:
    """Reads a finished run. Raises CallError where the folder holds none, DskdError where its weights are damaged."""
    try:
        record = json.loads((folder / RECORD).read_text())
        expected = record["model_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CallError(f"{folder}: holds no finished training run; run dskd train first") from error
    config = load_config(folder / CONFIG, [])
    try:
        matches = file_sha256(folder / MODEL) == expected
    except OSError as error:
        raise DskdError(f"{folder / MODEL}: cannot be read ({error.strerror}); train again") from error
    if not matches:
        raise DskdError(f"{folder / MODEL}: does not match {RECORD}; train again")
    method = build(config, BACKBONES[config.backbone].encoder().requires_grad_(False))
    maps = build_maps(config, method)
    tensors, _ = read_tensors(folder / MODEL)
    load_model(folder / MODEL, method, {n: t for n, t in tensors.items() if not n.startswith(MAPS)})
    load_model(folder / MODEL, maps, {n.removeprefix(MAPS): t for n, t in tensors.items() if n.startswith(MAPS)})
    return TrainedRun(folder, config, record, method.eval(), maps.eval())


def build_maps(config: TrainConfig, method: Method) -> nn.ModuleDict:
    """A map for each reading: the students err differently in each."""
    return nn.ModuleDict({reading: build_map(config) for reading in method.readings()})


def graph_of(method: Method, maps: nn.ModuleDict, reading: str) -> EagerGraph:
    """The inference path that reads so, with its map."""
    anomaly_map = maps[reading]
    assert isinstance(anomaly_map, AnomalyMap)
    return EagerGraph(method.inference_path(reading), anomaly_map, BACKBONES[method.config.backbone])
