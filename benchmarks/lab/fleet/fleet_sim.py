"""``python -m jetson fleet-sim``: many devices on one machine take a good update, a bad one and a good one again.

Everything but the hardware is real: agents, slots, stores, golden checks, inspections, an MQTT broker (mosquitto) and a
static file host, both of which are killed and started again in between. The bad bundle passes its golden check and then
rejects every part, so only the line can tell.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dskd.benchmarks.lab.fleet.fleet_host import FileHost
from dskd.benchmarks.lab.fleet.power_drill import changed
from dskd.benchmarks.lab.station.broker import Broker
from dskd.jetson.agent import Agent, open_link
from dskd.jetson.fleet_config import FleetConfig
from dskd.jetson.live_check import LiveLimits
from dskd.jetson.publish import publish
from dskd.jetson.signing import load_private, make_key
from dskd.runtime.bundle.loading import Bundle, default_bundle, load_bundle
from dskd.runtime.capture.sources import open_source
from dskd.runtime.errors import CallError, DskdError, Parser
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.pipeline import Tally
from dskd.runtime.pipeline import run as inspect
from dskd.runtime.store import Store, StoreReader

PRODUCT = "simulated"
PATIENCE = 1800.0  # seconds until a phase that does not end is given up
NEVER_REJECTED = 1e9  # a threshold that no score reaches


class Device:
    """One device: an agent, and a station that inspects with whatever bundle its slots start."""

    def __init__(self, config: FleetConfig) -> None:
        self.config, self.slots = config, config.open_slots()
        self.wake = threading.Event()
        assert config.store is not None
        self.store = Store(config.store)
        self.inspected = 0
        self.link = open_link(config, self.wake, say=lambda _: None)
        self.agent = Agent(config, self.slots, self.link, say=lambda _: None)

    def step(self) -> None:
        """The agent's turn, then a round of the station: it starts, inspects its golden frames, and records them."""
        self.wake.clear()
        self.agent.step(time.monotonic())
        state = self.slots.read()
        if state.trial is not None or (state.active is not None and self.inspected == 0):
            with contextlib.suppress(CallError):  # the only bundle it ever had was rolled back
                self._inspect(self.slots.boot().bundle)

    def _inspect(self, bundle: Bundle) -> None:
        backend = open_backend(bundle)
        thresholds = bundle.manifest.graphs[backend.graph].thresholds
        inspector = Inspector(bundle, backend, Settings.of(thresholds))
        try:
            results = inspect(open_source(f"folder://{bundle.path.resolve()}/golden"), inspector, [], Tally())
            records = [found if not isinstance(found, tuple) else found[1] for found in results]
        finally:
            backend.close()
        self.store.add(records)
        self.inspected += len(records)

    def close(self) -> None:
        """Ends the agent and closes the store."""
        self.agent.stopping.set()
        if self.link:
            self.link.close()
        self.store.close()


