"""``python -m benchmarks triggers``: a PLC triggers parts over Modbus at a steady rate and takes every result.

The program is that of docs/modbus.md, the station is a process of its own. The PLC numbers its
parts; each must be answered once, in the order of the triggers, and be in the store.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dskd.benchmarks.lab.station.drill import free_port, scratch, station_file, wait_until
from dskd.benchmarks.lab.station.figures import environment, row
from dskd.benchmarks.lab.station.plc import Plc, bit, part_of
from dskd.benchmarks.lab.station.station_process import running
from dskd.runtime.bundle.loading import default_bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError, Parser
from dskd.runtime.station.outputs.registers import INPUT_REGISTERS, address

CYCLE = 0.004  # seconds between two looks of the PLC; small ones have cycles of 1 to 10 ms
REASONS = {0: "inspected", 1: "deadline", 2: "not inspected"}


@dataclass(frozen=True)
class Result:
    """One result as the PLC read it. ``latency`` is the station's own figure, ``seen`` the PLC's; both in ms."""

    part: str
    number: int
    reason: int
    latency: int
    seen: float


class PartProgram:
    """The program of a PLC that triggers parts and takes their results."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._plc: Plc | None = None
        self.results: list[Result] = []
        self.triggered: dict[str, float] = {}
        self.missed, self.held_back, self.latest = 0, 0, 0.0
        self._trigger_up = self._acknowledge_up = False

    @property
    def plc(self) -> Plc:
        """The connection, made when it is first asked for. Raises OSError."""
        self._plc = self._plc or Plc(self._port)
        return self._plc

    def ready(self) -> bool:
        """Connects, enables triggers and looks whether one would be taken."""
        with suppress(OSError):
            self.plc.coil("TriggerEnable", True)
            return bit(self.plc.registers(), "TriggerReady")
        return False

    def run(self, rate: float, seconds: float) -> None:
        """Triggers and takes results until all triggers are answered. Raises DskdError where answers stay away."""
        start, last = time.monotonic(), 0.0
        wanted = round(rate * seconds)
        with tqdm(total=wanted, desc="parts", unit="part", disable=None) as bar:
            while len(self.results) + self.missed < wanted:
                now = time.monotonic() - start
                registers = self.plc.registers()
                self._trigger(registers, len(self.triggered) < wanted, now - len(self.triggered) / rate, 1 / rate)
                if self._take(registers):
                    bar.update()
                    last = now
                if now - max(last, len(self.triggered) / rate) > 10:
                    raise DskdError(f"triggers: no answer for 10 seconds after {len(self.results)} of {wanted} parts")
                time.sleep(CYCLE)

    def close(self) -> None:
        """Hangs up."""
        self.plc.close()

    def _trigger(self, registers: list[int], more: bool, late: float, period: float) -> None:
        """Step 1 and 2: the next part, ``late`` seconds after it was due; Trigger falls once it was answered for.

        A real belt does not wait: a trigger that comes a whole period late, for want of TriggerReady, is held back.
        """
        if self._trigger_up and (bit(registers, "TriggerAck") or bit(registers, "MissedAcq")):
            self.missed += bit(registers, "MissedAcq")
            self.plc.coil("Trigger", False)
            self._trigger_up = False
        elif not self._trigger_up and more and late >= 0 and bit(registers, "TriggerReady"):
            part = f"part-{len(self.triggered) + 1:06d}"
            self.plc.text("PartWanted", part)
            self.triggered[part] = time.monotonic()
            self.plc.coil("Trigger", True)
            self._trigger_up, self.latest = True, max(self.latest, late)
            self.held_back += late > period

    def _take(self, registers: list[int]) -> bool:
        """Step 3: whether there was a result."""
        valid = bit(registers, "ResultsValid")
        if valid and not self._acknowledge_up:
            value = {point.name: registers[point.address] for point in INPUT_REGISTERS}
            part = part_of(registers)
            low = registers[address(INPUT_REGISTERS, "ResultNumber") + 1]
            seen = 1000 * (time.monotonic() - self.triggered.get(part, time.monotonic()))
            number = value["ResultNumber"] << 16 | low
            self.results.append(Result(part, number, value["Reason"], value["Latency"], round(seen, 3)))
            self.plc.coil("ResultsAck", True)
            self._acknowledge_up = True
            return True
        if self._acknowledge_up and not valid:
            self.plc.coil("ResultsAck", False)
            self._acknowledge_up = False
        return False


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(
        prog="python -m benchmarks triggers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    parser.add_argument("--rate", type=float, default=10.0, help="triggers a second (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="(default: %(default)s)")
    parser.add_argument("--deadline", type=int, default=500, help="milliseconds to the answer (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="which of the bundle's graphs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if not (0.1 <= options.rate <= 100 and 0.01 <= options.minutes <= 7 * 1440 and 10 <= options.deadline <= 60_000):
        raise CallError(
            "--rate must lie between 0.1 and 100, --minutes between 0.01 and a week, --deadline in 10..60000"
        )
    bundle = load_bundle(options.bundle or default_bundle())
    with scratch() as folder:
        port = free_port()
        file = station_file(
            folder, bundle.path,
            {"source": "test://pattern?size=320x240", "trigger": {"kind": "software", "deadline_ms": options.deadline}},
            recipes={"only": {"bundle": str(bundle.path.absolute()), "precision": options.precision}},
            outputs={"plc": {"kind": "modbus", "listen": f"127.0.0.1:{port}", "camera": "top"}},
        )  # fmt: skip
        with running(file) as process:
            plc = PartProgram(port)
            wait_until(lambda: process.lives() and plc.ready(), "the station's start")
            plc.run(options.rate, 60 * options.minutes)
            plc.close()
            counts = process.stop()["top"]
        stored = answered(folder / "data" / "store.db")
    faults = judge(plc, stored, counts.captured - counts.inspected - counts.dropped)
    rows = figures(plc, options.rate)
    where = {**environment(bundle), "rate": options.rate, "minutes": options.minutes, "deadline_ms": options.deadline}
    if options.json:
        print(json.dumps({"environment": where, "rows": rows, "ratios": [], "faults": faults}))
    else:
        print(table(where, rows, faults))
    return 1 if any(faults.values()) else 0


def answered(store: Path) -> list[str]:
    """Parts in the order in which the store holds their answers."""
    with sqlite3.connect(store) as database:
        return [str(row[0]) for row in database.execute("SELECT part FROM answers ORDER BY id")]


def judge(plc: PartProgram, stored: list[str], unaccounted: int) -> dict[str, int]:
    """What must be nought."""
    triggered, told = list(plc.triggered), [result.part for result in plc.results]
    return {
        "missed": plc.missed,
        "held back": plc.held_back,
        "not answered": len(set(triggered) - set(told)),
        "answered twice": len(told) - len(set(told)),
        "out of order": sum(
            a != b for a, b in zip(told, [part for part in triggered if part in set(told)], strict=False)
        ),
        "gaps in result numbers": sum(result.number != k for k, result in enumerate(plc.results, 1)),
        "stored otherwise": int(stored != told),
        "frames unaccounted for": unaccounted,
    }


def figures(plc: PartProgram, rate: float) -> list[dict[str, object]]:
    """Rates and latencies."""
    reasons = Counter(REASONS.get(result.reason, "other") for result in plc.results)
    times = list(plc.triggered.values())
    achieved = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
    rows = [row("parts triggered", "1", [float(len(times))]), row("parts answered", "1", [float(len(plc.results))])]
    rows += [row(f"answered: {reason}", "1", [float(reasons[reason])]) for reason in REASONS.values()]
    rows += [row("triggers", "1/s", [achieved]), row("latest trigger after it was due", "ms", [1000 * plc.latest])]
    for name, values in (("station", [r.latency for r in plc.results]), ("PLC", [r.seen for r in plc.results])):
        for key, found in zip(("p50", "p99", "max"), np.percentile(values or [0.0], [50, 99, 100]), strict=True):
            rows.append(row(f"trigger to result, {name}, {key}", "ms", [float(found)]))
    return rows


def table(where: dict[str, object], rows: list[dict[str, Any]], faults: dict[str, int]) -> str:
    """For people."""
    lines = [", ".join(f"{name} {value}" for name, value in where.items())]
    lines += [f"{each['name']:34} {each['median']:>10} {each['unit']}" for each in rows]
    return "\n".join([*lines, "faults: " + ", ".join(f"{name} {number}" for name, number in faults.items())])
