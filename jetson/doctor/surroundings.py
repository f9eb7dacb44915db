"""Checks of what stands around the station: cameras, rights, time, service."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from dskd.jetson.doctor.base import Context, Finding, fail, ok, warn
from dskd.jetson.platform import written
from dskd.runtime.errors import DskdError
from dskd.runtime.store import StoreReader
from dskd.runtime.wall_clock import CLOCK, WallClock

DEVICES = {"/dev/video*": "video", "/dev/gpiochip*": "gpio"}
GPU_DEVICES = {  # with the permissions that CUDA needs; which ones there are, and whose, differs between releases
    "/dev/nvmap": ("video", 4), "/dev/nvhost-*": ("video", 4), "/dev/nvgpu/*/*": ("video", 4), "/dev/dri/renderD*": ("render", 4 | 2),
    "/dev/nvidia[0-9c]*": ("video", 4 | 2), "/dev/nvidia-uvm": ("video", 4 | 2),
}  # fmt: skip
STATION = "/etc/dskd/station.yaml"
ARGUS_MENDED = (36, 5, 0)  # L4T from which its daemon no longer stands still now and then
CLOCK_SLACK = 86400.0  # seconds a bundle may come "from the future" before the clock is thought to be unset
STORE = "store.db"
UNIT = "dskd-station.service"


def cameras(context: Context) -> Finding:
    """Cameras that the kernel knows; network cameras are the station's own business."""
    found = context.machine.glob("/dev/video*")
    argus = context.machine.file("/tmp/argus_socket").exists()  # noqa: S108 (NVIDIA's camera daemon puts it there)
    if not found and not argus:
        return warn(
            "no camera at this machine (no /dev/video*, no argus socket)",
            "plug it in and see `sudo dmesg`; for CSI run /opt/nvidia/jetson-io/jetson-io.py and reboot; "
            "in a container pass --device; network cameras need nothing here",
        )
    l4t = context.platform.l4t
    if argus and l4t is not None and (36, 0, 0) <= l4t < ARGUS_MENDED:
        return warn(
            f"CSI cameras on L4T {written(l4t)}: NVIDIA's camera daemon may stand still now and then (CaptureScheduler)",
            "update to JetPack 6.2.2; until then, where pictures stop: sudo systemctl restart nvargus-daemon",
        )
    names = {context.machine.text(f"/sys/class/video4linux/{path.name}/name") or path.name for path in found}
    return ok(f"{len(found)} video devices: {', '.join(sorted(names))}{'; argus daemon' if argus else ''}")


def permissions(context: Context) -> Finding:
    """Whether the service user may use the devices and write its data; of the GPU CUDA is asked, as that user."""
    user, groups = context.user, set()
    closed: list[str] = []
    for pattern, group in DEVICES.items():
        for path in context.machine.glob(pattern):
            if not user.may(path, 4 | 2):
                closed.append(f"/{path.relative_to(context.machine.root)}")
                groups.add(group)
    if closed:
        return fail(
            f"user {user.name} may not use {', '.join(closed[:4])}{' and more' if len(closed) > 4 else ''}",
            f"sudo usermod -aG {','.join(sorted(groups))} {user.name}, then restart the service",
        )
    if refusal := context.cuda_refusal:
        groups, closed = set(), []
        for pattern, (group, bits) in GPU_DEVICES.items():
            for path in context.machine.glob(pattern):
                if not user.may(path, bits):
                    closed.append(f"/{path.relative_to(context.machine.root)}")
                    groups.add(group)
        shut = f"; closed to it: {', '.join(closed[:4])}{' and more' if len(closed) > 4 else ''}" if closed else ""
        return fail(
            f"user {user.name} cannot use the GPU ({refusal}{shut})",
            f"sudo usermod -aG {','.join(sorted(groups) or ['video', 'render'])} {user.name}, then restart the service; in a "
            "container write jetson/.env again (compose-env.sh)",
        )
    folder = next(path for path in (context.data, *context.data.parents) if path.exists())
    if not user.may(folder, 2):
        return fail(f"user {user.name} may not write {folder}", f"sudo chown {user.name} {folder}")
    return ok(f"user {user.name} may use the devices and write {folder}")


def gpio(context: Context) -> Finding:
    """Whether lines that the station drives are lines at all: that is for the pinmux, which the kernel does not look at."""
    used = re.search(
        r"^\s*kind:\s*[\"']?gpio\b|\{[^}\n]*kind:\s*[\"']?gpio\b", context.machine.text(STATION) or "", re.M
    )
    if not used:
        return ok(f"no GPIO line in {STATION}")
    if not context.machine.glob("/dev/gpiochip*"):
        return fail(
            f"{STATION} uses a GPIO line, and there is no /dev/gpiochip*", "gpiodetect; in a container DSKD_GPIOCHIP"
        )
    if context.platform.generation in ("jp6", "jp7"):
        return warn(
            "JetPack 6 and later do not make a header pin a GPIO by themselves: without it pulses are sent and nothing moves",
            "sudo /opt/nvidia/jetson-io/jetson-io.py, reboot, then look: dskd station test-output NAME (docs/jetson.md, GPIO)",
        )
    return ok("GPIO lines are used")


def clock(context: Context) -> Finding:
    """Whether the clock is set: a Jetson without battery starts in the past, and TLS and timestamps are wrong then."""
    newest = Path(__file__).stat().st_mtime
    with suppress(DskdError, ValueError, OverflowError):
        newest = max(newest, datetime.fromisoformat(context.loaded_bundle.manifest.created).timestamp())
    shown = datetime.fromtimestamp(context.now, timezone.utc).isoformat(timespec="seconds")
    mend = (
        "connect a time server (timedatectl set-ntp true), or set it: sudo timedatectl set-time 'YYYY-MM-DD HH:MM:SS'"
    )
    if context.now < newest - CLOCK_SLACK:
        return fail(f"the clock says {shown}, but the software or the bundle is newer: it is not set", mend)
    if doubt := _doubt_of_station(context):
        return fail(doubt, f"{mend}; where it is right now, start the station once with --accept-clock")
    synchronised = (context.machine.run("timedatectl", "show", "--property=NTPSynchronized", "--value") or "").strip()
    if synchronised == "no":
        return warn(f"the clock says {shown} and follows no time server", mend)
    return ok(f"{shown}{', synchronised' if synchronised == 'yes' else ''}")


def _doubt_of_station(context: Context) -> str:
    """What the station's own records say against the clock, empty where nothing does."""
    file = context.data / STORE
    if not file.is_file():
        return ""
    with suppress(DskdError):
        store = StoreReader(file)
        try:
            return WallClock(store.recall(CLOCK), store.last_moment(), wall=lambda: context.now).doubt()
        finally:
            store.close()
    return ""


def service(context: Context) -> Finding:
    """Whether systemd keeps the station running."""
    if not context.machine.file(f"/etc/systemd/system/{UNIT}").exists():
        return ok("not installed as a service")
    state = (context.machine.run("systemctl", "is-active", UNIT) or "").strip()
    if context.machine.which("systemctl") is None or not context.machine.file("/run/systemd/system").exists():
        return ok("installed as a service; systemd does not run here")
    if state == "active":
        return ok(f"{UNIT} is active")
    return warn(f"{UNIT} is not active", f"journalctl --namespace=dskd -u {UNIT}; sudo systemctl start {UNIT}")
