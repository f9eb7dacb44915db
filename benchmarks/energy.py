"""``python -m benchmarks energy``: joules for an inspection, inspections for a watt second, from a Jetson's power rails.

The device rests, then each contender inspects frame after frame while rails, temperatures and clocks are read. ``joules``
is of the whole module; ``joules over rest`` leaves out what it takes anyway. Set the power mode first: ``python -m jetson
power``. Not yet run on hardware.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from dskd.benchmarks.contenders import Contestant, add_options, blank, check, contestants, finish, own_bundle, pictures
from dskd.benchmarks.results import Results, row
from dskd.jetson.machine import Machine
from dskd.jetson.telemetry import Reading, read_telemetry, throttle_deltas
from dskd.runtime.errors import MissingPart, Parser, exit_with_code

NAME = "energy"
INTERVAL = 0.1  # seconds; the sensors average over about as long


@dataclass
class Watch:
    """Reads the sensors from a thread of its own while it is entered."""

    machine: Machine
    readings: list[Reading] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._over = threading.Event()
        self.readings.append(read_telemetry(self.machine))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.readings.append(read_telemetry(self.machine))

    def _read(self) -> None:
        while not self._over.wait(INTERVAL):
            self.readings.append(read_telemetry(self.machine))

    @property
    def watts(self) -> list[float]:
        """Of the whole module."""
        return [reading.total_mw / 1e3 for reading in self.readings if reading.total_mw is not None]


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks energy",
        description=__doc__,
        examples="python -m benchmarks energy --bundle runs/latest/bundle",
    )
    add_options(options, ("bundle", "source", "size", "backend", "precision", "threads", "seconds"), seconds=30.0)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    return finish(run(options, blank(["energy", *arguments])), options)


def run(options: argparse.Namespace, results: Results, machine: Machine | None = None) -> Results:
    """Measures and adds to ``results``. Raises MissingPart where there are no power rails."""
    check(options)
    machine = machine or Machine()
    if read_telemetry(machine).total_mw is None:
        raise MissingPart("energy: there are no power rails here; run it on a Jetson (dskd jetson telemetry)")
    bundle = own_bundle(options)
    chosen = contestants(bundle, options, results)
    rest = Watch(machine)
    with rest:
        threading.Event().wait(options.seconds / 3)
    results.rows.append(row(NAME, "at rest", "power", "W", rest.watts))
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        source = pictures(bundle, options, Path(folder))
        for contestant in chosen:
            _one(contestant, source, options.seconds, sum(rest.watts) / len(rest.watts), machine, results)
    return results


def _one(contestant: Contestant, source: str, seconds: float, rest: float, machine: Machine, results: Results) -> None:
    with contestant.worker(source) as worker:
        worker.ask("streams", seconds=1.0, cameras=1)  # warm
        watch = Watch(machine)
        with watch:
            rate = worker.ask("streams", seconds=seconds, cameras=1)["rate"]
    name, watts = contestant.name, watch.watts
    mean = sum(watts) / len(watts)
    results.rows.append(row(NAME, name, "power", "W", watts))
    results.rows.append(row(NAME, name, "rate", "1/s", [rate], "higher"))
    results.rows.append(row(NAME, name, "joules an inspection", "J", [mean / rate]))
    results.rows.append(row(NAME, name, "joules over rest an inspection", "J", [max(mean - rest, 0.0) / rate]))
    results.rows.append(row(NAME, name, "inspections a second and watt", "1/J", [rate / mean], "higher"))
    for rail in watch.readings[0].rails:
        values = [reading.rails[rail] / 1e3 for reading in watch.readings if rail in reading.rails]
        results.rows.append(row(NAME, name, f"rail {rail}", "W", values))
    sensors = {
        "hottest": ("°C", [reading.hottest for reading in watch.readings]),
        "GPU clock": ("MHz", [None if r.gpu_clock.now is None else r.gpu_clock.now / 1e6 for r in watch.readings]),
        "memory clock": ("MHz", [None if r.emc_clock.now is None else r.emc_clock.now / 1e6 for r in watch.readings]),
    }
    for what, (unit, found) in sensors.items():
        if known := [value for value in found if value is not None]:
            results.rows.append(row(NAME, name, what, unit, known, "neither"))
    throttled = throttle_deltas(watch.readings[0].throttle, watch.readings[-1].throttle)
    results.remarks.extend(f"{name}: throttled, {count} times {cause}" for cause, count in throttled.items() if count)


if __name__ == "__main__":
    exit_with_code(main)
