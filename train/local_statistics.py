"""After training: what is usual at each position, from the good images the model was trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from runtime.preprocess import Image
from train.config import TrainConfig
from train.error_statistics import ErrorStatistics
from train.evaluate import BATCH, EagerGraph
from train.networks.local_distance import LocalDistance
from train.networks.maps import STRIDES, AnomalyMap, CosineDistance, SquaredDistance
from train.networks.resnet import BACKBONES


def build_map(config: TrainConfig) -> AnomalyMap:
    """The map that ``config.map`` asks for; local distances have no statistics yet."""
    height, width, chosen = config.input.height, config.input.width, config.map
    plain = SquaredDistance if chosen.distance == "l2" else CosineDistance
    distances: list[nn.Module] = [plain() for _ in STRIDES]
    if chosen.distance == "local":
        for k, (stride, channels) in enumerate(zip(STRIDES, BACKBONES[config.backbone].channels, strict=True)):
            if chosen.scale_weights[k]:
                distances[k] = LocalDistance(channels, height // stride, width // stride, chosen.rank)
    return AnomalyMap(height, width, chosen.sigma, chosen.scale_weights, distances, chosen.fusion, chosen.score)


@torch.no_grad()
def fit_map(graph: EagerGraph, images: Image, ridge: float, device: torch.device) -> None:
    """Sets the statistics of every local distance in ``graph``'s map from good images [N, H, W, 3]."""
    graph.to(device).eval()
    local = {k: d for k, d in enumerate(graph.anomaly_map.distances) if isinstance(d, LocalDistance)}
    if not local:
        return
    gathered = {k: ErrorStatistics(distance.mean.shape[0], distance.mean.shape[2]) for k, distance in local.items()}
    for start in tqdm(range(0, len(images), BATCH), desc="usual errors", unit="batch", leave=False, disable=None):
        batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
        teacher, student = graph.path(graph.to_input(batch))
        for k, distance in local.items():
            gathered[k].add(distance.error(teacher[k], student[k]).cpu().numpy())
    for k, distance in local.items():
        distance.learn(gathered[k].usual_errors(distance.usual.shape[2], ridge))
