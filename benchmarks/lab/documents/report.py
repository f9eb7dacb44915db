"""``python -m benchmarks report RESULTS.json ...``: docs/performance.md from measured results, and from nothing else.

A section for each file: the machine, the commands, tables and a picture. Rows of a GPU are there where one ran them.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from dskd.benchmarks.plots import draw
from dskd.benchmarks.results import FLAGGED, PASSED, Floor, Ratio, Results, Row, read_results
from dskd.runtime import atomic
from dskd.runtime.errors import CallError, Parser, exit_with_code

INTRODUCTION = """# Performance

Made by `python -m benchmarks report` from the results of the commands that stand below; not edited by hand. Every quantile
and every round stands in the JSON that each section names, in `docs/figures`.
`frame to verdict` is preprocessing, network and decision of a frame in memory. Contenders are processes of their own and
take turns, in several launches. A figure is the median, with the 99th percentile in brackets where there are many. A ratio is
the median of rounds that both took part in, with its 95 % interval. The floor is the larger of the
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
    "model": "module", "cpu": "", "cores": "cores", "instructions": "", "governor": "governor",
    "memory_mb": "MB of memory", "gpu": "GPU", "gpu_memory_mb": "MB of GPU memory",
    "compute_capability": "compute capability", "power_mode": "power mode", "clocks_locked": "clocks locked",
    "gpu_clock_mhz": "MHz of the GPU", "memory_clock_mhz": "MHz of its memory",
    "hottest_celsius": "°C at most", "jetpack": "JetPack", "l4t": "L4T",
    "system": "", "python": "Python", "versions": "", "peers": "peers:", "bundle": "bundle",
    "load": "load at the start", "commit": "commit", "when": "",
}  # fmt: skip
AFTER = (
    "cores",
    "memory_mb",
    "gpu_memory_mb",
    "gpu_clock_mhz",
    "memory_clock_mhz",
    "hottest_celsius",
)  # number, then word
MANY = 20  # figures, from which on a 99th percentile says something
THIS_RUN = ("load", "commit", "when")  # what differs between runs on one machine
DISTURBED = ("machine", "taken by other programs")


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
    atomic.write_text(chosen.out, page(sections, pictures, chosen.results))
    print(f"{chosen.out}: {len(sections)} result(s)")
    return 0


def page(sections: list[Results], pictures: list[str | None], files: list[Path]) -> str:
    """The whole page as Markdown. ``files`` name the results that it was made of."""
    parts, told = [INTRODUCTION], set[str]()
    for results, picture, file in zip(sections, pictures, files, strict=True):
        parts.append(f"\n## {_title(results)}\n\n{machine(results, told)} Every figure: `{file.name}`.\n")
        parts.append(f"\n```sh\npython -m benchmarks {shlex.join(results.command)}\n```\n")
        parts += [f"\n![Figures of {_title(results)}]({picture})\n"] if picture else []
        benchmarks = dict.fromkeys(row.benchmark for row in results.rows)
        parts += [
            f"\n### {NAMES.get(name, name)}\n\n{figures_table(results, name)}{ratios_tables(results, name)}"
            for name in benchmarks
        ]
        parts += [f"\n### Floor\n\n{floors_table(results.floors)}"] if results.floors else []
        said = [f"Note: {remark}" for remark in results.remarks] + [f"Left out: {note}" for note in results.notes]
        parts += [f"\n{_cell(each)}.\n" for each in said if each not in told]
        told.update(said)
    split = any(row.what.endswith((PASSED, FLAGGED)) for results in sections for row in results.rows)
    return "".join(parts) + METHOD.format(kinds=KINDS if split else "")


def machine(results: Results, told: set[str]) -> str:
    """Where it was measured, and what each contender really ran as; what was ``told`` of another section is not repeated."""
    facts, found = list[str](), list[str]()
    for key, word in MACHINE.items():
        if key in results.environment:
            shown = _shown(results.environment[key])
            fact = " ".join(filter(None, (shown, word) if key in AFTER else (word, shown)))
            (found if key in THIS_RUN else facts).append(fact)
    disturbed = [row for row in results.rows if (row.name, row.what) == DISTURBED]
    found += [f"other programs took {_number(row.median)} {row.unit} of it" for row in disturbed]
    named = [f"{name} is {words}" for name, words in results.backends.items() if name.replace(" ", "-") != words]
    ran = "; ".join(each for each in named if each not in told)
    told.update(named)
    place = "; ".join(facts)
    text = "The machine and versions of above" if place in told else place
    told.add(place)
    return _cell("; ".join([text, *found]) + "." + (f" Ran as: {ran}." if ran else ""))


def figures_table(results: Results, benchmark: str) -> str:
    """Medians of one benchmark, contenders one way and figures the other."""
    rows = [row for row in results.rows if row.benchmark == benchmark and (row.name, row.what) != DISTURBED]
    cells = {(row.name, f"{row.what} ({row.unit})".removesuffix(" (1)")): _figure(row) for row in rows}
    return _crossed(cells)


def ratios_tables(results: Results, benchmark: str) -> str:
    """Ratios within a contender, then of one contender over another, a table for each figure."""
    ratios = [ratio for ratio in results.ratios if ratio.benchmark == benchmark]
    own = {(r.of, r.what): _ratio(r) for r in ratios if r.of == r.to}
    text = f"\n{_crossed(own)}" if own else ""
    others = [r for r in ratios if r.of != r.to]
    if len({r.to for r in others}) == 1:
        return f"{text}\n{_crossed({(r.of, r.what): _ratio(r) for r in others}, f'over {others[0].to}')}"
    for what in dict.fromkeys(r.what for r in others):
        cells = {(r.of, f"over {r.to}"): _ratio(r) for r in others if r.what == what}
        text += f"\n{_crossed(cells, what)}"
    return text


def _crossed(cells: dict[tuple[str, str], str], corner: str = "") -> str:
    """A table of cells by two names; what there is more of goes down."""
    across, down = sorted({a for a, _ in cells}, key=_counted), list(dict.fromkeys(d for _, d in cells))
    if corner or len(across) > len(down):
        return _table((corner, *down), [(a, *(cells.get((a, d), "") for d in down)) for a in across])
    return _table((corner, *across), [(d, *(cells.get((a, d), "") for a in across)) for d in down])


def _counted(name: str) -> list[tuple[int, str]]:
    """For sorting: 8 cameras come before 16."""
    return [(int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def _figure(row: Row) -> str:
    median, high = _number(row.median), _number(row.p99)
    return median if row.n < MANY or high == median else f"{median} ({high})"


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.3f} ({ratio.interval})"


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
