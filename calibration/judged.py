"""What each graph says of labelled test pictures, kept by its hash: another calibration need not judge float again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dskd.calibration.pictures import Labelled
from dskd.export.graph.answers import answers_of_files
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle, file_sha256
from dskd.train import metrics

CACHE = "judged.json"


@dataclass(frozen=True)
class Judged:
    """A graph's scores of the test pictures, in order, and figures by name."""

    scores: list[float]
    figures: dict[str, float]


def judge_all(bundle: Bundle, labelled: Labelled, folder: Path) -> dict[str, Judged]:
    """By name of each graph of ``bundle``. What an earlier calibration judged of a graph is taken from ``folder``."""
    test, known = labelled.sha256(), _read(folder / CACHE)
    found = {}
    for name in bundle.manifest.graphs:
        key = f"{name} {file_sha256(bundle.graph_file(name))} {test}"
        found[name] = key, known.get(key) or judge(bundle, name, labelled)
    kept = {key: asdict(judged) for key, judged in found.values()}
    atomic.write_text(folder / CACHE, json.dumps(kept, separators=(",", ":")))
    return {name: judged for name, (_, judged) in found.items()}


def judge(bundle: Bundle, graph: str, labelled: Labelled) -> Judged:
    """Runs the test pictures through one graph; no map outlives its turn but as values that are ranked."""
    spec, scores = bundle.manifest.input, []
    ranking = metrics.PixelRanking(len(labelled.items) * spec.height * spec.width)
    found = answers_of_files(bundle, graph, labelled.paths, f"test images, {graph}")
    for (score, anomaly_map), mask in zip(found, labelled.masks(), strict=True):
        scores.append(float(score))
        ranking.add(mask, anomaly_map)
    pixel_auroc, pro = ranking.areas()
    image_auroc = metrics.auroc(labelled.defective, np.array(scores, np.float32))
    return Judged(scores, {"image_auroc": image_auroc, "pixel_auroc": pixel_auroc, "pro": pro})


def _read(file: Path) -> dict[str, Judged]:
    try:
        fields = json.loads(file.read_text())
        return {
            key: Judged([float(score) for score in kept["scores"]], {k: float(v) for k, v in kept["figures"].items()})
            for key, kept in fields.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
