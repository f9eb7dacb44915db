"""``python -m benchmarks chaos``: faults at random, several at once, against a whole line, for as long as is wanted.

The station is a process of its own with every sink, triggered by Modbus, MQTT and HTTP through a proxy; the agent takes
updates beside it. Faults come in rounds, chosen by a seed that is printed: up to four at once, SIGKILL among them. After
each round all is mended, and health must be ok again within its bound. What health said at each moment is held against
what was so, and at the end every trigger that was acknowledged is accounted for.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dskd.benchmarks.contenders import check_output
from dskd.benchmarks.lab.chaos.account import Account, account, not_stored, sink_gaps
from dskd.benchmarks.lab.chaos.line import NEVER, Line
from dskd.benchmarks.lab.chaos.mishaps import Mishap, Mishaps
from dskd.benchmarks.lab.chaos.report import CALM, Round, Run, failed, figures, page, strange_ends, told
from dskd.benchmarks.lab.chaos.truth import Kind, Sample, Span, lies
from dskd.benchmarks.lab.station.drill import scratch, wait_until
from dskd.benchmarks.lab.station.trigger_ways import ModbusWay
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import default_bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError, Parser

INSIDE = "DSKD_CHAOS_INSIDE"  # set where this process may mount
DISK, LOG_DISK = "600m", "4m"
MOST_AT_ONCE = 4
HELD = 2.0, 20.0  # seconds that a fault lasts
LATEST = 4.0  # seconds after the round's begin at which a fault begins
LOOK = 0.25  # seconds between two looks at health
PERIOD = 0.25  # seconds between two triggers of one way
UPDATED = 120.0  # seconds for a last good update to be taken, watched and confirmed
HESITATION = 20.0  # seconds until a person accepts a clock that is right again and still doubted
STORE_LOST = {"store damaged", "store taken away"}  # together with a jump: the station cannot know what time it was
DOUBTED = Kind("clock doubted until a person accepts it", may=frozenset({"clock clock"}))


class Watch:
    """Asks the metrics listener for health all the time."""

    def __init__(self, line: Line, samples: list[Sample]) -> None:
        self._line, self._samples = line, samples
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join(10)

    def well(self) -> bool:
        """Whether the newest answer was that all is ok."""
        last = self._samples[-1] if self._samples else None
        return last is not None and last.parts is not None and set(last.parts.values()) == {"ok"}

    def left(self) -> str:
        """What is not ok by the newest answer."""
        last = self._samples[-1]
        if last.parts is None:
            return "no answer"
        return ", ".join(f"{part} {health}" for part, health in last.parts.items() if health != "ok")

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            since, asked = self._line.station.since, time.monotonic()
            parts = health(self._line.metrics)
            same = self._line.station.since == since  # else the answer may be another process's
            answer = (parts, since) if same else (None, None)
            self._samples.append(Sample(asked, time.monotonic(), *answer))


def health(port: int) -> dict[str, str] | None:
    """What ``/healthz`` says of each part, None where nothing answers."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    with suppress(OSError, http.client.HTTPException, ValueError, KeyError):
        try:
            link.request("GET", "/healthz")
            parts: dict[str, str] = json.loads(link.getresponse().read())["parts"]
            return parts
        finally:
            link.close()
    return None


def rounds(mishaps: Sequence[Mishap], chance: random.Random) -> Iterator[list[tuple[Mishap, float, float]]]:
    """Without end: faults of different groups with when they begin and how long they last. Each comes as often."""
    names = list[Mishap]()
    while True:
        chosen, groups = list[Mishap](), set[str]()
        for _ in range(chance.randint(1, MOST_AT_ONCE)):
            if not names:
                names = list(mishaps)
                chance.shuffle(names)
            found = next((one for one in names if not groups & set(one.groups.split())), None)
            if found is not None:
                names.remove(found)
                chosen.append(found)
                groups |= set(found.groups.split())
        yield [(one, chance.uniform(0, LATEST), chance.uniform(*HELD)) for one in chosen]


def play(planned: list[tuple[Mishap, float, float]], spans: list[Span]) -> None:
    """One round; returns when all is mended."""
    start = time.monotonic()
    begun: list[tuple[float, Mishap, float]] = []
    for mishap, offset, held in sorted(planned, key=lambda each: each[1]):
        time.sleep(max(0.0, start + offset - time.monotonic()))
        at = time.monotonic()
        mishap.begin()
        begun.append((at + held, mishap, at))
    for until, mishap, at in sorted(begun, key=lambda each: each[0]):
        time.sleep(max(0.0, until - time.monotonic()))
        end = time.monotonic()
        try:
            mishap.end()
        except DskdError as error:
            print(
                f"{mishap.kind.name}: {error}", file=sys.stderr
            )  # what is not ok for it afterwards is a finding of the run
        spans.append(Span(mishap.kind, at, max(end, time.monotonic()) if mishap.kind.restarts else end))


def chaos(line: Line, seed: int, seconds: float, small_disks: bool, say: Any) -> tuple[Run, Mishaps]:
    """Rounds until the time is over."""
    chance, run = random.Random(seed), Run()  # noqa: S311 a run that can be repeated
    mishaps = Mishaps(line, chance, small_disks)
    line.trigger(PERIOD)
    watch = Watch(line, run.samples)
    try:
        if not wait_for(watch.well):
            raise DskdError(f"chaos: health is not ok before the first fault: {watch.left()}")
        end = time.monotonic() + seconds
        for planned in rounds(mishaps.all, chance):
            if time.monotonic() > end:
                break
            play(planned, run.spans)
            run.rounds.append(_calm([mishap.kind.name for mishap, _, _ in planned], line, watch, run.spans))
            say(run.rounds[-1])
    finally:
        watch.stop()
    return run, mishaps


