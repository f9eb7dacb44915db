"""Power, temperature, load, clocks and throttling of the device, read from sysfs below an injectable root."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dskd.jetson.machine import Machine

LOAD = ("/sys/class/devfreq/*gpu*/device/load", "/sys/class/devfreq/*ga10b*/device/load",
        "/sys/devices/platform/bus@0/17000000.gpu/load", "/sys/devices/platform/17000000.gpu/load",
        "/sys/devices/platform/17000000.ga10b/load", "/sys/devices/17000000.ga10b/load",
        "/sys/devices/platform/gpu.0/load", "/sys/devices/gpu.0/load")  # fmt: skip
DEVFREQ = ("/sys/class/devfreq/*gpu*", "/sys/class/devfreq/*ga10b*")
EMC = "/sys/kernel/debug/bpmp/debug/clk/emc"
# A total where the board measures one; else the three rails that together are all of an AGX Orin.
TOTAL = "VDD_IN"
PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
COLDEST = -100_000  # milli °C: a zone whose sensor is off gives -256000
# what the over-current counters count
THROTTLE = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}


@dataclass(frozen=True)
class Clock:
    """A clock in Hz: now and the range that the governor may use; locked where the range is one value."""

    now: int | None
    low: int | None
    high: int | None

    @property
    def locked(self) -> bool | None:
        """None where the range is not known."""
        return None if self.low is None or self.high is None else self.low == self.high


@dataclass(frozen=True)
class Reading:
    """The device at one moment. What it does not have, or does not let this user read, is None or absent.

    ``time`` seconds since the epoch; ``rails`` and ``total_mw`` mW; ``temperatures`` °C; ``gpu_load`` 0 to 1; ``fan_rpm``
    turns a minute and ``fan_pwm`` 0 to 255; ``throttle`` events since boot by counter (oc1, oc2, oc3).
    """

    time: float
    rails: dict[str, int]
    total_mw: int | None
    temperatures: dict[str, float | None]
    gpu_load: float | None
    gpu_clock: Clock
    emc_clock: Clock
    fan_pwm: int | None
    fan_rpm: int | None
    throttle: dict[str, int]
    alarms: tuple[str, ...]

    @property
    def hottest(self) -> float | None:
        """The highest temperature in °C."""
        return max((t for t in self.temperatures.values() if t is not None), default=None)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def read_telemetry(machine: Machine | None = None) -> Reading:
    """Reads everything once; a few milliseconds. Never raises."""
    machine = machine or Machine()
    sensors = {path.parent: machine.text(path) or "" for path in machine.glob("/sys/class/hwmon/hwmon*/name")}
    rails, alarms = _rails(machine, [path for path, name in sensors.items() if name in ("ina3221", "ina238")])
    return Reading(
        time=time.time(),
        rails=rails,
        total_mw=total_power(rails),
        temperatures=_temperatures(machine),
        gpu_load=_gpu_load(machine),
        gpu_clock=_gpu_clock(machine),
        emc_clock=Clock(*(machine.number(f"{EMC}/{name}") for name in ("rate", "min_rate", "max_rate"))),
        fan_pwm=_first(machine, [path / "pwm1" for path in sensors]),
        fan_rpm=_first(machine, [path / "rpm" for path, name in sensors.items() if name == "pwm_tach"]),
        throttle=_throttle(machine, [path for path, name in sensors.items() if name == "soctherm_oc"]),
        alarms=alarms,
    )


def throttle_deltas(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Events between two readings by counter; after a reboot the counter began anew, so all of it is new."""
    return {key: now - before.get(key, 0) if now >= before.get(key, 0) else now for key, now in after.items()}


def prometheus(reading: Reading) -> str:
    """The reading in Prometheus' text format, for node_exporter's textfile collector."""
    series: dict[str, dict[str, float | None]] = {
        "dskd_power_watts": {f'rail="{k}"': v / 1000 for k, v in reading.rails.items()},
        "dskd_power_total_watts": {"": None if reading.total_mw is None else reading.total_mw / 1000},
        "dskd_temperature_celsius": {f'zone="{k}"': v for k, v in reading.temperatures.items()},
        "dskd_gpu_load_ratio": {"": reading.gpu_load},
        "dskd_gpu_clock_hertz": {"": reading.gpu_clock.now},
        "dskd_memory_clock_hertz": {"": reading.emc_clock.now},
        "dskd_fan_rpm": {"": reading.fan_rpm},
        "dskd_throttle_events_total": {f'cause="{THROTTLE.get(k, k)}"': v for k, v in reading.throttle.items()},
    }
    lines = []
    for name, values in series.items():
        known = {label: value for label, value in values.items() if value is not None}
        if known:
            lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
        lines += [f"{name}{{{label}}} {value}" if label else f"{name} {value}" for label, value in known.items()]
    return "".join(line + "\n" for line in lines)


def _rails(machine: Machine, sensors: list[Path]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Power by label in mW, and the labels whose current is over its limit. ``hwmonN`` changes by boot: found by name."""
    rails: dict[str, int] = {}
    alarms = []
    for sensor in sensors:
        for channel in range(1, 4):  # channel 7 is the sum of shunt voltages, no rail
            label = machine.text(sensor / f"in{channel}_label") or f"{sensor.name}_in{channel}"
            millivolts, milliamperes = (machine.number(sensor / f"{kind}{channel}_input") for kind in ("in", "curr"))
            if label == "NC" or millivolts is None or milliamperes is None:
                continue
            rails[label] = round(millivolts * milliamperes / 1000)
            if any(machine.number(sensor / f"curr{channel}_{alarm}_alarm") for alarm in ("crit", "max")):
                alarms.append(label)
    return rails, tuple(alarms)


def _temperatures(machine: Machine) -> dict[str, float | None]:
    """``cpu``, ``gpu``, ``tj``, … in °C: JetPack 5 calls them CPU-therm, JetPack 6 and 7 cpu-thermal."""
    found: dict[str, float | None] = {}
    for zone in machine.glob("/sys/class/thermal/thermal_zone*"):
        kind = machine.text(zone / "type")
        if kind:
            milli = machine.number(zone / "temp")
            name = re.sub(r"[-_]therm(al)?$", "", kind.lower())
            found[name] = None if milli is None or milli <= COLDEST else milli / 1000
    return found


def _gpu_load(machine: Machine) -> float | None:
    permille = _first(machine, [path for pattern in LOAD for path in machine.glob(pattern)])
    return None if permille is None else permille / 1000


def _gpu_clock(machine: Machine) -> Clock:
    for folder in (path for pattern in DEVFREQ for path in machine.glob(pattern)):
        if (now := machine.number(folder / "cur_freq")) is not None:
            return Clock(now, machine.number(folder / "min_freq"), machine.number(folder / "max_freq"))
    return Clock(None, None, None)


def _throttle(machine: Machine, sensors: list[Path]) -> dict[str, int]:
    counts = {key: _first(machine, [sensor / f"{key}_event_cnt" for sensor in sensors]) for key in THROTTLE}
    return {key: count for key, count in counts.items() if count is not None}


def _first(machine: Machine, paths: list[Path]) -> int | None:
    """The first number there is."""
    return next((number for path in paths if (number := machine.number(path)) is not None), None)


def total_power(rails: Mapping[str, int]) -> int | None:
    """``VDD_IN``, or on AGX Orin its three parts (``VDDQ_VDD2_1V8AO`` is behind ``VIN_SYS_5V0``); mW."""
    if TOTAL in rails:
        return rails[TOTAL]
    return sum(rails[part] for part in PARTS) if all(part in rails for part in PARTS) else None
