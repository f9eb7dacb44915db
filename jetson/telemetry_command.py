"""``dskd jetson telemetry``: what the sensors say, once or again and again."""

from __future__ import annotations

import json
import time
from pathlib import Path

from dskd.jetson.telemetry import THROTTLE, Reading, prometheus, read_telemetry, throttle_deltas
from dskd.runtime import atomic
from dskd.runtime.errors import CallError, Parser

EXAMPLES = """dskd jetson telemetry
dskd jetson telemetry --watch 5 --json
dskd jetson telemetry --watch 15 --textfile /var/lib/node_exporter/dskd.prom"""


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = Parser(prog="dskd jetson telemetry", description=__doc__, examples=EXAMPLES)
    options.add_argument("--json", action="store_true", help="one JSON object a reading")
    options.add_argument("--watch", type=float, metavar="SECONDS", help="read again and again, until interrupted")
    options.add_argument("--textfile", type=Path, help="also write Prometheus' text format here, whole each time")
    chosen = options.parse_args(arguments)
    if chosen.watch is not None and not 0.1 <= chosen.watch <= 86400:
        raise CallError(f"--watch {chosen.watch}: between 0.1 and 86400 seconds")
    before: Reading | None = None
    while True:
        reading = read_telemetry()
        if chosen.textfile:
            atomic.write_text(chosen.textfile, prometheus(reading))
        deltas = throttle_deltas(before.throttle, reading.throttle) if before else {}
        print(
            json.dumps({**reading.as_dict(), "throttled": deltas}) if chosen.json else told(reading, deltas), flush=True
        )
        if chosen.watch is None:
            return 0
        before = reading
        time.sleep(chosen.watch)


def told(reading: Reading, deltas: dict[str, int]) -> str:
    """A reading for a terminal."""
    if not reading.rails and reading.gpu_load is None and not reading.temperatures:
        return "no sensors of a Jetson here"
    parts = [f"{name} {milliwatts / 1000:.2f} W" for name, milliwatts in reading.rails.items()]
    parts += [f"{name} {degrees:.1f} °C" for name, degrees in reading.temperatures.items() if degrees is not None]
    if reading.gpu_load is not None:
        parts.append(f"GPU {reading.gpu_load:.0%} at {(reading.gpu_clock.now or 0) / 1e6:.0f} MHz")
    parts += [f"{THROTTLE[key]} +{count}" for key, count in deltas.items() if count]
    return "  ".join(parts)
