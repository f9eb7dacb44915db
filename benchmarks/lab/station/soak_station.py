"""The station of a soak: two cameras and every sink and output that can be had here, and all that stands outside it."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack
from pathlib import Path

from dskd.benchmarks.lab.station.broken_network import Subscriber
from dskd.benchmarks.lab.station.broker import Broker
from dskd.benchmarks.lab.station.drill import count, csv_keys, station_file, wait_until
from dskd.benchmarks.lab.station.onlookers import Browser, Onlooker, Receiver, ResultTaker, scrape
from dskd.benchmarks.lab.station.station_process import Counts
from dskd.runtime.errors import DskdError

CAMERAS = ("left", "right")
SCRAPES = 5.0  # seconds between two
SETTLING = 20.0  # seconds for what is under way to reach the far side


class Outside:
    """Broker, reader, receiver, browser, scraper and PLC. ``ports``: of page, metrics and Modbus."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self._folder = folder
        self.page, self.metrics, self.modbus = ports
        self.receiver = Receiver()
        self.broker = Broker(folder)
        self.browser = Browser(self.page, list(CAMERAS))
        self._taker = ResultTaker(self.modbus)
        self._onlookers: list[Onlooker] = []
        self._stack = ExitStack()

    def __enter__(self) -> Outside:
        self._stack.callback(self.receiver.stop)
        self.broker.start()
        self._stack.callback(self.broker.kill)
        self.reader = Subscriber(self.broker.port, "soak")
        self._stack.callback(self.reader.stop)
        return self

    def __exit__(self, *error: object) -> None:
        self.look_away()
        self._stack.close()

    def look(self) -> None:
        """Browser, scraper and PLC begin; until the station listens they fail."""
        looks = [("browser", Browser.PERIOD, self.browser.look), ("plc", ResultTaker.PERIOD, self._taker.look)]
        for name, period, look in [*looks, ("scraper", SCRAPES, lambda: scrape(self.metrics))]:
            self._onlookers.append(Onlooker(name, period, look))

    def look_away(self) -> None:
        """They end."""
        for onlooker in self._onlookers:
            onlooker.stop()

    def tally(self) -> dict[str, int]:
        """How often each was answered, and what came twice."""
        found = {f"{each.name} answers": each.answers for each in self._onlookers}
        found |= {f"{each.name} failures": each.failures for each in self._onlookers}
        found |= {"plc results": self._taker.taken, "plc overruns": self._taker.overruns}
        found |= {"mqtt deliveries": len(self.reader.keys), "webhook deliveries": len(self.receiver.keys)}
        csv, csv_twice = self._csv()
        twice = {"mqtt": len(self.reader.keys) - len(set(self.reader.keys)), "csv": csv_twice}
        twice["webhook"] = len(self.receiver.keys) - len(set(self.receiver.keys))
        return {**found, "csv records": len(csv), **{f"{name} duplicates": n for name, n in twice.items()}}

    def settle(self) -> None:
        """Until the broker has told its reader all."""
        known = len(self.reader.keys)
        while True:
            try:
                wait_until(lambda known=known: len(self.reader.keys) > known, "more", 1.0)  # type: ignore[misc]
            except DskdError:
                return
            known = len(self.reader.keys)

    def lost(self, counts: dict[str, Counts]) -> dict[str, int]:
        """Frames and records that are missing: in the cameras' sums, in the store, and before a sink's last record."""
        store = self._folder / "data" / "store.db"
        inspected = sum(each.inspected for each in counts.values())
        dropped = sum(each.dropped for each in counts.values())
        lost = {
            "frames unaccounted for": sum(each.captured for each in counts.values()) - inspected - dropped,
            "inspections not in the store": inspected - count(store, "inspections"),
            "drops not in the store": dropped - count(store, "dropped"),
        }
        with sqlite3.connect(store) as database:
            (name,) = database.execute("SELECT value FROM notes WHERE name = 'store'").fetchone()
            rows = database.execute("SELECT id, kind, verdict FROM records").fetchall()
        told = {"csv": self._csv()[0], "mqtt": set(self.reader.keys), "webhook": set(self.receiver.keys)}
        wanted = {
            "csv": {f"{name}-{k}" for k, kind, _ in rows if kind != "answer"},
            "mqtt": {f"{name}-{k}" for k, kind, _ in rows if kind == "inspection"},
            "webhook": {f"{name}-{k}" for k, kind, verdict in rows if kind == "inspection" and verdict == "REJECT"},
        }
        return {**lost, **{f"{sink} gaps": len(gaps(wanted[sink], told[sink])) for sink in told}}

    def _csv(self) -> tuple[set[str], int]:
        keys, twice = set[str](), 0
        for file in self._folder.glob("sink*.csv"):
            found, repeated = csv_keys(file)
            twice += repeated + len(keys & found)
            keys |= found
        return keys, twice


def gaps(wanted: set[str], told: set[str]) -> list[int]:
    """Ids of records that a sink was not told of although it was told of a later one; what is after its last one waits."""

    def number(key: str) -> int:
        return int(key.rpartition("-")[2])

    last = max(map(number, told), default=0)
    return sorted(record for record in map(number, wanted - told) if record <= last)


def soak_file(folder: Path, bundle: Path, fps: float, size: str, outside: Outside) -> Path:
    """Two free cameras on one backend, the store, archive, CSV, MQTT, webhook, Modbus, metrics and the page."""
    source = f"test://pattern?size={size}&fps={fps:g}"
    recipe = {"bundle": str(bundle.absolute())}
    recipes = {
        "pass-all": {**recipe, "review": 1e5, "reject": 1e5},
        "reject-all": {**recipe, "review": 0.0, "reject": 0.0},
    }
    fields: dict[str, object] = {
        "name": "soak",
        "cameras": {
            name: {"source": f"{source}&seed={k}", "recipe": recipe, "policy": "latest"}
            for k, (name, recipe) in enumerate(zip(CAMERAS, recipes, strict=True))
        },
        "recipes": recipes,
        "outputs": {"plc": {"kind": "modbus", "listen": f"127.0.0.1:{outside.modbus}", "camera": CAMERAS[0]}},
        "metrics": {"listen": f"127.0.0.1:{outside.metrics}"},
        "web": {"listen": f"127.0.0.1:{outside.page}"},
        "sinks": {
            "archive": {"kind": "archive", "keep": "rejects and 1 in 100 passes", "max_count": 500},
            "csv": {"kind": "csv", "path": str(folder / "sink.csv"), "max_mb": 1},
            "hook": {"kind": "webhook", "url": f"http://127.0.0.1:{outside.receiver.port}/", "on": ["REJECT"]},
            "mes": {"kind": "mqtt", "broker": f"mqtt://127.0.0.1:{outside.broker.port}", "topic": "soak"},
        },
    }
    return station_file(folder, bundle, {}, **fields)
