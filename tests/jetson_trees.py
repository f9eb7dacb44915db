"""Trees of files as a Jetson has them: modules and JetPacks as in NVIDIA's documents, values made up by us."""

from __future__ import annotations

from pathlib import Path

from dskd.jetson.machine import Machine

RELEASES = {
    "jp5": ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023\n"),
    "jp6": ("# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: Mon Jun 16 16:07:13 UTC 2025\n"
            "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"),
    "jp7": ("# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64, DATE: Mon Jun  1 09:28:48 PM UTC 2026\n"
            "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"),
}  # fmt: skip
BOARDS = {
    "agx": ("NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0", 64),
    "nx": ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "nvidia,p3768-0000+p3767-0000\0nvidia,tegra234\0", 16),
    "nano": ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0", 8),
}  # fmt: skip
RAILS = {
    "agx": [[("VDD_GPU_SOC", 20000, 120), ("VDD_CPU_CV", 20000, 80), ("VIN_SYS_5V0", 5000, 940)],
            [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 60), ("NC", 0, 0)]],
    "nx": [[("VDD_IN", 19000, 400), ("VDD_CPU_GPU_CV", 19000, 100), ("VDD_SOC", 19000, 90)]],
    "nano": [[("VDD_IN", 5000, 1140), ("VDD_CPU_GPU_CV", 5000, 166), ("VDD_SOC", 5000, 325)]],
}  # fmt: skip
MODES = {
    "agx": ["MAXN", "MODE_15W", "MODE_30W", "MODE_50W"],
    "nx": ["MAXN_SUPER", "10W", "15W", "25W"],
    "nano": ["15W", "25W", "MAXN_SUPER", "7W"],
}


def put(root: Path, name: str, text: object) -> Path:
    file = root / name.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}")
    return file


def command(folder: Path, name: str, script: str) -> None:
    """A small executable, as ``nvpmodel`` would be found on the path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def jetson(root: Path, board: str, generation: str, mode: str | None = None) -> Machine:
    """A device in good health; a test then breaks what it is about."""
    model, compatible, gigabytes = BOARDS[board]
    put(root, "/etc/nv_tegra_release", RELEASES[generation])
    put(root, "/proc/device-tree/model", model + "\0")
    put(root, "/proc/device-tree/compatible", compatible)
    put(root, "/proc/meminfo", f"MemTotal:       {gigabytes * 1000000} kB\nMemAvailable:   {gigabytes * 700000} kB\n")
    _thermal(root, generation)
    _hwmon(root, board)
    _gpu(root, generation)
    modes = MODES[board]
    lines = [f"< POWER_MODEL ID={k} NAME={name} >" for k, name in enumerate(modes)]
    put(root, "/etc/nvpmodel.conf", "\n".join(lines) + "\n< PM_CONFIG DEFAULT=0 >\n")
    mode = mode or next(name for name in ("MAXN_SUPER", "MAXN") if name in modes)
    put(root, "/var/lib/nvpmodel/status", f"pmode:{modes.index(mode):04d} fmode:fan_mode_quiet")
    put(root, "/dev/video0", "")
    put(root, "/sys/class/video4linux/video0/name", "vi-output, imx477 9-001a")
    return Machine(root, path=str(root / "bin"))


def _thermal(root: Path, generation: str) -> None:
    zones = {"cpu": 46531, "gpu": 48218, "cv0": -256000, "soc0": 46593, "tj": 48843}
    for k, (name, milli) in enumerate(zones.items()):
        old = name if name == "tj" else name.upper()
        kind = f"{old}-therm" if generation == "jp5" else f"{name}-thermal"
        put(root, f"/sys/class/thermal/thermal_zone{k}/type", kind)
        put(root, f"/sys/class/thermal/thermal_zone{k}/temp", milli)


def _hwmon(root: Path, board: str) -> None:
    number = 1
    for sensor in RAILS[board]:
        folder = f"/sys/class/hwmon/hwmon{number}"
        put(root, f"{folder}/name", "ina3221\n")
        for channel, (label, millivolts, milliamperes) in enumerate(sensor, 1):
            put(root, f"{folder}/in{channel}_label", label)
            put(root, f"{folder}/in{channel}_input", millivolts)
            put(root, f"{folder}/curr{channel}_input", milliamperes)
            put(root, f"{folder}/curr{channel}_crit_alarm", 0)
        put(root, f"{folder}/in7_label", "sum of shunt voltages")
        put(root, f"{folder}/in7_input", 4)
        number += 1
    put(root, f"/sys/class/hwmon/hwmon{number}/name", "soctherm_oc")
    for counter in (1, 2, 3):
        put(root, f"/sys/class/hwmon/hwmon{number}/oc{counter}_event_cnt", 0)
    put(root, f"/sys/class/hwmon/hwmon{number + 1}/name", "pwmfan")
    put(root, f"/sys/class/hwmon/hwmon{number + 1}/pwm1", 102)
    put(root, f"/sys/class/hwmon/hwmon{number + 2}/name", "pwm_tach")
    put(root, f"/sys/class/hwmon/hwmon{number + 2}/rpm", 1830)


def _gpu(root: Path, generation: str) -> None:
    device = "17000000.ga10b" if generation == "jp5" else "17000000.gpu"
    folder = f"/sys/class/devfreq/{device}"
    for name, value in {"cur_freq": 306000000, "min_freq": 624750000, "max_freq": 624750000}.items():
        put(root, f"{folder}/{name}", value)
    put(root, f"{folder}/governor", "nvhost_podgov")
    put(root, f"{folder}/device/load", 634)
    emc = "/sys/kernel/debug/bpmp/debug/clk/emc"
    for name, value in {"rate": 665600000, "min_rate": 204000000, "max_rate": 3199000000}.items():
        put(root, f"{emc}/{name}", value)
