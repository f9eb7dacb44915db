"""``python -m benchmarks soak``: two cameras and all sinks at full speed for a long time, and whether anything grows."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.drill import Broker, count, free_port, scratch
from runtime.bundle import default_bundle, load_bundle
from runtime.errors import CallError, DskdError, Parser
from runtime.station.load import load_station
from runtime.station.station import Station

WARM_UP = 0.2  # share of the time that is not looked at: caches and pools fill
BOUNDS = {"memory": 20.0, "threads": 1.0, "descriptors": 2.0}  # an hour: MB, threads, descriptors
SAMPLE = 2.0  # seconds
JUDGED = 600.0  # seconds; a thread more or less in a minute says nothing about an hour


@dataclass(frozen=True)
class Sample:
    """One look at this process."""

    seconds: float
    memory: float  # MB
    threads: float
    descriptors: float
    inspected: int
    latency: dict[str, float]


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
        pass


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(
        prog="python -m benchmarks soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    parser.add_argument("--minutes", type=float, default=30.0, help="(default: %(default)s)")
    parser.add_argument("--fps", type=float, default=30.0, help="of each camera (default: %(default)s)")
    parser.add_argument("--size", default="640x480", help="of the pictures (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if not 0.05 <= options.minutes <= 7 * 1440:
        raise CallError(f"--minutes {options.minutes} must lie between 0.05 and a week")
    bundle = load_bundle(options.bundle or default_bundle()).path
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        station = Station(load_station(station_file(folder, bundle, options.fps, options.size, stack)))
        station.start()
        try:
            samples = watch(station, 60 * options.minutes)
        finally:
            station.stop()
        states = station.status().cameras
        lost = sum(state.inspected for state in states) - count(folder / "data" / "store.db", "inspections")
        unaccounted = sum(state.captured - state.inspected - state.dropped for state in states)
    return report(samples, lost, unaccounted, options.json)


def station_file(folder: Path, bundle: Path, fps: float, size: str, stack: ExitStack) -> Path:
    """Two free cameras, Modbus, metrics and every sink that can be had here."""
    hook = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    stack.callback(hook.shutdown)
    sinks: dict[str, object] = {
        "archive": {"kind": "archive", "keep": "rejects and 1 in 100 passes", "max_count": 500},
        "csv": {"kind": "csv", "path": str(folder / "sink.csv"), "max_mb": 20, "max_files": 3},
        "hook": {"kind": "webhook", "url": f"http://127.0.0.1:{hook.server_address[1]}/", "on": ["REJECT"]},
    }
    if shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto"):
        broker = Broker(folder)
        broker.start()
        stack.callback(broker.kill)
        sinks["mes"] = {"kind": "mqtt", "broker": f"mqtt://127.0.0.1:{broker.port}", "topic": "soak"}
    source = f"test://pattern?size={size}&fps={fps:g}"
    fields = {
        "name": "soak",
        "data": str(folder / "data"),
        "cameras": {
            name: {"source": f"{source}&seed={k}", "recipe": "only"} for k, name in enumerate(("left", "right"))
        },
        "recipes": {"only": {"bundle": str(bundle.absolute())}},
        "outputs": {"plc": {"kind": "modbus", "listen": "127.0.0.1:0", "camera": "left"}},
        "metrics": {"listen": f"127.0.0.1:{free_port()}"},
        "sinks": sinks,
    }
    file = folder / "station.yaml"
    file.write_text(json.dumps(fields))
    return file


def watch(station: Station, seconds: float) -> list[Sample]:
    """Looks at this process now and then. Raises DskdError where a thread of the station died."""
    samples, start = list[Sample](), time.monotonic()
    while (now := time.monotonic() - start) < seconds:
        if station.hanging():
            raise DskdError(f"soak: {', '.join(station.hanging())} hangs")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        cameras = station.status().cameras
        latency = {key: max(camera.latency_ms[key] for camera in cameras) for key in ("p50", "p99", "max")}
        memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        descriptors = len(os.listdir("/proc/self/fd"))
        inspected = sum(camera.inspected for camera in cameras)
        samples.append(Sample(now, memory, threading.active_count(), descriptors, inspected, latency))
        time.sleep(min(SAMPLE, max(seconds / 20, 0.1)))
    return samples


def slope(samples: list[Sample], name: str) -> float:
    """Growth an hour, by least squares."""
    values = [getattr(sample, name) for sample in samples]
    return float(3600 * np.polyfit([sample.seconds for sample in samples], values, 1)[0])


def row(name: str, unit: str, values: list[float]) -> dict[str, object]:
    """As every benchmark tells its figures."""
    low, middle, high = (round(float(v), 3) for v in np.percentile(values, [10, 50, 90]))
    return {"name": name, "unit": unit, "median": middle, "p10": low, "p90": high, "n": len(values)}


def report(samples: list[Sample], lost: int, unaccounted: int, as_json: bool) -> int:
    """Prints the figures; the exit code says whether all bounds hold."""
    steady = [sample for sample in samples if sample.seconds >= WARM_UP * samples[-1].seconds] or samples
    rates = [(b.inspected - a.inspected) / (b.seconds - a.seconds) for a, b in pairwise(steady)] or [0.0]
    rows = [row("inspections", "1/s", rates)]
    rows += [row(f"latency {key}", "ms", [sample.latency[key] for sample in steady]) for key in ("p50", "p99", "max")]
    grown = False
    for name, bound in BOUNDS.items():
        growth = slope(steady, name) if len(steady) > 1 else 0.0
        unit = "MB" if name == "memory" else "1"
        rows += [row(name, unit, [getattr(s, name) for s in steady]), row(f"{name} growth", f"{unit}/h", [growth])]
        grown |= growth > bound and samples[-1].seconds >= JUDGED
    rows += [row("inspections lost", "1", [float(lost)]), row("frames unaccounted for", "1", [float(unaccounted)])]
    if as_json:
        where = {"machine": platform.machine(), "python": platform.python_version(), "cores": os.cpu_count()}
        print(json.dumps({"environment": where, "rows": rows, "ratios": [], "bounds_per_hour": BOUNDS}))
    else:
        for each in rows:
            spread = f"(p10 {each['p10']}, p90 {each['p90']}, n {each['n']})"
            print(f"{each['name']:26} {each['median']:>12} {each['unit']:5} {spread}")
        judged = "exceeded" if grown else "held" if samples[-1].seconds >= JUDGED else "too short a time to tell"
        print(f"bounds of growth an hour: {BOUNDS}; {judged}")
    return 1 if grown or lost or unaccounted else 0
