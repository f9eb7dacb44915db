"""Scores and maps of a trained model, and what they say on labelled images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.inspection.network_input import network_input
from dskd.runtime.inspection.tiling import Grid, MergedMap, coarse
from dskd.runtime.result import Image
from dskd.train import metrics
from dskd.train.data import cut_tiles
from dskd.train.methods.base import InferencePath
from dskd.train.networks.backbone import Backbone
from dskd.train.networks.image_input import ImageInput
from dskd.train.networks.maps import AnomalyMap
from dskd.train.progress import progress

BATCH = 16


@dataclass(frozen=True)
class Scored:
    """What a model says of images: scores [N], maps [N, H, W].

    Maps are at network size. Of a tiled picture each cell holds the worst of what it covers in the merged map.
    """

    scores: NDArray[np.float32]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class Figures:
    """Metrics of one reading on a labelled set. Pixel figures are at network size."""

    image_auroc: float
    image_ap: float
    image_f1_max: float
    pixel_auroc: float
    pro: float
    pro_rd: float
    inside_recall: float
    halo: float
    per_defect: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, object]:
        """For JSON; NaN becomes None."""
        return _without_nan(asdict(self))


class EagerGraph(nn.Module):
    """An inference path with its backbone's input and a map, in torch: the reference for everything exported."""

    def __init__(self, path: InferencePath, anomaly_map: AnomalyMap, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.to_input, self.path, self.anomaly_map = ImageInput(backbone), path, anomaly_map

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 BGR [B, H, W, 3] -> (score [B], anomaly map [B, H, W])."""
        score, anomaly_map = self.anomaly_map(*self.path(self.to_input(image)))
        return score, anomaly_map


def score(graph: nn.Module, images: Image, device: torch.device, label: str = "scoring") -> Scored:
    """Runs network inputs [N, H, W, 3] in float32."""
    parts = []
    for start in progress(range(0, len(images), BATCH), desc=label, unit="batch"):
        parts.append(_answers(graph, images[start : start + BATCH], device))
    scores, maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Scored(scores, maps)


def score_frames(
    graph: nn.Module, frames: Iterable[Image], count: int, spec: InputSpec, device: torch.device, label: str
) -> Scored:
    """Runs ``count`` frames [H, W, 3] of any size as the runtime does: a tiled one by its merged map."""
    if spec.tiling is None:
        return score(graph, np.stack([network_input(frame, spec) for frame in frames]), device, label)
    scores, maps = [], []
    for frame in progress(frames, total=count, desc=label, unit="image"):
        merged, tiles = MergedMap(Grid.of((frame.shape[0], frame.shape[1]), spec)), cut_tiles(frame, spec)
        for start in range(0, len(tiles), BATCH):
            merged.add(start, _answers(graph, tiles[start : start + BATCH], device)[1])
        scores.append(merged.values.max())
        maps.append(coarse(merged.values, spec.height, spec.width))
    return Scored(np.array(scores), np.stack(maps))


@torch.no_grad()
def _answers(graph: nn.Module, images: Image, device: torch.device) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    torch.backends.cudnn.allow_tf32 = False  # thresholds must hold on devices that compute in full float32
    score, anomaly_map = graph.to(device).eval()(torch.from_numpy(np.ascontiguousarray(images)).to(device))
    return score.cpu().numpy(), anomaly_map.cpu().numpy()


def figures(scored: Scored, defects: list[str], masks: NDArray[np.bool_]) -> Figures:
    """Metrics over all test images and for each defect against all good ones. ``defects`` holds "good" or a name."""
    labels = np.array([defect != "good" for defect in defects])
    names = np.array(defects)
    flat_masks, flat_maps = masks.ravel(), scored.maps.ravel()
    inside_recall, halo = metrics.fill_and_halo(masks, scored.maps, ~labels)
    return Figures(
        image_auroc=metrics.auroc(labels, scored.scores),
        image_ap=metrics.average_precision(labels, scored.scores),
        image_f1_max=metrics.f1_max(labels, scored.scores),
        pixel_auroc=metrics.auroc(flat_masks, flat_maps),
        pro=metrics.pro(masks, scored.maps),
        pro_rd=metrics.pro_rd(masks, scored.maps),
        inside_recall=inside_recall,
        halo=halo,
        per_defect={str(d): _of_defect(str(d), names, scored, masks) for d in sorted(set(defects) - {"good"})},
    )


def _of_defect(defect: str, names: NDArray[np.str_], scored: Scored, masks: NDArray[np.bool_]) -> dict[str, float]:
    chosen = (names == "good") | (names == defect)
    labels, scores = names[chosen] == defect, scored.scores[chosen]
    inside_recall, halo = metrics.fill_and_halo(masks[chosen], scored.maps[chosen], ~labels)
    return {
        "images": int(labels.sum()),
        "image_auroc": metrics.auroc(labels, scores),
        "image_ap": metrics.average_precision(labels, scores),
        "pixel_auroc": metrics.auroc(masks[chosen].ravel(), scored.maps[chosen].ravel()),
        "pro": metrics.pro(masks[chosen], scored.maps[chosen]),
        "inside_recall": inside_recall,
        "halo": halo,
    }


def _without_nan(fields: dict[str, object]) -> dict[str, object]:
    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and np.isnan(value) else value

    return {key: clean(value) for key, value in fields.items()}
