"""``python -m benchmarks kills``: SIGKILL of a whole station at random moments, again and again.

A PLC, a program and a line control trigger all the time, by Modbus, HTTP and MQTT. At the end every trigger that was
acknowledged to one of them is answered with a verdict, or listed as a part that was not inspected.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dskd.benchmarks.contenders import check_output
from dskd.benchmarks.lab.station.broker import Broker
from dskd.benchmarks.lab.station.drill import (
    Fault,
    count,
    csv_keys,
    free_port,
    listens,
    scratch,
    station_file,
    wait_until,
)
from dskd.benchmarks.lab.station.trigger_ways import CAMERA, HttpWay, ModbusWay, MqttWay, TriggerWays, Way
from dskd.benchmarks.lab.station.warm_stations import WarmStations
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import default_bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError, MissingPart, Parser
from dskd.runtime.reason import Reason
from dskd.runtime.sinks.archive_index import MISTIMED

TRIGGER = {"kind": "software", "deadline_ms": 5000, "queue": 64}
SOURCE = "test://pattern?size=320x240&fps=30"
PERIOD = 0.01  # seconds between two triggers of one way
LONGEST = 1.0  # seconds of work before a kill
START = 120.0  # seconds that a start may take
TOPIC = "drill"


@dataclass(frozen=True)
class Account:
    """What became of the parts whose trigger was acknowledged, by way, and of pictures that the archive should hold."""

    kills: int
    acknowledged: dict[str, int]
    inspected: int  # of them: answered with a verdict of their own
    fail_safe: int  # answered at the deadline or for a lost frame
    listed: int  # the station was killed before it answered
    missing: int  # of no trace
    twice: int
    told: int  # results that the PLC took
    told_and_not_stored: list[str]
    archive: dict[str, int]
    longest_start: float
    longest_notice: float  # seconds until the PLC saw the station go

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.__dict__)


def kills(bundle: Path, number: int) -> Fault:
    """The drill as ``benchmarks faults`` tells it. Detected: when the PLC sees the station go."""
    with scratch() as folder:
        account = drill(folder, bundle, number, seed=number)
        store = folder / "data" / "store.db"
        inspected, dropped = count(store, "inspections"), count(store, "dropped")
        repeated = csv_keys(folder / "sink.csv")[1]
        return Fault(
            "SIGKILL", account.longest_notice, account.longest_start, inspected + dropped, inspected, dropped, lost(account), repeated
        )  # fmt: skip


def drill(folder: Path, bundle: Path, number: int, seed: int) -> Account:
    """``number`` kills of a station in ``folder``. Raises DskdError where a station ends by itself or a start hangs."""
    chance = random.Random(seed)  # noqa: S311 a drill that can be repeated
    with ExitStack() as stack:
        modbus, page = free_port(), free_port()
        broker = _broker(folder, stack)
        file = _file(folder, bundle, modbus, page, broker)
        stations = stack.enter_context(WarmStations(folder / "station.log"))
        found: list[Way] = [ModbusWay(modbus), HttpWay(page, folder / "data" / "token")]
        if broker is not None:
            found.append(MqttWay(broker.port, TOPIC))
        ways = TriggerWays(found, PERIOD)
        stack.callback(ways.stop)
        longest_start = longest_notice = 0.0
        for _ in range(number):
            longest_start = max(longest_start, _start(stations, file, modbus))
            time.sleep(chance.uniform(0.0, LONGEST))
            stations.end(signal.SIGKILL)
            longest_notice = max(longest_notice, wait_until(lambda: not listens(modbus), "the end of a killed station"))
        ways.stop()
        _finish(stations, file, modbus)
        return _account(folder, number, found, longest_start, longest_notice)


def _broker(folder: Path, stack: ExitStack) -> Broker | None:
    """None where none is installed: then nothing is triggered by MQTT."""
    try:
        broker = Broker(folder)
    except MissingPart:
        return None
    broker.start()
    stack.callback(broker.kill)
    return broker


def _file(folder: Path, bundle: Path, modbus: int, page: int, broker: Broker | None) -> Path:
    sinks: dict[str, object] = {
        "csv": {"kind": "csv", "path": "sink.csv"},
        "archive": {"kind": "archive", "keep": "all", "min_free_gb": 0, "overlay": False, "heat": False},
    }
    if broker is not None:
        sinks["mes"] = {"kind": "mqtt", "broker": broker.address, "topic": TOPIC, "commands": True}
    return station_file(
        folder, bundle, {"source": SOURCE, "trigger": TRIGGER},
        outputs={"plc": {"kind": "modbus", "listen": f"127.0.0.1:{modbus}", "camera": CAMERA, "buffer": 1024}},
        web={"listen": f"127.0.0.1:{page}"}, sinks=sinks,
    )  # fmt: skip


def _start(stations: WarmStations, file: Path, port: int) -> float:
    """Seconds until it takes connections."""
    stations.start(file)

    def ready() -> bool:
        if not stations.lives():
            raise DskdError(f"drill: the station ended by itself: {_last_line(file)}")
        return listens(port)

    return wait_until(ready, "the station's start", START)


def _last_line(file: Path) -> str:
    lines = (file.parent / "station.log").read_text(errors="replace").strip().splitlines() or [""]
    return lines[-1][:300]


def _finish(stations: WarmStations, file: Path, port: int) -> None:
    """A last run that delivers what is left, and a clean stop."""
    store, sink = file.parent / "data" / "store.db", file.parent / "sink.csv"
    _start(stations, file, port)
    wait_until(
        lambda: (
            not count(store, "announced")
            and len(csv_keys(sink)[0]) >= count(store, "inspections") + count(store, "dropped")
        ),
        "delivery",
        START,
    )
    if (code := stations.end(signal.SIGTERM)) != 0:
        raise DskdError(f"drill: the last station ended with {code}: {_last_line(file)}")


def _account(folder: Path, number: int, ways: list[Way], longest_start: float, longest_notice: float) -> Account:
    with sqlite3.connect(folder / "data" / "store.db") as database:
        if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise DskdError("drill: the store is damaged")
        rows = database.execute("SELECT part, reason, inspection FROM answers").fetchall()
        pictures = database.execute("SELECT count(*) FROM inspections").fetchone()[0]
    answers = Counter(str(part) for part, _, _ in rows)
    why = {str(part): str(reason) for part, reason, _ in rows}
    acknowledged = {way.name: set(way.acknowledged.all()) for way in ways}
    parts = set().union(*acknowledged.values())
    told = [part for way in ways if isinstance(way, ModbusWay) for part in way.told]
    listed = sum(why.get(part, "").startswith(str(Reason.STATION_KILLED)) for part in parts)
    inspected = sum(why.get(part) == str(Reason.INSPECTED) for part in parts)
    present = len(parts & answers.keys())
    archive = folder / "data" / "archive"
    kept = sum(file.name != MISTIMED for file in archive.rglob("*.json"))
    lines = [line for file in archive.glob("not_kept*.jsonl") for line in file.read_text().splitlines()]
    listed_there = len({json.loads(line)["id"] for line in lines})  # a kill in the middle of the list repeats some
    return Account(
        kills=number,
        acknowledged={name: len(found) for name, found in acknowledged.items()},
        inspected=inspected,
        fail_safe=present - listed - inspected,
        listed=listed,
        missing=len(parts) - present,
        twice=sum(n > 1 for n in answers.values()),
        told=len(told),
        told_and_not_stored=sorted(set(told) - answers.keys()),
        archive={
            "inspections": pictures,
            "kept": kept,
            "listed as not kept": listed_there,
            "missing": pictures - kept - listed_there,
        },
        longest_start=round(longest_start, 3),
        longest_notice=round(longest_notice, 3),
    )


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(
        prog="python -m benchmarks kills", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    parser.add_argument("--number", type=int, default=1000, help="of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file for the JSON object")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if not 1 <= options.number <= 100_000:
        raise CallError(f"--number {options.number}: between 1 and 100000")
    check_output(options.out)
    bundle = load_bundle(options.bundle or default_bundle())
    with scratch() as folder:
        account = drill(folder, bundle.path, options.number, options.seed)
    text = json.dumps(account.as_dict())
    if options.out is not None:
        atomic.write_text(options.out, text)
    print(text if options.json else table(account))
    return 1 if lost(account) else 0


def lost(account: Account) -> int:
    """Parts, results and pictures that left no trace, and parts that were answered twice."""
    return account.missing + len(account.told_and_not_stored) + account.twice + abs(account.archive["missing"])


def table(account: Account) -> str:
    """For people."""
    ways = ", ".join(f"{name} {number}" for name, number in account.acknowledged.items())
    total = sum(account.acknowledged.values())
    answered = account.inspected + account.fail_safe
    return "\n".join(
        [
            f"{account.kills} kills; longest start {account.longest_start:.2f} s",
            f"acknowledged {total} ({ways})",
            f"  = answered {answered} ({account.inspected} inspected, {account.fail_safe} fail-safe) "
            f"+ listed as not inspected {account.listed} + missing {account.missing}",
            f"answered twice {account.twice}; told to the PLC {account.told}, of them not stored {len(account.told_and_not_stored)}",
            "archive: " + ", ".join(f"{name} {number}" for name, number in account.archive.items()),
        ]
    )
