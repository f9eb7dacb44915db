"""``make demo``: the whole path on a small generated set, command by command."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from dskd.runtime.bundle.loading import MANIFEST
from dskd.runtime.errors import CallError, DskdError, MissingPart, Parser, exit_with_code
from dskd.runtime.result import Verdict
from dskd.train.synthetic import NAME

SETTINGS = ["input.height=192", "input.width=256", "recipe.epochs=24"]
LIGHT = "efficientnet_lite0"  # its weights come with the development packages
OF_LIGHT = [f"backbone={LIGHT}", "embedding.width=0.5", "decoder.width=0.5", "map.components=256"]  # dskd-lite
EXAMPLES = """dskd demo                                         in ./demo, some minutes
dskd demo --serve                                 then a station on its pictures, with the operator's page
dskd demo --out /tmp/demo --set recipe.epochs=2   only to see that all of it runs"""


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="dskd demo", description=__doc__, examples=EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder, emptied first (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a training setting")
    parser.add_argument(
        "--serve",
        action="store_true",
        help="then run a station on its pictures, with a page; an earlier demo is used again",
    )
    options = parser.parse_args(arguments)
    start, out = time.time(), options.out
    if options.serve and (out / "runs" / NAME / "bundle" / MANIFEST).is_file():
        return serve(out)
    if out.exists() and any(out.iterdir()) and not (out / NAME).is_dir():
        raise CallError(f"--out {out}: holds something else than an earlier demo; name another folder")
    shutil.rmtree(out, ignore_errors=True)  # an earlier demo may have had another teacher
    store = out / "inspections.db"
    run, parts = out / "runs" / NAME, out / NAME
    step("train.synthetic", out)
    chosen, teacher = teacher_options()
    settings = [part for setting in [*SETTINGS, *chosen, *options.set] for part in ("--set", setting)]
    step("train", "--data", parts, "--out", run, *settings, *teacher)
    step("export.onnx", "--run", run)
    step("export.verify", "--bundle", run / "bundle")
    overlays = out / "overlays"
    sinks = ["--sink", f"sqlite://{store}", "--sink", f"images://{overlays}"]
    step("runtime", "--bundle", run / "bundle", "--source", parts / "test", *sinks, quiet=True)
    print(f"\n{table(store)}\n\nreport    {run / 'report.html'}\noverlays  {overlays}\nbundle    {run / 'bundle'}")
    print(f"done in {(time.time() - start) / 60:.1f} minutes")
    if options.serve:
        return serve(out)
    again = "" if out == Path("demo") else f" --out {shlex.quote(str(out))}"
    print(f"next      dskd demo --serve{again}   (the page of a station that inspects these pictures)")
    return 0


def serve(out: Path) -> int:
    """Runs a station on the demo's test pictures until Ctrl-C; it prints where its page is. Returns its exit code."""
    file = out / "line.yaml"
    if not file.exists():
        pictures = (out / NAME / "test").resolve()
        step(
            "init", file, "--bundle", out / "runs" / NAME / "bundle", "--source", f"folder://{pictures}?loop=1&fps=0.5"
        )
    words = [sys.executable, "-m", "dskd", "station", str(file)]
    print(f"\n$ dskd station {file}   (Ctrl-C ends it)", flush=True)
    with subprocess.Popen(words) as station:  # noqa: S603
        while True:
            try:
                return station.wait()
            except KeyboardInterrupt:  # the terminal tells the station too, which ends in its own time
                continue


def teacher_options() -> tuple[list[str], list[str]]:
    """Settings and words for the light teacher, which needs no network, else for ResNet18, at worst with random weights."""
    from dskd.train.networks.backbones import BACKBONES  # torch, which --help does not wait for
    from dskd.train.weights import RANDOM, load_teacher

    with contextlib.suppress(MissingPart):
        load_teacher(BACKBONES[LIGHT])
        return OF_LIGHT, []
    try:
        load_teacher(BACKBONES["resnet18"])
    except MissingPart:
        print("no ImageNet weights here and none to download: going on with a random teacher, accuracy will suffer")
        return [], ["--teacher-weights", RANDOM]
    return [], []


def step(*command: object, quiet: bool = False) -> None:
    """Shows and runs one command of the path."""
    words = [str(word) for word in command]
    print(f"\n$ dskd {shlex.join(words)}", flush=True)
    out = subprocess.DEVNULL if quiet else None
    done = subprocess.run([sys.executable, "-m", "dskd", *words], stdout=out, check=False)  # noqa: S603
    if done.returncode:
        raise DskdError(f"dskd {words[0]} ended with exit code {done.returncode}; its message stands above")


def table(store: Path) -> str:
    """Verdicts per kind of part, from the store."""
    with sqlite3.connect(store) as database:
        rows = database.execute("SELECT frame, verdict FROM inspections").fetchall()
    counts = Counter((frame.split("/")[0], verdict) for frame, verdict in rows)
    kinds = sorted({kind for kind, _ in counts}, key=lambda kind: (kind != "good", kind))
    lines = [f"{'part':16}" + "".join(f"{verdict.value:>8}" for verdict in Verdict)]
    lines += [f"{kind:16}" + "".join(f"{counts[kind, verdict.value]:8}" for verdict in Verdict) for kind in kinds]
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with_code(main)