class Fleet:
    """The devices, their broker and their file host below a folder."""

    def __init__(self, bundle: Bundle, folder: Path, number: int, workers: int) -> None:
        self.folder, self.number, self.workers = folder, number, workers
        private, _ = make_key(folder / "keys", "sim")
        self.key = load_private(private)
        (folder / "broker").mkdir()
        self.host, self.broker = FileHost(folder / "host"), Broker(folder / "broker")
        self.broker.start()
        # golden frames are good parts; what the bundle thinks of them is not what this is about
        self.good = changed(bundle, folder / "good", NEVER_REJECTED)
        self.bad = changed(bundle, folder / "bad", -1.0)
        self.better = changed(bundle, folder / "better", NEVER_REJECTED / 2)
        self.devices = [Device(self._config(k)) for k in range(number)]

    def _config(self, k: int) -> FleetConfig:
        device = self.folder / "devices" / f"{k:03d}"
        device.mkdir(parents=True)
        return FleetConfig.model_validate(
            {
                "device": f"device-{k:03d}",
                "product": PRODUCT,
                "source": self.host.address,
                "keys": self.folder / "keys",
                "slots": device / "bundles",
                "store": device / "store.db",
                "live": LiveLimits(inspections=min(6, 3 * self.good.manifest.golden)),
                "every_s": 1.0,
                "switched": device / "switched",
                "broker": {"address": self.broker.address, "topic": "sim"},
            }
        )

    def publish(self, bundle: Bundle, version: int) -> None:
        """The file host gets it, the broker announces it."""
        publish(bundle, PRODUCT, version, 1, self.host.folder, self.key)
        self.broker.announce(f"sim/update/{PRODUCT}", (self.host.folder / f"{PRODUCT}.update").read_bytes())

    def until(self, done: Callable[[Device], bool], meanwhile: Callable[[float], None] = lambda _: None) -> float:
        """Steps all devices, a few at once, until each is ``done``; gives the seconds it took. Raises DskdError."""
        start = time.monotonic()
        stop = threading.Event()
        waiting = list(self.devices)
        lock = threading.Lock()
        faults: list[BaseException] = []

        def work() -> None:
            try:
                while not stop.is_set():
                    with lock:
                        if not waiting:
                            return
                        device = waiting.pop(0)
                    device.step()
                    if not done(device):
                        with lock:
                            waiting.append(device)
                        stop.wait(0.01)
            except BaseException as error:
                faults.append(error)
                stop.set()

        threads = [threading.Thread(target=work, name=f"fleet-{k}") for k in range(self.workers)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            with lock:
                share = 1 - len(waiting) / self.number
            meanwhile(share)
            if time.monotonic() - start > PATIENCE:
                stop.set()
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        if faults:
            raise DskdError(f"a device failed: {faults[0]!r}") from faults[0]
        if waiting:
            raise DskdError(f"{len(waiting)} of {self.number} devices did not come to an end within {PATIENCE:.0f} s")
        return time.monotonic() - start

    def close(self) -> None:
        """Ends everything."""
        for device in self.devices:
            device.close()
        self.broker.kill()
        self.host.close()


class Restarts:
    """Kills broker and file host once each, when about a third and two thirds of the devices are through."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.done: list[str] = []

    def __call__(self, share: float) -> None:
        """``share`` of the devices are through."""
        if not self.done:
            self.done.append("file host")
            self.fleet.host.restart(away=1.0)
        elif share > 0.3 and len(self.done) == 1:
            self.done.append("broker")
            self.fleet.broker.restart()


def simulate(bundle: Bundle, folder: Path, number: int, workers: int = 4) -> dict[str, Any]:
    """The three updates; gives the figures. Raises DskdError where something is not as it must be."""
    fleet = Fleet(bundle, folder, number, workers)
    try:
        fleet.publish(fleet.good, 1)
        first = fleet.until(lambda device: device.slots.read().version == 1)
        fleet.publish(fleet.bad, 2)
        restarts = Restarts(fleet)
        second = fleet.until(lambda device: "2" in device.slots.read().refused, restarts)
        by_itself = sum("rejects too much" in device.slots.read().refused["2"] for device in fleet.devices)
        restarts_two = Restarts(fleet)
        fleet.publish(fleet.better, 3)
        third = fleet.until(lambda device: device.slots.read().version == 3, restarts_two)
        for device in fleet.devices:  # the last event goes out
            device.step()
        return {
            "devices": number,
            "seconds": {"good": round(first, 1), "bad": round(second, 1), "good again": round(third, 1)},
            "restarts": [*restarts.done, *restarts_two.done],
            **_check(fleet, by_itself),
        }
    finally:
        fleet.close()


def _check(fleet: Fleet, rolled_back: int) -> dict[str, Any]:
    """Every device on version 3 with 2 refused, every inspection in its store, every inventory at the broker."""
    lost = 0
    for device in fleet.devices:
        assert device.config.store is not None
        reader = StoreReader(device.config.store)
        try:
            lost += device.inspected - len(reader.after(0, device.inspected + 1))
        finally:
            reader.close()
    retained = fleet.broker.retained("sim/device/+/inventory", fleet.number)
    told = [json.loads(data)["bundle"]["version"] for data in retained.values()]
    figures = {
        "confirmed": sum(device.slots.read().version == 3 for device in fleet.devices),
        "rolled_back": rolled_back,
        "inspections": sum(device.inspected for device in fleet.devices),
        "inspections_lost": lost,
        "inventories": len(told),
        "inventories_on_3": told.count(3),
    }
    wanted = {"confirmed", "rolled_back", "inventories", "inventories_on_3"}
    if lost or any(figures[name] != fleet.number for name in wanted):
        raise DskdError(f"not as it must be: {figures}")
    return figures


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = Parser(
        prog="python -m jetson fleet-sim", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument("--devices", type=int, default=50, help="default: 50")
    options.add_argument("--workers", type=int, default=4, help="devices that work at the same moment (default: 4)")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = options.parse_args(arguments)
    if not 1 <= chosen.devices <= 1000 or not 1 <= chosen.workers <= 64:
        raise CallError("--devices lies between 1 and 1000, --workers between 1 and 64")
    bundle = load_bundle(chosen.bundle or default_bundle())
    folder = Path(tempfile.mkdtemp(prefix="dskd-fleet-"))
    try:
        with contextlib.redirect_stderr(io.StringIO()) if not sys.stderr.isatty() else contextlib.nullcontext():
            figures = simulate(bundle, folder, chosen.devices, chosen.workers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if chosen.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:16} {value}" for name, value in figures.items()))
    return 0
