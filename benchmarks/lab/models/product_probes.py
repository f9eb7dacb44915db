"""How well one model of several products tells pictures that belong to none of them from good ones of each."""

from __future__ import annotations

import numpy as np

from dskd.benchmarks.lab.models.labelled import Labelled
from dskd.benchmarks.lab.models.probes import PROBES, probe_images
from dskd.export.graph.answers import answers
from dskd.runtime.bundle.loading import Bundle
from dskd.train.data import InspectionSet
from dskd.train.metrics import auroc

COUNT = 100  # probes of each kind


def probed(bundle: Bundle, graph: str, images: InspectionSet, test: Labelled, good: np.ndarray) -> dict[str, float]:
    """AUROC of each kind of probe, made of good test images, against all of them.

    ``good`` holds the scores of the good test images, in the order of ``test``.
    """
    own = {path: k for k, path in enumerate(test.paths)}
    normal = [[own[item.path] for item in product.test if item.defect == "good"] for product in images.products]
    parts = [test.inputs[chosen] for chosen in normal]
    found = {}
    for kind in PROBES:
        scores = [score for score, _ in answers(bundle, graph, probe_images(parts, COUNT, kind), f"{kind}, {graph}")]
        labels = np.repeat([False, True], [len(good), len(scores)])
        found[kind] = auroc(labels, np.concatenate((good, scores)))
    return found
