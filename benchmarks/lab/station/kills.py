"""SIGKILL of a whole station at random moments, again and again, while a PLC triggers and takes results."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from dskd.benchmarks.lab.station.drill import Fault, count, csv_keys, free_port, scratch, station_file, wait_until
from dskd.benchmarks.lab.station.plc import Plc, bit, part_of
from dskd.runtime.errors import DskdError

TRIGGER = {"kind": "software", "deadline_ms": 5000}
CAMERA = {"source": "test://pattern?size=320x240&fps=30", "trigger": TRIGGER}


def kills(bundle: Path, number: int) -> Fault:
    """What the PLC was told of is in the store, once, and so is every part whose trigger was acknowledged to it.

    Detected: when the PLC sees the station go.
    """
    with scratch() as folder:
        port = free_port()
        file = station_file(
            folder, bundle, CAMERA,
            outputs={"plc": {"kind": "modbus", "listen": f"127.0.0.1:{port}", "camera": "top"}},
            sinks={"csv": {"kind": "csv", "path": "sink.csv"}},
        )  # fmt: skip
        told: list[str] = []
        acknowledged = 0
        chance = random.Random(number)  # noqa: S311 a drill that can be repeated
        detected, recovered = 0.0, 0.0
        for _ in range(number):
            start = time.monotonic()
            command = [sys.executable, "-m", "dskd.runtime.station", str(file)]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603
            try:
                plc = connected(port, process)
                recovered = max(recovered, time.monotonic() - start)
                acknowledged += work(plc, told, chance.uniform(0.0, 2.0))
                killed = time.monotonic()
                process.send_signal(signal.SIGKILL)
                detected = max(detected, hung_up(plc, killed))
            finally:
                process.kill()
                process.wait()
        finish(file)
        return account(folder, told, acknowledged, detected, recovered)


def connected(port: int, process: subprocess.Popen[bytes]) -> Plc:
    """The PLC's connection, once a trigger would be taken."""
    found: list[Plc] = []

    def ready() -> bool:
        if process.poll() is not None:
            raise DskdError("drill: the station ended by itself")
        with suppress(OSError):
            if not found:
                found.append(Plc(port))
                found[0].coil("TriggerEnable", True)
            return bit(found[0].registers(), "TriggerReady")
        return False

    wait_until(ready, "the station's start", 60)
    return found[0]


def work(plc: Plc, told: list[str], seconds: float) -> int:
    """Triggers and takes results as fast as they come; returns how many triggers were acknowledged."""
    acknowledged = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        plc.coil("Trigger", True)
        acknowledged += bit(plc.registers(), "TriggerAck")
        plc.coil("Trigger", False)
        registers = plc.registers()
        if bit(registers, "ResultsValid"):
            told.append(part_of(registers))
            plc.coil("ResultsAck", True)
            plc.coil("ResultsAck", False)
    return acknowledged


def hung_up(plc: Plc, since: float) -> float:
    """Seconds until the PLC notices."""
    with suppress(OSError):
        while True:
            plc.registers()
    plc.close()
    return time.monotonic() - since


def finish(file: Path) -> None:
    """A last run that delivers what is left, and a clean stop."""
    process = subprocess.Popen([sys.executable, "-m", "dskd.runtime.station", str(file)], stderr=subprocess.DEVNULL)  # noqa: S603
    store, sink = file.parent / "data" / "store.db", file.parent / "sink.csv"
    try:
        wait_until(
            lambda: (
                not count(store, "announced")
                and len(csv_keys(sink)[0]) >= count(store, "inspections") + count(store, "dropped")
            ),
            "delivery",
            60,
        )
        process.terminate()
        process.wait(30)
    finally:
        process.kill()


def account(folder: Path, told: list[str], acknowledged: int, detected: float, recovered: float) -> Fault:
    """What is in the store and at the sink after all kills."""
    store = folder / "data" / "store.db"
    with sqlite3.connect(store) as database:
        if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise DskdError("drill: the store is damaged")
        answered = [str(row[0]) for row in database.execute("SELECT part FROM answers")]
    if len(answered) != len(set(answered)):
        raise DskdError("drill: a part was answered twice")
    inspected, dropped = count(store, "inspections"), count(store, "dropped")
    lost = max(len(set(told) - set(answered)), acknowledged - len(answered))
    return Fault(
        "SIGKILL", detected, recovered, inspected + dropped, inspected, dropped, lost, csv_keys(folder / "sink.csv")[1]
    )
