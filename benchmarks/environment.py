"""The machine and the software that figures belong to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path

from pydantic import JsonValue

from dskd.jetson.machine import Machine
from dskd.jetson.platform import find_platform
from dskd.jetson.power import read_power
from dskd.jetson.telemetry import read_telemetry
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.cuda import find_device

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "cuda-bindings",
            "pycuda")  # fmt: skip
SPEED = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")
GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def describe(machine: Machine | None = None) -> dict[str, JsonValue]:
    """Everything that a reader needs to place a figure. What this machine does not tell is left out."""
    machine = machine or Machine()
    cpuinfo = machine.text("/proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.M)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.M)
    memory = re.search(r"MemTotal:\s+(\d+) kB", machine.text("/proc/meminfo") or "")
    found: dict[str, JsonValue] = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "cpu": model[1].strip() if model else None,
        "instructions": [name for name in SPEED if flags and name in flags[1].split()],
        "cores": len(os.sched_getaffinity(0)),
        "governor": machine.text(GOVERNOR),
        "load": round(os.getloadavg()[0], 2),
        "memory_mb": round(int(memory[1]) / 1000) if memory else None,
        "versions": versions(),
        "commit": commit(),
        **_gpu(),
        **_jetson(machine),
    }
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def versions() -> dict[str, JsonValue]:
    """Of the packages that matter here and are installed."""
    found: dict[str, JsonValue] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Of the checkout that runs, with a plus where it was changed; None where it is installed without git."""
    folder = Path(__file__).resolve().parents[1]
    try:
        words = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _gpu() -> dict[str, JsonValue]:
    try:
        device = find_device()
    except DskdError:
        return {}
    return {
        "gpu": device.name,
        "gpu_memory_mb": round(device.memory_bytes / 1e6),
        "compute_capability": device.compute_capability,
    }


def _jetson(machine: Machine) -> dict[str, JsonValue]:
    known = find_platform(machine)
    if known.model is None or known.l4t is None:
        return {}
    power, reading = read_power(machine), read_telemetry(machine)
    return {
        "model": known.model,
        "l4t": ".".join(map(str, known.l4t)),
        "jetpack": known.jetpack,
        "power_mode": power.mode,
        "clocks_locked": power.clocks_locked,
        "gpu_clock_mhz": None if reading.gpu_clock.now is None else reading.gpu_clock.now / 1e6,
        "memory_clock_mhz": None if reading.emc_clock.now is None else reading.emc_clock.now / 1e6,
        "hottest_celsius": reading.hottest,
    }
