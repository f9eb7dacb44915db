"""Checks of the module itself: what it is, power, clocks, heat, DLA."""

from __future__ import annotations

import time

from dskd.jetson.doctor.base import Context, Finding, fail, ok, warn
from dskd.jetson.platform import written
from dskd.jetson.power import largest_mode
from dskd.jetson.telemetry import THROTTLE, read_telemetry, throttle_deltas

HOT, TOO_HOT = 85.0, 97.0  # °C; Orin slows down at about 99 and switches off at about 104.5
NOT_A_JETSON = "not a Jetson"


def device(context: Context) -> Finding:
    """Model and module."""
    found = context.platform
    if not found.is_jetson:
        return ok(f"{NOT_A_JETSON}: a plain {found.architecture} machine; checks of the module find nothing here")
    memory = f", {found.memory_bytes / 1e9:.0f} GB" if found.memory_bytes else ""
    module = f"module {found.module.name}" if found.module else f"module {found.part or 'unknown'}"
    return ok(f"{found.model or 'Jetson'}: {module}{memory}")


def l4t(context: Context) -> Finding:
    """L4T and JetPack."""
    found = context.platform
    if not found.is_jetson:
        return ok(NOT_A_JETSON)
    if found.l4t is None:
        return warn(
            "no L4T found in /etc/nv_tegra_release or dpkg", "sudo apt install nvidia-l4t-core, or flash JetPack"
        )
    if found.generation not in ("jp6", "jp7"):
        return fail(
            f"L4T {written(found.l4t)} (JetPack {found.jetpack}) has a Python older than 3.10",
            "flash JetPack 6.2 or 7.2 with NVIDIA's SDK Manager",
        )
    if not found.jetpack_known:
        return warn(
            f"L4T {written(found.l4t)} is not in the table; the nearest is JetPack {found.jetpack}",
            "go on and watch the golden check; if it passes, all is well",
        )
    return ok(f"L4T {written(found.l4t)}, JetPack {found.jetpack}")


def power_mode(context: Context) -> Finding:
    """The power mode by name, against the one asked for or the module's largest."""
    state = context.power
    if not state.modes:
        return ok(NOT_A_JETSON) if not context.platform.is_jetson else warn(
            "no power modes in /etc/nvpmodel.conf", "sudo apt install --reinstall nvidia-l4t-nvpmodel"
        )  # fmt: skip
    wanted = context.power_mode or largest_mode(state.modes)
    if wanted not in state.modes:
        return fail(f"there is no power mode {wanted}", f"choose one of {', '.join(sorted(state.modes))}")
    if state.mode != wanted:
        return warn(
            f"power mode is {state.mode or 'unknown'}, wanted is {wanted}",
            f"sudo dskd jetson power --mode {wanted} --apply (or doctor --power-mode {state.mode})",
        )
    return ok(f"{state.mode} of {', '.join(sorted(state.modes))}")


def clocks(context: Context) -> Finding:
    """Whether clocks are locked: a governor that ramps up makes the first parts after a pause late."""
    clock = context.reading.gpu_clock
    if clock.now is None:
        return ok(NOT_A_JETSON) if not context.platform.is_jetson else warn(
            "GPU clocks cannot be read below /sys/class/devfreq", "boot NVIDIA's kernel"
        )  # fmt: skip
    shown = f"GPU {clock.now / 1e6:.0f} MHz of {(clock.low or 0) / 1e6:.0f} to {(clock.high or 0) / 1e6:.0f}"
    if clock.locked is False:
        return warn(f"clocks are free: {shown}", "for even latency: sudo dskd jetson power --clocks lock --apply")
    return ok(f"clocks are locked: {shown}")


def temperatures(context: Context) -> Finding:
    """Whether it is near the temperature at which it slows down."""
    hottest = context.reading.hottest
    if hottest is None:
        return ok("no thermal zones to read")
    zones = {name: degrees for name, degrees in context.reading.temperatures.items() if degrees is not None}
    name = max(zones, key=lambda zone: zones[zone])
    shown = f"hottest is {name} with {hottest:.1f} °C"
    mend = "clean the heat sink, check the fan (dskd jetson telemetry), cool the cabinet or choose a lower power mode"
    if hottest >= TOO_HOT:
        return fail(f"{shown}: it slows down at about 99", mend)
    return warn(shown, mend) if hottest >= HOT else ok(shown)


def throttling(context: Context) -> Finding:
    """Events that slowed the device down: under-voltage and average over-current count, short bursts only by their rate."""
    first = context.reading
    if not first.throttle:
        return ok("no throttle counters here")
    time.sleep(context.wait)
    last = read_telemetry(context.machine)
    fresh = throttle_deltas(first.throttle, last.throttle)
    shown = ", ".join(f"{THROTTLE[key]} {count}" for key, count in last.throttle.items())
    mend = "use the supply that the carrier board asks for, and a power mode that it can feed (dskd jetson power)"
    if any(fresh.get(key) for key in ("oc1", "oc2")) or last.alarms:
        rails = f"; over their limit: {', '.join(last.alarms)}" if last.alarms else ""
        return fail(f"throttled right now ({shown} since boot{rails})", mend)
    if any(last.throttle.get(key) for key in ("oc1", "oc2")):
        return warn(f"throttled since boot: {shown}", mend)
    return ok(f"since boot: {shown}")


def dla(context: Context) -> Finding:
    """DLA cores: as built, and whether this JetPack serves them."""
    found = context.platform
    if found.module is None:
        return ok(NOT_A_JETSON if not found.is_jetson else "module unknown: TensorRT tells (builder.num_DLA_cores)")
    if found.module.dla_cores == 0:
        return ok(f"{found.module.name} has no DLA")
    if found.generation == "jp7":
        return warn(
            f"{found.module.dla_cores} DLA cores, which TensorRT 10.16 of JetPack 7.2 does not serve",
            "run on the GPU; TensorRT 11.4.1 on JetPack 7.2.2 serves AGX Orin's again",
        )
    return ok(f"{found.module.dla_cores} DLA cores")
