"""After training: what is usual at each position, from the good images the model was trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dskd.runtime.preprocess import Image
from dskd.train.config import TrainConfig
from dskd.train.error_statistics import ErrorStatistics, PrincipalComponents
from dskd.train.evaluate import BATCH, EagerGraph
from dskd.train.methods.base import Features
from dskd.train.networks.local_distance import LocalDistance
from dskd.train.networks.maps import AnomalyMap, CosineDistances, SquaredDistances
from dskd.train.networks.resnet import BACKBONES

ENOUGH = 96  # images, each with hundreds of positions, from which principal components are known well


def build_map(config: TrainConfig) -> AnomalyMap:
    """The map that ``config.map`` asks for; a local distance has no statistics yet."""
    height, width, chosen = config.input.height, config.input.width, config.map
    plain = SquaredDistances if chosen.distance == "l2" else CosineDistances
    distances: CosineDistances | LocalDistance = plain(chosen.scale_weights)
    if chosen.distance == "local":
        channels = BACKBONES[config.backbone].channels
        sizes, tiled = (chosen.components, chosen.rank), config.input.tiling is not None
        distances = LocalDistance(channels, height, width, chosen.scale_weights, *sizes, shared=tiled)
    return AnomalyMap(height, width, chosen.sigma, distances, chosen.fusion, chosen.score)


@torch.no_grad()
def fit_map(graph: EagerGraph, images: Image, ridge: float, device: torch.device) -> None:
    """Sets the statistics of a local distance in ``graph``'s map from good images [N, H, W, 3]."""
    graph.to(device).eval()
    distance = graph.anomaly_map.distances
    if not isinstance(distance, LocalDistance):
        return
    principal = PrincipalComponents(distance.project.shape[0])
    for features in _features(graph, images[:: -(-len(images) // ENOUGH)], device, "principal components"):
        principal.add(distance.vectors(*features).cpu().numpy())
    distance.learn_components(principal.strongest(distance.project.shape[1]))
    positions, _, channels = distance.mean.shape  # one position where all share it
    statistics = ErrorStatistics(positions, channels)
    for features in _features(graph, images, device, "usual errors"):
        statistics.add(distance.components(*features).cpu().numpy().reshape(positions, -1, channels))
    distance.learn(statistics.usual_errors(distance.usual.shape[2], ridge))


def _features(
    graph: EagerGraph, images: Image, device: torch.device, label: str
) -> Iterator[tuple[Features, Features]]:
    for start in tqdm(range(0, len(images), BATCH), desc=label, unit="batch", leave=False, disable=None):
        batch: Tensor = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
        yield graph.path(graph.to_input(batch))
