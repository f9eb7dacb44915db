"""What was seen of a graph's activations, kept so that a rerun need not look again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from dskd.calibration.equalise import Floats, equalise, largest_of_channels
from dskd.calibration.images import Inputs, cover
from dskd.calibration.quantise import observed_tensors
from dskd.calibration.ranges import BINS, Histogram, observe
from dskd.export.graph.transposed import rewrite_transposed
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import file_sha256
from dskd.train.progress import progress

RECIPE = 3  # counts up when what is observed, or of which graph, changes
CACHE, IMAGES = "observed.json", "images.json"


@dataclass(frozen=True)
class Observed:
    """What the images ``chosen`` (sha256 and tile) showed.

    ``largest``: |activation| [C] of what convolutions read, before equalising; ``histograms``: after it.
    """

    chosen: list[str]
    largest: dict[str, Floats]
    histograms: dict[str, Histogram]


def observe_once(
    graph: Path, inputs: Inputs, count: int, folder: Path, prepared: Path
) -> tuple[Inputs, dict[str, Histogram]]:
    """``count`` images that cover ``inputs``, and histograms of the graph that is written to ``prepared``: without
    transposed convolutions, its channels brought to like ranges. An earlier calibration of the same graph and images
    is taken from ``folder``.
    """
    digests = {path: file_sha256(path) for path in dict.fromkeys(path for path, _ in inputs.pieces)}
    hashes = [f"{digests[path]} {tile}" for path, tile in inputs.pieces]
    key = hashlib.sha256(" ".join([file_sha256(graph), str(count), *sorted(hashes)]).encode()).hexdigest()
    found, model = read_observed(folder / CACHE, key), onnx.load(graph)
    rewrite_transposed(model)
    if found is None:
        chosen = cover(model, inputs, count)
        bar = partial(progress, inputs.chosen(chosen), unit="image")
        largest = largest_of_channels(model, bar(desc="equalising"))
        equalise(model, largest)
        histograms = observe(model, observed_tensors(model), bar(desc="calibrating"))
        found = Observed([hashes[k] for k in chosen], largest, histograms)
        write_observed(folder / CACHE, found, key)
    else:
        equalise(model, found.largest)
    onnx.save(model, prepared)
    index = {digest: k for k, digest in enumerate(hashes)}
    used = inputs.chosen(index[digest] for digest in found.chosen)
    names = {str(path): digests[path] for path, _ in used.pieces}
    atomic.write_text(folder / IMAGES, json.dumps(names, indent=1))
    return used, found.histograms


def write_observed(file: Path, observed: Observed, key: str) -> None:
    """Keeps it as JSON; ``key`` says what it belongs to."""
    histograms = {
        name: {"low": h.low, "high": h.high, "limit": h.limit, "counts": h.counts.tolist()}
        for name, h in sorted(observed.histograms.items())
    }
    largest = {name: values.tolist() for name, values in sorted(observed.largest.items())}
    fields = {
        "recipe": RECIPE, "key": key, "chosen": observed.chosen, "largest": largest, "histograms": histograms
    }  # fmt: skip
    atomic.write_text(file, json.dumps(fields, separators=(",", ":")))


def read_observed(file: Path, key: str) -> Observed | None:
    """What was kept for exactly ``key``; None where there is nothing or it is damaged."""
    try:
        fields = json.loads(file.read_text())
        if (fields["recipe"], fields["key"]) != (RECIPE, key):
            return None
        histograms = {
            name: Histogram(float(h["low"]), float(h["high"]), float(h["limit"]), np.array(h["counts"], np.int64))
            for name, h in fields["histograms"].items()
        }
        largest = {name: np.array(values, np.float64) for name, values in fields["largest"].items()}
        chosen = [str(digest) for digest in fields["chosen"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = all(len(h.counts) == BINS for h in histograms.values()) and all(v.ndim == 1 for v in largest.values())
    return Observed(chosen, largest, histograms) if whole and chosen else None
