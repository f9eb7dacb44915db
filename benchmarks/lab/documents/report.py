"""``python -m benchmarks report RESULTS.json ...``: docs/performance.md from measured results, and from nothing else.

A section for each file: the machine, the commands, tables and a picture. Rows of a GPU are there where one ran them.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from dskd.benchmarks.plots import draw
from dskd.benchmarks.results import FLAGGED, PASSED, Floor, Ratio, Results, Row, read_results
from dskd.runtime import atomic
from dskd.runtime.errors import CallError, Parser, exit_with_code

INTRODUCTION = """# Performance

Made by `python -m benchmarks report` from the results of the commands that stand below; not edited by hand.
`frame to verdict` is preprocessing, network and decision of a frame in memory. Contenders are processes of their own and
take turns, in several launches; ratios are of the same rounds, with 95 % intervals. The floor is the larger of the
graph's MACs over the machine's measured peak and its bytes over the measured bandwidth ([how](#how-it-is-measured)).
"""
METHOD = """
## How it is measured

* A round: each contender in an order drawn anew works for its turn; its first calls are not counted. A launch: all
  processes anew. `compare` holds two files against each other in the measure of a fixed network that runs before and
  after every turn, and calls a difference what lies beyond 3 % with all of its 95 % interval.
{kinds}* Process start: a program that was started before, and finds what it left in the user's caches. `empty caches`: its
  first start, also on the peers' side; `python -m benchmarks coldstart --help` says what each of the two checks.
* Floor: measured after the rounds. Peak: what six 3x3 convolutions of 256 channels reach in the same backend and
  precision. Bandwidth: copies on all cores that are larger than the caches, read and written bytes together; on a
  Jetson the memory's clock and bus.
* Bytes: constants as stored, and what every convolution reads and writes, once, in the graph's precision.
* Peers: `python -m benchmarks peers --help` says what is measured of whom. Their weights are random there, because speed
  does not depend on them; `python -m benchmarks deployed --help` says how they are trained where accuracy is compared.
"""
KINDS = """* Of a frame that passes no map is asked for; in the map of a flagged one regions are sought. The two kinds take turns,
  as many of each; `..., passed` and `..., flagged` are rows of their own.
"""
NAMES = {
    "latency": "Latency", "throughput": "Throughput", "memory": "Memory", "coldstart": "Cold start", "parity": "Parity",
    "energy": "Energy", "peers": "Peers", "deployed": "Accuracy of what is deployed",
    "tiles": "Large frames in tiles",
}  # fmt: skip
MACHINE = {
    "model": "module", "cpu": "CPU", "cores": "cores", "instructions": "instructions", "governor": "governor",
    "memory_mb": "memory (MB)", "gpu": "GPU", "gpu_memory_mb": "GPU memory (MB)",
    "compute_capability": "compute capability", "power_mode": "power mode", "clocks_locked": "clocks locked",
    "gpu_clock_mhz": "GPU clock (MHz)", "memory_clock_mhz": "memory clock (MHz)",
    "hottest_celsius": "hottest sensor (°C)",
    "jetpack": "JetPack", "l4t": "L4T", "system": "system", "python": "Python", "versions": "versions",
    "peers": "peers", "bundle": "bundle", "load": "load at the start", "commit": "commit", "when": "when",
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = Parser(
        prog="python -m benchmarks report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("results", type=Path, nargs="+", metavar="RESULTS.json")
    options.add_argument("--out", type=Path, default=Path("docs/performance.md"), help="(default: %(default)s)")
    chosen = options.parse_args(arguments)
    sections = [read_results(file) for file in chosen.results]
    stems = [file.stem for file in chosen.results]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise CallError(f"two results are called {twice}, and so would their pictures; rename one")
    pictures = []
    for file, results in zip(chosen.results, sections, strict=True):
        picture = chosen.out.parent / "figures" / f"performance-{file.stem}.svg"
        pictures.append(os.path.relpath(picture, chosen.out.parent) if draw(results, picture) else None)
    atomic.write_text(chosen.out, page(sections, pictures))
    print(f"{chosen.out}: {len(sections)} result(s)")
    return 0


def page(sections: list[Results], pictures: list[str | None]) -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    for results, picture in zip(sections, pictures, strict=True):
        parts.append(f"\n## {_title(results)}\n")
        parts.append(machine(results))
        parts.append(f"\n```sh\npython -m benchmarks {shlex.join(results.command)}\n```\n")
        parts += [f"\n![Figures of {_title(results)}]({picture})\n"] if picture else []
        benchmarks = dict.fromkeys(row.benchmark for row in results.rows)
        parts += [f"\n### {NAMES.get(name, name)}\n\n{rows_table(results, name)}" for name in benchmarks]
        parts += [f"\n### Floor\n\n{floors_table(results.floors)}"] if results.floors else []
        parts += [f"\nNote: {_cell(remark)}.\n" for remark in results.remarks]
        parts += [f"\nLeft out: {_cell(note)}.\n" for note in results.notes]
    split = any(row.what.endswith((PASSED, FLAGGED)) for results in sections for row in results.rows)
    return "".join(parts) + METHOD.format(kinds=KINDS if split else "")


def machine(results: Results) -> str:
    """Where it was measured."""
    found = [(label, results.environment[key]) for key, label in MACHINE.items() if key in results.environment]
    table = _table(("", ""), [(label, _shown(value)) for label, value in found])
    return table + ("\n" + _table(("contender", "ran as"), results.backends.items()) if results.backends else "")


def rows_table(results: Results, benchmark: str) -> str:
    """Figures of one benchmark, and its ratios."""
    rows: list[Row] = [row for row in results.rows if row.benchmark == benchmark]
    cells = [(r.name, r.what, r.unit, *map(_number, (r.median, r.p90, r.p99, r.max)), str(r.n)) for r in rows]
    text = _table(("", "figure", "unit", "p50", "p90", "p99", "max", "n"), cells)
    ratios: list[Ratio] = [ratio for ratio in results.ratios if ratio.benchmark == benchmark]
    if ratios:
        shown = [(r.of if r.of == r.to else f"{r.of} / {r.to}", r.what, f"{r.median:.3f}", r.interval) for r in ratios]
        text += "\n" + _table(("ratio", "of", "median", "95 % interval"), shown)
    return text


def floors_table(floors: Iterable[Floor]) -> str:
    """What the machine could do at best."""
    head = ("", "GMAC", "MB", "peak GMAC/s", "GB/s", "floor ms", "measured ms", "reached")
    return _table(
        head,
        [
            (
                f.name, f"{f.macs / 1e9:.2f}", f"{f.bytes / 1e6:.1f}", f"{f.peak_macs / 1e9:.0f}",
                f"{f.bandwidth / 1e9:.1f}", f"{f.floor_ms:.2f}", f"{f.measured_ms:.2f}", f"{f.share:.0%}",
            )
            for f in floors
        ],
    )  # fmt: skip


def _title(results: Results) -> str:
    place = results.environment.get("model") or results.environment.get("gpu") or results.environment.get("cpu")
    return _cell(f"{' '.join(results.command[:1])} on {place}")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(map(_cell, cells))} |" for cells in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


if __name__ == "__main__":
    exit_with_code(main)
