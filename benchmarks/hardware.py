"""``python -m benchmarks hardware``: the first day on a GPU or a Jetson, as one command of twelve minutes.

Every step is a process of its own, so that one that crashes or hangs costs only itself; what is missing is said and the
rest goes on. The bundle is copied first: engines are built in the copy. After every step the result is written, as JSON
and as a page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dskd.benchmarks.environment import describe
from dskd.benchmarks.hardware_steps import STEPS
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import default_bundle, load_bundle
from dskd.runtime.errors import CallError, MissingPart, Parser, exit_with_code, one_line

State = Literal["done", "missing", "failed", "no time"]
EXAMPLES = """examples:
  python -m benchmarks hardware --bundle demo/runs/stamped_part/bundle --out hardware
  python -m benchmarks hardware --only builds,agreement

Exit code 0: every step was done; 1: one failed; 3: a part is missing (a GPU, TensorRT), and what can be done without was."""


@dataclass
class Outcome:
    """What a step came to: ``found`` is its figures, ``why`` what kept it from them."""

    name: str
    state: State
    seconds: float
    why: str = ""
    found: dict[str, Any] = field(default_factory=dict)


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks hardware", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument("--out", type=Path, default=Path("hardware"), help="folder for results (default: %(default)s)")
    options.add_argument("--minutes", type=float, default=12.0, help="what does not fit is left out (default: 12)")
    options.add_argument("--only", default="", help=f"some of: {', '.join(STEPS)}")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    chosen = [name for name in options.only.split(",") if name] or list(STEPS)
    if unknown := [name for name in chosen if name not in STEPS]:
        raise CallError(f"--only {unknown[0]}: there is no such step; one of: {', '.join(STEPS)}")
    bundle = load_bundle(options.bundle or default_bundle())
    work = options.out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shutil.copytree(bundle.path, work / "bundle", ignore=shutil.ignore_patterns("engines"))
    end = time.monotonic() + 60 * options.minutes
    outcomes: list[Outcome] = []
    for name in chosen:
        outcomes.append(take(name, work, end - time.monotonic()))
        one = outcomes[-1]
        print(f"{one.name:10} {one.state:8} {one.seconds:6.1f} s  {one.why}", flush=True)
        write(options.out, bundle.id, outcomes)
    print(f"\nresult  {options.out / 'hardware.json'}\npage    {options.out / 'hardware.md'}")
    states = {one.state for one in outcomes}
    return 1 if "failed" in states else MissingPart.exit_code if "missing" in states else 0


def take(name: str, work: Path, left: float) -> Outcome:
    """One step in a process of its own, within its time and the time ``left``, in seconds."""
    most = STEPS[name].most
    if left < min(most, 20.0):
        return Outcome(name, "no time", 0.0, "the time is up; give more with --minutes, or this step with --only")
    start = time.monotonic()
    words = [sys.executable, "-m", "dskd.benchmarks.hardware_steps", name, str(work)]
    try:
        done = subprocess.run(  # noqa: S603
            words, capture_output=True, text=True, errors="replace", timeout=min(most, left), check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return Outcome(name, "failed", time.monotonic() - start, f"took more than {error.timeout:.0f} seconds")
    atomic.write_text(work / f"{name}.stderr", done.stderr)
    seconds, said = time.monotonic() - start, (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode == 0:
        return Outcome(name, "done", seconds, found=json.loads(done.stdout.splitlines()[-1]))
    why = one_line(said.removeprefix("error: "))[:300]
    if done.returncode == MissingPart.exit_code:
        return Outcome(name, "missing", seconds, why.partition(";")[0])
    return Outcome(name, "failed", seconds, f"{why} (exit code {done.returncode}; {name}.stderr has all of it)")


def write(out: Path, bundle: str, outcomes: Sequence[Outcome]) -> None:
    """Result and page as far as they are."""
    machine = describe()
    fields = {"machine": machine, "bundle": bundle, "steps": [vars(one) for one in outcomes]}
    atomic.write_text(out / "hardware.json", json.dumps(fields, indent=1) + "\n")
    atomic.write_text(out / "hardware.md", page(machine, bundle, outcomes))


def page(machine: Mapping[str, Any], bundle: str, outcomes: Sequence[Outcome]) -> str:
    """The result for people: a table of steps, then each one's figures."""
    lines = [f"# First day on hardware\n\nBundle {bundle}.\n"]
    lines += [f"* {name}: {_shown(value)}" for name, value in machine.items()]
    lines += ["", "| step | what | state | s | |", "|---|---|---|---|---|"]
    for one in outcomes:
        lines.append(
            f"| {one.name} | {STEPS[one.name].what} | {one.state} | {one.seconds:.1f} | {one.why.replace('|', ' ')} |"
        )
    for one in outcomes:
        if one.found:
            lines += ["", f"## {one.name}", ""]
            lines += [f"* {name}: {_shown(value)}" for name, value in one.found.items()]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    exit_with_code(main)
