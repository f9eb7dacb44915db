"""What a fault drill needs: a real station on a folder of its own, patience, and honest counting."""

from __future__ import annotations

import csv
import json
import random
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dskd.runtime.errors import DskdError
from dskd.runtime.station.control import CameraStatus, PartStatus
from dskd.runtime.station.load import load_station
from dskd.runtime.station.station import Station

POLL = 0.005  # seconds
PATIENCE = 120.0  # seconds after which a drill has failed


@dataclass(frozen=True)
class Fault:
    """One drill. ``lost`` inspections are in no store or never reached the sink, ``duplicates`` are those at the sink."""

    name: str
    detected_s: float
    recovered_s: float
    captured: int
    inspected: int
    dropped: int
    lost: int
    duplicates: int

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def wait_until(what: Callable[[], object], why: str, patience: float = PATIENCE) -> float:
    """Seconds until ``what()`` is true. Raises DskdError that says what did not happen."""
    start = time.monotonic()
    while not what():
        if time.monotonic() - start > patience:
            raise DskdError(f"drill: {why} did not happen in {patience:.0f} seconds")
        time.sleep(POLL)
    return time.monotonic() - start


def free_port() -> int:
    """A port that nobody listens on now, nor takes by asking for any: the system gives those from 32768 on."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dskd-drill-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def station_file(folder: Path, bundle: Path, camera: Mapping[str, object], **changes: object) -> Path:
    """The file of a station in ``folder`` with one camera, ``top``, and one recipe, ``only``, but for ``changes``."""
    fields: dict[str, object] = {
        "name": "drill",
        "data": str(folder / "data"),
        "cameras": {"top": {"recipe": "only", **camera}},
        "recipes": {"only": {"bundle": str(bundle.absolute())}},
        **changes,
    }
    file = folder / "station.yaml"
    file.write_text(json.dumps(fields, indent=1))  # JSON is YAML
    return file


class Drill:
    """A station with one camera and a CSV sink, in ``folder``."""

    def __init__(self, folder: Path, bundle: Path, source: str, **changes: object) -> None:
        self.folder = folder
        sinks = {"csv": {"kind": "csv", "path": str(folder / "sink.csv")}}
        self.file = station_file(folder, bundle, {"source": source}, **{"sinks": sinks, **changes})
        self.station = Station(load_station(self.file))

    def __enter__(self) -> Drill:
        self.station.start()
        try:
            wait_until(lambda: self.camera().inspected > 0, "a first inspection")
        except BaseException:
            self.station.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.station.stop()

    def camera(self) -> CameraStatus:
        """The camera now."""
        return self.station.status().cameras[0]

    def part(self, name: str) -> PartStatus:
        """A sink, output, or the store."""
        return next(part for part in self.station.status().parts if part.name == name)

    def settle(self) -> None:
        """Captures no more, and returns when all that was captured is in the store."""
        self.station.cameras["top"].capture.stop()
        store = self.folder / "data" / "store.db"
        wait_until(
            lambda: not (camera := self.camera()).waiting and count(store, "inspections") >= camera.inspected,
            "storing all",
        )
        wait_until(lambda: self.station.recorder.spooled == 0, "the recorder's knowing of it")

    def goes_on(self) -> float:
        """Seconds until another frame is inspected and the camera is well."""
        seen = self.camera().inspected
        return wait_until(lambda: self.camera().inspected > seen and self.camera().status.health == "ok", "recovery")

    def account(self, name: str, detected: float, recovered: float) -> Fault:
        """Stops the station and counts. Raises DskdError where a frame is unaccounted for."""
        wait_until(lambda: self.station.recorder.spooled == 0, "storing all")
        self.station.stop()
        camera = self.camera()
        if camera.captured != camera.inspected + camera.dropped:
            raise DskdError(
                f"drill {name}: {camera.captured} captured, {camera.inspected} inspected, {camera.dropped} dropped"
            )
        stored = count(self.folder / "data" / "store.db", "inspections")
        _, duplicates = csv_keys(self.folder / "sink.csv")
        lost = camera.inspected - stored
        return Fault(name, detected, recovered, camera.captured, camera.inspected, camera.dropped, lost, duplicates)


def count(store: Path, table: str) -> int:
    """Rows of one of the store's tables or views."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 (our own names)


def csv_keys(file: Path) -> tuple[set[str], int]:
    """Keys of the records in a CSV sink, and how many came twice."""
    if not file.exists():
        return set(), 0
    with file.open(newline="") as lines:
        keys = [row["key"] for row in csv.DictReader(lines)]
    return set(keys), len(keys) - len(set(keys))
