"""Figures as every benchmark of a station tells them, and where they were measured."""

from __future__ import annotations

import os
import platform

import numpy as np

from dskd.runtime.bundle.loading import Bundle


def row(name: str, unit: str, values: list[float]) -> dict[str, object]:
    """Median and spread."""
    low, middle, high = (round(float(v), 3) for v in np.percentile(values, [10, 50, 90]))
    return {"name": name, "unit": unit, "median": middle, "p10": low, "p90": high, "n": len(values)}


def environment(bundle: Bundle) -> dict[str, object]:
    """The machine as far as this process may use it, and the bundle."""
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    return {**machine, "cores": len(os.sched_getaffinity(0)), "bundle": bundle.id}