def _calm(names: list[str], line: Line, watch: Watch, spans: list[Span]) -> Round:
    """Waits until all is ok. A person accepts the clock where the station cannot know by itself that it is right."""
    time.sleep(2 * LOOK)
    start = time.monotonic()
    if "clock jumped" in names and STORE_LOST & set(names) and not wait_for(watch.well, HESITATION):
        accept_clock(line)
        spans.append(Span(DOUBTED, start, time.monotonic()))
    well = wait_for(watch.well, CALM - (time.monotonic() - start))
    return Round(names, time.monotonic() - start if well else None, "" if well else watch.left())


def accept_clock(line: Line) -> None:
    """By the page, as a person does; nothing where it does not answer."""
    link = http.client.HTTPConnection("127.0.0.1", line.page, timeout=4)
    with suppress(OSError, http.client.HTTPException):
        try:
            token = (line.data / "token").read_text().strip()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            link.request("POST", "/api/clock", "{}", headers)
            link.getresponse().read()
        finally:
            link.close()


def wait_for(what: Callable[[], bool], seconds: float = CALM) -> bool:
    """Whether it came true in time."""
    try:
        wait_until(what, "calm", seconds)
    except DskdError:
        return False
    return True


def finish(line: Line, run: Run, mishaps: Mishaps) -> tuple[Account, dict[str, Any]]:
    """A last good update, a clean stop, and the account."""
    wanted = line.publish(NEVER)
    updated = True
    try:
        wait_until(lambda: time.sleep(1) or line.served_version() == wanted, "the last update", UPDATED)  # type: ignore[func-returns-value]
    except DskdError:
        updated = False
    acknowledged = line.ways.acknowledged()
    line.ways.stop()
    time.sleep(6)  # deadlines pass, sinks catch up
    code = line.station.stop()
    unclean = [end.at for end in line.station.ends if end.code != 0]
    told = [part for way in line.ways.ways if isinstance(way, ModbusWay) for part in way.told]
    store = line.data / "store.db"
    found = account(
        store, mishaps.aside, acknowledged, told, run.spans, unclean, not_stored(line.folder / "station.log")
    )
    found.gaps = sink_gaps(store, line.folder, line.reader.keys, line.receiver.keys)
    more = {"last update confirmed": updated, "last exit code": code, "station starts": line.station.starts}
    return found, more


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(
        prog="python -m benchmarks chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    parser.add_argument("--minutes", type=float, default=60.0, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the faults (default: another one each time; it is printed)")
    parser.add_argument("--out", type=Path, help="file for the JSON object")
    parser.add_argument("--keep", type=Path, help="folder that keeps logs and stores")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if not 0.1 <= options.minutes <= 7 * 1440:
        raise CallError(f"--minutes {options.minutes} must lie between 0.1 and a week")
    check_output(options.out)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    if INSIDE not in os.environ and _may_mount():
        words = [*arguments, "--seed", str(seed)] if options.seed is None else arguments
        program = shutil.which("unshare") or "unshare"
        command = [program, "-rm", sys.executable, "-m", "dskd.benchmarks", "chaos", *words]
        os.execve(program, command, {**os.environ, INSIDE: "1"})  # noqa: S606 the same process, so that signals reach it
    say = (lambda _: None) if options.json else lambda text: print(text, flush=True)
    say(f"seed {seed}")
    fields, found = measure(
        load_bundle(options.bundle or default_bundle()).path, seed, 60 * options.minutes, options.keep, say
    )
    if options.out is not None:
        atomic.write_text(options.out, json.dumps(fields))
    print(json.dumps(fields) if options.json else page(fields))
    return 1 if failed(fields, found) else 0


def measure(bundle: Path, seed: int, seconds: float, keep: Path | None, say: Any) -> tuple[dict[str, Any], Account]:
    """One run in a folder of its own."""
    with scratch() as folder, _disks(folder) as small_disks:
        begun = time.monotonic()
        with Line(folder, load_bundle(bundle)) as line:
            try:
                run, mishaps = chaos(line, seed, seconds, small_disks, lambda each: say(told(each, begun)))
                found, more = finish(line, run, mishaps)
            finally:
                if keep is not None:
                    shutil.copytree(
                        folder, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("filler", "overlays")
                    )
            proxy = "nginx" if line.has_proxy else "none; nginx is not installed"
            more |= {"strange ends": strange_ends(line.station.ends, run.spans), "proxy": proxy, "seed": seed}
        more |= {"minutes": round((time.monotonic() - begun) / 60, 1), "small disks": small_disks}
        return figures(run, found, lies(run.samples, run.spans), more, begun), found


def _may_mount() -> bool:
    program = shutil.which("unshare")
    return program is not None and _done(program, "-rm", "true")


def _done(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


@contextmanager
def _disks(folder: Path) -> Iterator[bool]:
    """Small disks for data and logs; whether they could be had."""
    mounted = list[Path]()
    mount, umount = shutil.which("mount") or "/bin/mount", shutil.which("umount") or "/bin/umount"
    try:
        for name, size in (("data", DISK), ("logs", LOG_DISK)):
            place = folder / name
            place.mkdir()
            if INSIDE not in os.environ or not _done(mount, "-t", "tmpfs", "-o", f"size={size}", "chaos", str(place)):
                break
            mounted.append(place)
        yield len(mounted) == 2
    finally:
        for place in mounted:
            _done(umount, "-l", str(place))
