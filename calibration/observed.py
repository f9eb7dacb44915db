"""What was seen of a graph's activations, kept so that a rerun need not look again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.equalise import Floats
from calibration.ranges import BINS, Histogram
from runtime import atomic

RECIPE = 2  # counts up when what is observed, or of which graph, changes


@dataclass(frozen=True)
class Observed:
    """``largest``: |activation| [C] of what convolutions read, before equalising; ``histograms``: after it."""

    largest: dict[str, Floats]
    histograms: dict[str, Histogram]


def write_observed(file: Path, observed: Observed, key: str) -> None:
    """Keeps it as JSON; ``key`` says what it belongs to."""
    histograms = {
        name: {"low": h.low, "high": h.high, "limit": h.limit, "counts": h.counts.tolist()}
        for name, h in sorted(observed.histograms.items())
    }
    largest = {name: values.tolist() for name, values in sorted(observed.largest.items())}
    fields = {"recipe": RECIPE, "key": key, "largest": largest, "histograms": histograms}
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = all(len(h.counts) == BINS for h in histograms.values()) and all(v.ndim == 1 for v in largest.values())
    return Observed(largest, histograms) if whole else None
