"""``dskd jetson agent``, ``update``, ``slots`` and ``inventory``: one device's part in the fleet."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from pathlib import Path

from dskd.jetson.agent import Agent, open_link
from dskd.jetson.fleet_config import FleetConfig, load_fleet_config
from dskd.jetson.inventory import inventory
from dskd.runtime.errors import CallError, Parser

CONFIG = Path("/etc/dskd/fleet.yaml")
EXAMPLES = {
    "agent": "dskd jetson agent                                 as the service dskd-agent does\n"
    "dskd jetson agent --config fleet.yaml",
    "update": "sudo dskd jetson update                           take the newest update now\n"
    "sudo dskd jetson update --json",
    "slots": "dskd jetson slots status\n"
    "sudo dskd jetson slots confirm                    what is on trial stays\n"
    "sudo dskd jetson slots roll-back\n"
    "sudo dskd jetson slots allow --version 12",
    "inventory": "dskd jetson inventory\ndskd jetson inventory --config fleet.yaml",
}


def _parser(name: str, description: str) -> Parser:
    options = Parser(prog=f"dskd jetson {name}", description=description, examples=EXAMPLES[name])
    options.add_argument("--config", type=Path, default=CONFIG, help=f"default: {CONFIG}")
    options.add_schema(lambda: FleetConfig)
    return options


def agent(arguments: list[str]) -> int:
    """Runs until SIGTERM or SIGINT."""
    chosen = _parser("agent", "Takes updates, watches them at the line, confirms or rolls back, tells the fleet.").parse_args(arguments)  # fmt: skip
    config = load_fleet_config(chosen.config)
    slots, wake = config.open_slots(), threading.Event()
    link = open_link(config, wake)
    worker = Agent(config, slots, link)

    def stop(*_: object) -> None:
        worker.stop()
        wake.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        while not worker.stopping.is_set():
            patience = worker.step(time.monotonic())
            wake.wait(patience)
            wake.clear()
    finally:
        if link:
            link.close()
    return 0


def update(arguments: list[str]) -> int:
    """One update, now."""
    options = _parser("update", "Takes the newest update of the source now, and puts it on trial.")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = options.parse_args(arguments)
    config = load_fleet_config(chosen.config)
    outcome = Agent(config, config.open_slots(), None).updater.run()
    fields = {"action": outcome.action, "version": outcome.version, "detail": outcome.detail}
    print(json.dumps(fields) if chosen.json else f"{outcome.action}: {outcome.detail}")
    return 0


def slots(arguments: list[str]) -> int:
    """State, start, confirmation and roll-back by hand."""
    options = _parser("slots", "The two places of a bundle.")
    options.add_argument(
        "do",
        choices=("status", "boot", "confirm", "roll-back", "allow"),
        help="boot: choose what to start from and count the start (the station's unit does it);\n"
        "confirm, roll-back: end a trial by hand;\n"
        "allow: take back what speaks against --version here",
    )
    options.add_argument("--version", type=int, help="of allow")
    chosen = options.parse_args(arguments)
    if chosen.do == "boot" and not chosen.config.exists():
        print("no fleet is set up here; the station starts from what its configuration names")
        return 0
    places = load_fleet_config(chosen.config).open_slots()
    if chosen.do == "boot" and not places.holds_any():
        print("no update was installed yet; the station starts from what its configuration names")
        return 0
    if chosen.do == "boot":
        start = places.boot()
        back = f"; rolled back: {start.rolled_back}" if start.rolled_back else ""
        print(
            f"slot {start.slot}: version {start.version}, {start.bundle.id}{', on trial' if start.on_trial else ''}{back}"
        )
        return 0
    if chosen.do == "confirm":
        places.confirm()
    elif chosen.do == "allow":
        if chosen.version is None or not 1 <= chosen.version < 1 << 53:
            raise CallError("slots allow: name the version, as in --version 12")
        places.allow(chosen.version)
    elif chosen.do == "roll-back":
        places.roll_back("by hand")
    print(places.read().model_dump_json(indent=1))
    return 0


def show_inventory(arguments: list[str]) -> int:
    """The inventory, as the fleet gets it."""
    options = _parser("inventory", "What this device is and runs, as JSON.")
    chosen = options.parse_args(arguments)
    config = load_fleet_config(chosen.config) if chosen.config.exists() else None
    name = config.device if config else socket.gethostname()
    print(json.dumps(inventory(name, config.open_slots() if config else None), indent=1))
    return 0
