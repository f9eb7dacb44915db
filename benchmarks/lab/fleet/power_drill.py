"""``python -m jetson drill``: the power goes at random points of an update, again and again, with the real bundle.

After each cut the device must start from a bundle that passes its golden check, and the same update must then succeed.
Half of the cuts are SIGKILL at a random moment of a real process; half are a disk on which what was not synced is lost,
torn or out of order.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from dskd.benchmarks.lab.fleet.power_cut import CutDisk, RecordingDisk
from dskd.jetson.disk import Disk
from dskd.jetson.download import Fetcher
from dskd.jetson.publish import publish
from dskd.jetson.signing import load_private, load_trusted, make_key
from dskd.jetson.slots import Slots, Start
from dskd.jetson.update import Outcome, Updater
from dskd.runtime.bundle.loading import Bundle, default_bundle, load_bundle, write_manifest
from dskd.runtime.errors import CallError, DskdError, Parser

PRODUCT = "drill"


@dataclass
class Tally:
    """What was found after the cuts."""

    kills: int = 0
    cuts: int = 0
    started_from: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class PowerDrill:
    """A device below a folder that runs version 1 and takes version 2. ``build`` stands for the engine's build."""

    def __init__(self, bundle: Bundle, folder: Path, build: Callable[[Bundle], None] | None = None) -> None:
        self.folder, self.host, self.keys = folder, folder / "host", folder / "keys"
        self.build = build or write_slowly
        private, _ = make_key(self.keys, "drill")
        self.key = load_private(private)
        self.trusted = load_trusted(self.keys)
        device = folder / "device"
        publish(bundle, PRODUCT, 1, 1, self.host, self.key)
        self.update(device, Disk())
        self.slots(device).confirm()
        publish(changed(bundle, folder / "second"), PRODUCT, 2, 1, self.host, self.key)
        self.device = device

    def slots(self, device: Path, disk: Disk | None = None) -> Slots:
        """The device's slots."""
        return Slots(device, PRODUCT, self.trusted, disk)

    def update(self, device: Path, disk: Disk) -> Outcome:
        """What the agent does, with nothing to wait for."""
        fetcher = Fetcher(f"{self.host.resolve().as_uri()}/", pause=lambda _: None)
        return Updater(self.slots(device, disk), fetcher, self.build).run()

    def kill(self, tally: Tally, chance: random.Random, longest: float) -> None:
        """A process that updates, killed at a random moment."""
        device = self._copy()
        child = os.fork()
        if child == 0:
            try:
                self.update(device, Disk())
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        tally.kills += 1
        self._look(device, tally, f"kill {tally.kills}")

    def cut(self, calls: CutDisk, tally: Tally, chance: random.Random, call: int) -> None:
        """A disk that a cut after this call may leave."""
        device = self.folder / "cut"
        shutil.rmtree(device, ignore_errors=True)
        calls.after_cut(device, chance)
        tally.cuts += 1
        self._look(device, tally, f"cut {tally.cuts} after call {call}")

    def record(self) -> tuple[CutDisk, list[tuple[str, Path, object]]]:
        """A whole update with its log, and the disk before it."""
        device = self._copy()
        before, disk = CutDisk(device), RecordingDisk()
        self.update(device, disk)
        return before, disk.calls

    def _copy(self) -> Path:
        device = self.folder / "try"
        shutil.rmtree(device, ignore_errors=True)
        shutil.copytree(self.device, device, symlinks=True)
        return device

    def _look(self, device: Path, tally: Tally, name: str) -> None:
        """The device starts, and then takes the update to its end."""
        slots = self.slots(device)
        tally.stages[stage(slots)] += 1
        try:
            start = slots.boot()
            tally.started_from[f"version {start.version}"] += 1
            self._current(slots, start)
            outcome = self.update(device, Disk())
            if outcome.action not in ("switched", "on trial"):
                raise DskdError(f"the update then said: {outcome.detail}")
            second = slots.boot()
            if second.version != 2:
                raise DskdError(f"after the update it starts from version {second.version}")
            slots.confirm()
            if slots.read().version != 2:
                raise DskdError("the update cannot be confirmed")
        except (DskdError, OSError) as error:
            tally.failures.append(f"{name}: {error}")

    def _current(self, slots: Slots, start: Start) -> None:
        led = load_bundle(slots.current)
        if led.id != start.bundle.id:
            raise DskdError(f"the link leads to {led.id}, started was {start.bundle.id}")


