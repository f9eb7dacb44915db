"""``python -m benchmarks faults``: what happens to a station when a part of it fails, and what that costs."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dskd.benchmarks.lab.station.broken_network import broker_down, idle_reader
from dskd.benchmarks.lab.station.drill import Drill, Fault, scratch, wait_until
from dskd.benchmarks.lab.station.kills import kills
from dskd.benchmarks.lab.station.rtsp_camera import RtspCamera, picture
from dskd.runtime.bundle.loading import default_bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError, Parser, one_line

FPS = 5.0  # of the drills' cameras: two free cores must keep up with a real bundle
OUTAGE, SHORT_OUTAGE = 60.0, 3.0  # seconds
KILLS, SHORT_KILLS = 50, 3
DISK = "16m"  # of the small disk that is filled
INSIDE = "DSKD_DRILL_INSIDE"  # set where this process may mount


def camera_killed(bundle: Path, outage: float) -> Fault:
    """A network camera is gone at once and comes back."""
    with scratch() as folder, RtspCamera(FPS) as camera, Drill(folder, bundle, camera.uri) as drill:
        camera.kill()
        detected = wait_until(lambda: drill.camera().status.health == "fault", "detection")
        time.sleep(min(outage, 5.0))
        camera.start()
        return drill.account("camera killed", detected, drill.goes_on())


def camera_stalled(bundle: Path, outage: float) -> Fault:
    """The connection stays, the pictures stop."""
    with scratch() as folder, RtspCamera(FPS) as camera, Drill(folder, bundle, camera.uri) as drill:
        camera.stalled.set()
        detected = wait_until(lambda: drill.camera().status.health == "fault", "detection")
        time.sleep(min(outage, 5.0))
        camera.stalled.clear()
        return drill.account("camera stalled", detected, drill.goes_on())


def camera_replaced(bundle: Path, outage: float) -> Fault:
    """Another camera with another resolution answers at the same address, and the right one comes back."""
    with scratch() as folder, RtspCamera(FPS) as camera, Drill(folder, bundle, camera.uri) as drill:
        camera.kill()
        camera.size = (640, 480)
        camera.start()
        detected = wait_until(lambda: drill.camera().status.detail.startswith("size: 640x480"), "detection")
        camera.kill()
        camera.size = (320, 240)
        camera.start()
        return drill.account("camera replaced by another resolution", detected, drill.goes_on())


def corrupt_frame(bundle: Path, outage: float) -> Fault:
    """A damaged picture between sound ones."""
    with scratch() as folder:
        watched = folder / "pictures"
        watched.mkdir()
        sound = cv2.imencode(".png", picture(1))[1].tobytes()
        put(watched / "a.png", sound)
        with Drill(folder, bundle, f"watch://{watched}") as drill:
            put(watched / "b.png", sound[: len(sound) // 2])
            detected = wait_until(lambda: drill.camera().dropped == 1, "detection")
            put(watched / "c.png", cv2.imencode(".png", picture(2))[1].tobytes())
            recovered = wait_until(lambda: drill.camera().inspected == 2, "recovery")
            return drill.account("corrupt frame", detected, recovered)


def backend_raising(bundle: Path, outage: float) -> Fault:
    """The device under the backend fails for a while; every frame of that time is dropped, none is passed."""
    with scratch() as folder, Drill(folder, bundle, f"test://pattern?size=320x240&fps={FPS:g}") as drill:
        thread: Any = drill.station.cameras["top"].inspects
        infer = thread.backend._inspector.backend.infer

        def raising(batch: object) -> object:
            raise RuntimeError("device lost")

        passed = drill.camera().verdicts
        thread.backend._inspector.backend.infer = raising
        detected = wait_until(lambda: thread.backend.fault, "detection")
        wait_until(lambda: drill.camera().dropped >= 2, "dropping")
        if drill.camera().verdicts["PASS"] - passed["PASS"] > 1:  # one may have been under way
            raise DskdError("drill: a frame was passed while the backend raised")
        if thread.backend._inspector is not None:
            thread.backend._inspector.backend.infer = infer
        return drill.account("backend raising", detected, drill.goes_on())


def store_locked(bundle: Path, outage: float) -> Fault:
    """Another program holds SQLite's lock."""
    with scratch() as folder, Drill(folder, bundle, f"test://pattern?size=320x240&fps={FPS:g}") as drill:
        other = sqlite3.connect(folder / "data" / "store.db", isolation_level=None, timeout=10)
        other.execute("BEGIN IMMEDIATE")
        detected = wait_until(lambda: drill.part("store").health == "fault", "detection")
        seen = drill.camera().inspected
        wait_until(lambda: drill.camera().inspected > seen + 3, "inspection going on")
        time.sleep(min(outage, 10.0))
        other.rollback()
        other.close()
        recovered = wait_until(lambda: drill.part("store").health == "ok", "recovery")
        return drill.account("SQLite locked", detected, recovered)


