"""Pictures of results: bars of times with their spread, and the roofline."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from dskd.benchmarks.results import Results, Row
from dskd.runtime import atomic
from dskd.runtime.errors import MissingPart

START = "process start to first verdict"
WHATS = ("frame to verdict", "frame to verdict, passed", "frame to verdict, flagged", "bare network", START,
         f"{START}, empty caches", "rate", "joules an inspection", "a tile", "peak")  # fmt: skip
MOST_PANELS = 12


def draw(results: Results, file: Path) -> bool:
    """Writes an SVG of what can be drawn, and says whether there was anything. Raises MissingPart without matplotlib."""
    panels = _panels(results)[:MOST_PANELS]
    count = len(panels) + bool(results.floors)
    if not count:
        return False
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingPart("matplotlib is not installed; pip install matplotlib") from error
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dskd"  # the same figures give the same file
    from matplotlib import pyplot

    heights = [0.6 + 0.32 * len(rows) for rows in panels] + [3.6] * bool(results.floors)
    figure, axes = pyplot.subplots(count, 1, figsize=(8, sum(heights)), height_ratios=heights, squeeze=False)
    for axis, rows in zip(axes[:, 0], panels, strict=False):
        _bars(axis, rows)
    if results.floors:
        _roofline(axes[-1, 0], results)
    figure.tight_layout()
    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    atomic.write_bytes(file, written.getvalue())
    return True


def _panels(results: Results) -> list[list[Row]]:
    """Rows of one figure of one benchmark, for those figures that say most."""
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        if row.what in WHATS:
            panels.setdefault((row.benchmark, row.what), []).append(row)
    return list(panels.values())


def _bars(axis: Any, rows: list[Row]) -> None:
    """A bar for each contender: the median, with a line from p10 to p90."""
    middle = np.array([row.median for row in rows])
    spread = np.array([[row.median - row.p10 for row in rows], [row.p90 - row.median for row in rows]])
    places = np.arange(len(rows))
    axis.barh(places, middle, 0.7, xerr=spread, color="#4c78a8", error_kw={"elinewidth": 1, "ecolor": "#333333"})
    for place, row in zip(places, rows, strict=True):
        axis.annotate(f"{row.median:.3g}", (row.p90, place), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set_yticks(places, [row.name for row in rows])
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_title(f"{rows[0].benchmark}: {rows[0].what} ({rows[0].unit}; line: p10 to p90)", loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _roofline(axis: Any, results: Results) -> None:
    """MACs a second over MACs a byte: below its roof every network has its point."""
    intensities = [floor.macs / floor.bytes for floor in results.floors]
    across = np.geomspace(min(intensities) / 30, max(intensities) * 4, 100)
    for k, floor in enumerate(results.floors):
        colour = f"C{k}"
        axis.plot(across, np.minimum(floor.peak_macs, across * floor.bandwidth) / 1e9, color=colour, linewidth=1)
        reached = floor.macs / floor.measured_ms * 1e3 / 1e9
        axis.plot(floor.macs / floor.bytes, reached, "o", color=colour, label=f"{floor.name}, {floor.share:.0%}")
    axis.set(xscale="log", yscale="log", xlabel="MACs a byte", ylabel="GMAC/s")
    axis.legend(fontsize=8)
    axis.set_title(
        "Roofline: lines are what the machine gives, points what the network reaches", loc="left", fontsize=10
    )
    axis.spines[["top", "right"]].set_visible(False)
