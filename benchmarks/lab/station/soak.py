"""``python -m benchmarks soak``: two cameras and all sinks at full speed for a long time, and whether anything grows.

The station is a process of its own. Its cameras give a quarter more pictures than the bundle's backend can judge here,
and what comes too fast is replaced and counted. One camera passes all, the other rejects all. A browser, a scraper, a
PLC, a broker with a reader and a receiver of POSTs stand outside and share the machine with it.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dskd.benchmarks.contenders import check_output
from dskd.benchmarks.lab.station.drill import free_port, scratch, wait_until
from dskd.benchmarks.lab.station.figures import environment, row
from dskd.benchmarks.lab.station.soak_station import CAMERAS, Outside, soak_file
from dskd.benchmarks.lab.station.station_process import Counts, StationProcess, running
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle, default_bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError, Parser
from dskd.runtime.inspection.backends import open_backend

WARM_UP = 0.2  # share of the time that is not looked at: caches and pools fill
BOUNDS = {"memory": 20.0, "threads": 1.0, "descriptors": 2.0}  # an hour: MB, threads, descriptors
SAMPLE = 2.0  # seconds
JUDGED = 600.0  # seconds; a thread more or less in a minute says nothing about an hour
PAIRED = 400  # samples of which all pairs are looked at
TRIAL = 3.0  # seconds in which the backend's own rate is measured
SURPLUS = 1.25  # pictures offered for each that the backend can judge


@dataclass(frozen=True)
class Sample:
    """One look at the station: what it holds, what it has done, and the worse camera's latency of the last minutes."""

    seconds: float
    memory: float  # MB
    threads: int
    descriptors: int
    inspected: int
    dropped: int
    latency: dict[str, float]


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(
        prog="python -m benchmarks soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    parser.add_argument("--minutes", type=float, default=30.0, help="(default: %(default)s)")
    parser.add_argument("--fps", type=float, help=f"of each camera (default: {SURPLUS:g} times what can be judged)")
    parser.add_argument("--size", default="640x480", help="of the pictures (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file for the JSON object with every sample")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if not 0.05 <= options.minutes <= 7 * 1440:
        raise CallError(f"--minutes {options.minutes} must lie between 0.05 and a week")
    check_output(options.out)
    bundle = load_bundle(options.bundle or default_bundle())
    fps = options.fps or round(SURPLUS * rate(bundle) / len(CAMERAS), 2)
    with scratch() as folder:
        samples, lost, rows = soak(folder, bundle.path, fps, options.size, 60 * options.minutes)
    where = {**environment(bundle), "cameras": len(CAMERAS), "fps": fps, "size": options.size}
    found: dict[str, Any] = {"environment": where, "rows": rows + grown(samples), "ratios": []}
    found |= {"bounds_per_hour": BOUNDS, "lost": lost}
    if options.out is not None:
        atomic.write_text(options.out, json.dumps({**found, "samples": [asdict(sample) for sample in samples]}))
    print(json.dumps(found) if options.json else table(found, samples))
    return 1 if any(lost.values()) or exceeded(samples) else 0


def rate(bundle: Bundle) -> float:
    """Pictures a second that the backend judges, in batches of two where it takes them, with nothing else to do."""
    backend = open_backend(bundle, "auto")
    batch = np.repeat(bundle.golden().inputs[:1], min(len(CAMERAS), bundle.manifest.max_batch), axis=0)
    backend.infer(batch).maps()
    start, number = time.monotonic(), 0
    while (passed := time.monotonic() - start) < TRIAL:
        backend.infer(batch).maps()
        number += len(batch)
    backend.close()
    return number / passed


def soak(
    folder: Path, bundle: Path, fps: float, size: str, seconds: float
) -> tuple[list[Sample], dict[str, int], list[dict[str, object]]]:
    """Samples, what was lost where, and the figures of the whole time."""
    with ExitStack() as stack:
        outside = stack.enter_context(Outside(folder, [free_port() for _ in range(3)]))
        process = stack.enter_context(running(soak_file(folder, bundle, fps, size, outside)))
        outside.look()
        wait_until(lambda: process.lives() and state_of(outside)[0], "a first inspection")
        samples = watch(process, outside, seconds)
        outside.look_away()
        counts = process.stop()
        outside.settle()
        lost = outside.lost(counts)
        return samples, lost, totals(samples, counts, outside)


def state_of(outside: Outside) -> tuple[int, int, dict[str, float]]:
    """Inspected, dropped and the worse latency, as the browser was told last."""
    cameras: Any = outside.browser.state.get("cameras", [])
    latency = {key: max((c["latency_ms"][key] for c in cameras), default=0.0) for key in ("p50", "p99", "max")}
    return sum(c["inspected"] for c in cameras), sum(c["dropped"] for c in cameras), latency


def watch(process: StationProcess, outside: Outside, seconds: float) -> list[Sample]:
    """Looks at the station now and then. Raises DskdError where it ended or shows nothing any more."""
    samples, start = list[Sample](), time.monotonic()
    pause = min(SAMPLE, max(seconds / 20, 0.1))
    with tqdm(total=round(seconds), desc="soak", unit="s", disable=None) as bar:
        while (now := time.monotonic() - start) < seconds:
            inspected, dropped, latency = state_of(outside)
            samples.append(Sample(round(now, 3), *process.held(), inspected, dropped, latency))
            if len(samples) > 60 / pause and samples[-int(60 / pause)].inspected == inspected:
                raise DskdError("soak: nothing was inspected for a minute")
            bar.update(round(now) - bar.n)
            time.sleep(pause)
    return samples


def steady(samples: list[Sample]) -> list[Sample]:
    """Those after the warm-up."""
    return [sample for sample in samples if sample.seconds >= WARM_UP * samples[-1].seconds] or samples


def slope(samples: list[Sample], name: str) -> float:
    """Growth an hour of what is steady: the median over all pairs (Theil and Sen), which one step up does not move."""
    chosen = steady(samples)
    chosen = chosen[:: max(1, len(chosen) // PAIRED)]
    moments = np.array([sample.seconds for sample in chosen])
    values = np.array([float(getattr(sample, name)) for sample in chosen])
    earlier, later = np.triu_indices(len(chosen), 1)
    if len(earlier) == 0:
        return 0.0
    return float(3600 * np.median((values[later] - values[earlier]) / (moments[later] - moments[earlier])))


def exceeded(samples: list[Sample]) -> bool:
    """Whether anything grew beyond its bound, in a time that tells."""
    return samples[-1].seconds >= JUDGED and any(slope(samples, name) > bound for name, bound in BOUNDS.items())


def totals(samples: list[Sample], counts: dict[str, Counts], outside: Outside) -> list[dict[str, object]]:
    """Rates, latencies, and what was captured, inspected, dropped and seen from outside."""
    chosen = steady(samples)
    rates = [(b.inspected - a.inspected) / (b.seconds - a.seconds) for a, b in pairwise(chosen)] or [0.0]
    rows = [row("inspections", "1/s", rates)]
    rows += [row(f"latency {key}", "ms", [sample.latency[key] for sample in chosen]) for key in ("p50", "p99", "max")]
    rows.append(row("latency max of all time", "ms", [max(sample.latency["max"] for sample in samples)]))
    for name in ("captured", "inspected", "dropped"):
        rows.append(row(name, "1", [float(sum(getattr(each, name) for each in counts.values()))]))
    return rows + [row(name, "1", [float(number)]) for name, number in outside.tally().items()]


def grown(samples: list[Sample]) -> list[dict[str, object]]:
    """What the station held, and how it grew."""
    rows = []
    for name in BOUNDS:
        unit = "MB" if name == "memory" else "1"
        rows += [row(name, unit, [float(getattr(sample, name)) for sample in steady(samples)])]
        rows += [row(f"{name} growth", f"{unit}/h", [slope(samples, name)])]
    return rows


def table(found: dict[str, Any], samples: list[Sample]) -> str:
    """For people."""
    lines = [", ".join(f"{name} {value}" for name, value in found["environment"].items())]
    for each in found["rows"]:
        spread = f"(p10 {each['p10']}, p90 {each['p90']}, n {each['n']})" if each["n"] > 1 else ""
        name = each["name"].removesuffix(" growth")
        bound = f"bound {BOUNDS[name]:g}" if name != each["name"] else ""
        lines.append(f"{each['name']:26} {each['median']:>12} {each['unit']:5} {spread}{bound}")
    lines.append("lost: " + ", ".join(f"{name} {number}" for name, number in found["lost"].items()))
    judged = "exceeded" if exceeded(samples) else "held"
    told = judged if samples[-1].seconds >= JUDGED else f"not judged: under {JUDGED / 60:.0f} minutes tell nothing"
    return "\n".join([*lines, f"bounds of growth: {told}"])
