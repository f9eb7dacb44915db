"""What a device is and runs, as one JSON object: for the broker, for a person, for whoever plans the next update."""

from __future__ import annotations

import platform
import shutil
import time
from importlib import metadata

from dskd.jetson.machine import Machine
from dskd.jetson.platform import find_platform, written
from dskd.jetson.slots import Slots
from dskd.jetson.telemetry import read_telemetry
from dskd.runtime.errors import DskdError

PACKAGES = ("dskd-edge", "numpy", "onnxruntime", "tensorrt")


def inventory(device: str, slots: Slots | None, machine: Machine | None = None) -> dict[str, object]:
    """Never raises: what cannot be found out is None."""
    machine = machine or Machine()
    here, sensors = find_platform(machine), read_telemetry(machine)
    uptime = (machine.text("/proc/uptime") or "").split()
    return {
        "device": device,
        "time": round(time.time(), 3),
        "model": here.model,
        "part": here.part,
        "l4t": written(here.l4t),
        "jetpack": here.jetpack,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "uptime_s": float(uptime[0]) if uptime else None,
        "hottest_c": sensors.hottest,
        "power_mw": sensors.total_mw,
        "throttle": sensors.throttle,
        "free_bytes": None if slots is None or not slots.folder.exists() else shutil.disk_usage(slots.folder).free,
        "bundle": None if slots is None else _bundle(slots),
    }


def _bundle(slots: Slots) -> dict[str, object]:
    state = slots.read()
    try:
        confirmed = None if state.active is None else slots.statement(state.active).bundle
    except DskdError as error:
        confirmed = f"damaged: {error}"
    return {
        "product": slots.product,
        "version": state.version,
        "bundle": confirmed,
        "floor": state.floor,
        "last_seen_valid": state.seen,
        "trial": None if state.trial is None else state.trial.model_dump(include={"version", "bundle", "starts"}),
        "refused": state.refused,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