def stage(slots: Slots) -> str:
    """How far an update had come."""
    if slots.read().trial is not None:
        return "switched"
    slot = slots.folder / slots.free_slot()
    if list(slot.glob("bundle/engines/*")):
        return "engine"
    if (slot / "update.json").exists():
        return "unpacked"
    if list(slot.glob("bundle/**/*")):
        return "unpacking"
    return "downloading" if list(slots.folder.glob("download/*")) else "before"


def write_slowly(bundle: Bundle) -> None:
    """A stand-in for an engine's build: a plan that grows where a real one would stand, without any care."""
    folder = bundle.path / "engines"
    folder.mkdir(exist_ok=True)
    with (folder / "model.fp16.plan").open("wb") as plan:
        for _ in range(20):
            plan.write(os.urandom(4096))
            plan.flush()
            time.sleep(0.001)


def changed(bundle: Bundle, folder: Path, reject: float | None = None) -> Bundle:
    """The same bundle with other thresholds, so with another id; its golden answers stay true."""
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("engines", ".*"))
    graphs = {}
    for name, graph in bundle.manifest.graphs.items():
        score = graph.thresholds.reject.score + 1e-6 if reject is None else reject
        threshold = graph.thresholds.reject.model_copy(update={"score": score})
        review = graph.thresholds.review if graph.thresholds.review.score <= score else threshold
        both = graph.thresholds.model_copy(update={"reject": threshold, "review": review})
        graphs[name] = graph.model_copy(update={"thresholds": both})
    write_manifest(folder, bundle.manifest.model_copy(update={"graphs": graphs}))
    return load_bundle(folder)


def run(bundle: Bundle, folder: Path, points: int, seed: int, screen: TextIO | None = None) -> Tally:
    """Half kills, half cuts."""
    chance, tally = random.Random(seed), Tally()  # noqa: S311 (where the power goes is no secret)
    drill = PowerDrill(bundle, folder)
    begin = time.perf_counter()
    before, calls = drill.record()
    longest = (time.perf_counter() - begin) * 1.1
    at = sorted(chance.randrange(len(calls) + 1) for _ in range(points // 2))
    done = 0
    for point in at:
        while done < point:
            before.do(calls[done])
            done += 1
        drill.cut(before, tally, chance, point)
        _show(tally, points, screen)
    for _ in range(points - points // 2):
        drill.kill(tally, chance, longest)
        _show(tally, points, screen)
    return tally


def _show(tally: Tally, points: int, screen: TextIO | None) -> None:
    if screen:
        print(f"\r{tally.kills + tally.cuts} of {points}", end="", file=screen, flush=True)


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = Parser(prog="python -m jetson drill", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument("--points", type=int, default=200, help="how often the power goes (default: 200)")
    options.add_argument("--seed", type=int, default=0, help="of the random points (default: 0)")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = options.parse_args(arguments)
    if not 1 <= chosen.points <= 100_000:
        raise CallError(f"--points {chosen.points}: between 1 and 100000")
    bundle = load_bundle(chosen.bundle or default_bundle())
    screen = sys.stderr if sys.stderr.isatty() else None
    # each golden check would say again that the stand-in engine is passed over
    with tempfile.TemporaryDirectory(prefix="dskd-drill-") as folder, contextlib.redirect_stderr(io.StringIO()):
        tally = run(bundle, Path(folder), chosen.points, chosen.seed, screen)
    fields = {
        "kills": tally.kills,
        "cuts": tally.cuts,
        "stages": dict(tally.stages),
        "started_from": dict(tally.started_from),
        "failures": tally.failures,
    }
    if chosen.json:
        print(json.dumps(fields))
    else:
        print(f"{tally.kills} kills and {tally.cuts} torn disks; {len(tally.failures)} failures")
        print(f"the update had come to: {', '.join(f'{name} {n}' for name, n in tally.stages.most_common())}")
        print(f"started from: {', '.join(f'{name} {n}' for name, n in sorted(tally.started_from.items()))}")
        print("\n".join(tally.failures[:20]))
    return 1 if tally.failures else 0