def disk_full(bundle: Path, outage: float) -> Fault:
    """The data folder's disk is full and gets room again. Runs where it may mount a small disk of its own."""
    with scratch() as folder:
        data = folder / "data"
        data.mkdir()
        program = shutil.which("mount") or "/bin/mount"
        subprocess.run([program, "-t", "tmpfs", "-o", f"size={DISK}", "drill", str(data)], check=True)  # noqa: S603
        try:
            with Drill(folder, bundle, f"test://pattern?size=320x240&fps={FPS:g}") as drill:
                fill(data / "filler")
                detected = wait_until(lambda: drill.part("store").health == "fault", "detection")
                seen = drill.camera().inspected
                wait_until(lambda: drill.camera().inspected > seen + 3, "inspection going on")
                (data / "filler").unlink()
                recovered = wait_until(lambda: drill.part("store").health == "ok", "recovery")
                return drill.account("disk full", detected, recovered)
        finally:
            subprocess.run([shutil.which("umount") or "/bin/umount", "-l", str(data)], check=False)  # noqa: S603


def put(file: Path, data: bytes) -> None:
    """A file that is there at once and whole."""
    temporary = file.with_suffix(".part")
    temporary.write_bytes(data)
    os.replace(temporary, file)


def fill(file: Path) -> None:
    """Takes all the room there is."""
    block = np.zeros(1 << 16, np.uint8).tobytes()
    with file.open("wb", buffering=0) as handle:
        for size in (len(block), 512):
            try:
                while handle.write(block[:size]):
                    pass
            except OSError:
                continue


DRILLS: dict[str, Callable[[Path, float], Fault]] = {
    "camera-killed": camera_killed,
    "camera-stalled": camera_stalled,
    "camera-replaced": camera_replaced,
    "broker-down": broker_down,
    "disk-full": disk_full,
    "sqlite-locked": store_locked,
    "idle-reader": idle_reader,
    "corrupt-frame": corrupt_frame,
    "backend-raising": backend_raising,
}


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(
        prog="python -m benchmarks faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    parser.add_argument(
        "--short",
        action="store_true",
        help=f"{SHORT_OUTAGE:g} s instead of {OUTAGE:g}, {SHORT_KILLS} kills instead of {KILLS}",
    )
    parser.add_argument("--only", action="append", default=[], choices=[*DRILLS, "kills"], help="may be given again")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    bundle = load_bundle(options.bundle or default_bundle()).path
    faults, failed = list[Fault](), list[str]()
    for name in options.only or [*DRILLS, "kills"]:
        try:
            faults.append(run(name, bundle, options.short))
        except (DskdError, OSError, subprocess.SubprocessError) as error:
            failed.append(one_line(f"{name}: {error}"))
        if not options.json:
            print(
                table_row(faults[-1]) if faults and not (failed and failed[-1].startswith(name)) else failed[-1],
                flush=True,
            )
    if options.json:
        print(json.dumps({"faults": [fault.as_dict() for fault in faults], "failed": failed}))
    return 1 if failed or any(fault.lost for fault in faults) else 0


def run(name: str, bundle: Path, short: bool) -> Fault:
    """One drill; the one that mounts a disk in a user namespace of its own, so that it needs no rights."""
    if name == "kills":
        return kills(bundle, SHORT_KILLS if short else KILLS)
    if name == "disk-full" and INSIDE not in os.environ:
        program = shutil.which("unshare")
        if program is None:
            raise CallError("needs unshare (util-linux)")
        command = [program, "-rm", sys.executable, "-m", "dskd.benchmarks", "faults", "--json", "--only", name]
        done = subprocess.run(  # noqa: S603
            [*command, "--bundle", str(bundle)], capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, INSIDE: "1"},
        )  # fmt: skip
        found = json.loads(done.stdout)["faults"] if done.stdout.startswith("{") else []
        if not found:
            raise DskdError((done.stdout + done.stderr)[-300:])
        return Fault(**found[0])
    return DRILLS[name](bundle, SHORT_OUTAGE if short else OUTAGE)


def table_row(fault: Fault) -> str:
    """One drill for people."""
    frames = f"{fault.captured} captured = {fault.inspected} inspected + {fault.dropped} dropped"
    times = f"detected {fault.detected_s:6.2f} s  recovered {fault.recovered_s:6.2f} s"
    return f"{fault.name:38} {times}  {frames}  lost {fault.lost}  duplicates {fault.duplicates}"
