"""``python -m benchmarks scaling``: cameras per Orin module, and what a line, a plant and a fleet fill up first.

Ceilings come from data sheets and from counting in the graph; nothing here ran on a module. What cameras do to an engine
of that speed is simulated. Sizes of records, pictures and pages are measured by writing them. ``docs/scaling.md`` is
what this prints.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx

from dskd.benchmarks.lab.station.line_simulation import simulate
from dskd.benchmarks.lab.station.load_sizes import CAMERAS, SIDE, Sizes, measure
from dskd.export.graph.cost import graph_cost
from dskd.export.graph.half_head import head_in_half
from dskd.export.prune import prune
from dskd.export.run_to_bundle import convert
from dskd.runtime.bundle.manifest import InputSpec, Tiling
from dskd.runtime.errors import CallError, Parser, exit_with_code
from dskd.runtime.inspection.tiling import Grid
from dskd.runtime.sinks.mqtt import ON_THE_WAY
from dskd.train.config import load_config
from dskd.train.evaluate import EagerGraph
from dskd.train.local_statistics import build_map
from dskd.train.methods.base import build
from dskd.train.networks.backbones import BACKBONES
from dskd.train.weights import load_teacher

WEIGHT_BYTES = {"FP16": 2, "INT8": 1}
DAY = 86_400
LINK = 1e9 / 8  # bytes a second of gigabit Ethernet
DISK = 256e9
FLAGGED = 0.02  # of parts: kept in the archive, beside one in a hundred of the others
PASSES_KEPT = 0.01
SCRAPE = 15  # seconds
SIMULATED, LOADS = ("Orin Nano 8GB", "AGX Orin 64GB"), (0.5, 0.8, 0.95, 1.1)
BATCH = 8  # frames at once
SITES = {"a line": 1, "a plant": 20, "a fleet": 400}  # devices


@dataclass(frozen=True)
class Peak:
    """A module's GPU by its data sheet: dense INT8 operations in 10^12/s, memory bandwidth in 10^9 bytes/s."""

    module: str
    int8: float
    bandwidth: float

    def macs(self, precision: str) -> float:
        """Multiply-accumulates a second: two operations each; Ampere's tensor cores do FP16 at half the rate of INT8."""
        return self.int8 * 1e12 / 2 / (2 if precision == "FP16" else 1)


# The GPU's share of the advertised sparse figure, halved for dense weights; DLA left out.
PEAKS = (
    Peak("AGX Orin 64GB", 170 / 2, 204.8),
    Peak("AGX Orin 32GB", 108 / 2, 204.8),
    Peak("Orin NX 16GB, Super", 77 / 2, 102.4),
    Peak("Orin NX 16GB", 60 / 2, 102.4),
    Peak("Orin NX 8GB, Super", 77 / 2, 102.4),
    Peak("Orin NX 8GB", 50 / 2, 102.4),
    Peak("Orin Nano 8GB, Super", 67 / 2, 102.4),
    Peak("Orin Nano 8GB", 40 / 2, 68.3),
    Peak("Orin Nano 4GB, Super", 34 / 2, 51.2),
    Peak("Orin Nano 4GB", 20 / 2, 34.1),
)


@dataclass(frozen=True)
class Load:
    """What one inspection asks of a module: MACs, and numbers held as weights, as constants and as activations.

    ``constants`` are float32; ``halves`` are those that engines keep in half precision (``export/graph/half_head.py``).
    """

    macs: int
    weights: int
    constants: int
    activations: int
    halves: int = 0

    def bytes(self, precision: str, batch: int) -> float:
        """Through memory for one inspection: constants once a batch, what each convolution reads and writes once."""
        size = WEIGHT_BYTES[precision]
        return (self.weights * size + self.constants * 4 + self.halves * 2) / batch + self.activations * size

    def ceiling(self, peak: Peak, precision: str, batch: int) -> tuple[float, str]:
        """Inspections a second that the data sheet cannot exceed, and which of its figures says so."""
        compute, memory = peak.macs(precision) / self.macs, peak.bandwidth * 1e9 / self.bytes(precision, batch)
        return min((compute, "compute"), (memory, "memory"))


def default_load() -> Load:
    """Of the graph that the default configuration exports; weights do not matter, so the teacher is random."""
    config = load_config(None, [])
    backbone = BACKBONES[config.backbone]
    method = build(config, load_teacher(backbone, "random")[0])
    graph = prune(EagerGraph(method.inference_path(next(iter(method.readings()))), build_map(config), backbone))
    with tempfile.TemporaryDirectory() as folder:
        import torch

        probe = torch.zeros((1, config.input.height, config.input.width, 3), dtype=torch.uint8)
        convert(graph, probe, 20, Path(folder) / "model.onnx")
        model = head_in_half(onnx.load(Path(folder) / "model.onnx"))
    halves = sum(prod(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16)
    found, held = graph_cost(model), sum(prod(tensor.dims) for tensor in model.graph.initializer)
    return Load(found.macs, found.parameters, held - found.parameters - halves, found.activations, halves)


def modules(load: Load, rate: float, shares: Sequence[float]) -> list[str]:
    """A table over modules: ceilings, and cameras of ``rate`` parts a second at ``shares`` of the INT8 ceiling."""
    cases = [(precision, batch) for precision in WEIGHT_BYTES for batch in (1, 8)]
    head = [f"{precision}, batch {batch}" for precision, batch in cases]
    head += [f"cameras at {share:.0%}" for share in shares]
    rows = [["module", "INT8 TOPS, dense, GPU", "GB/s", *head]]
    for peak in PEAKS:
        found = [load.ceiling(peak, *case) for case in cases]
        cells = [f"{value:.0f} ({limit})" for value, limit in found]
        cameras = [f"{share * found[-1][0] / rate:.0f}" for share in shares]
        rows.append([peak.module, f"{peak.int8:g}", f"{peak.bandwidth:g}", *cells, *cameras])
    return _table(rows)


def lines(load: Load, rate: float, share: float) -> list[str]:
    """A table over modules and loads: what waits and what is lost where ``share`` of the INT8 ceiling is reached."""
    rows = [["module", "load", "cameras", "frames in a batch", "p50 ms", "p99 ms", "dropped", "of one camera at most"]]
    for peak in (peak for peak in PEAKS if peak.module in SIMULATED):
        speed = {batch: share * load.ceiling(peak, "INT8", batch)[0] for batch in range(1, BATCH + 1)}
        for part in LOADS:
            cameras = max(round(part * speed[BATCH] / rate), 1)
            seen = simulate(cameras, rate, lambda batch, speed=speed: batch / speed[batch], BATCH)  # type: ignore[misc]
            figures = (
                f"{seen.batch:.1f}",
                f"{seen.p50:.0f}",
                f"{seen.p99:.0f}",
                f"{seen.dropped:.0%}",
                f"{seen.worst:.0%}",
            )
            rows.append([peak.module, f"{part:.0%}", f"{cameras}", *figures])
    return _table(rows)


def sites(sizes: Sizes, rate: float) -> list[str]:
    """A table over what a line, a plant and a fleet put on disks, network, broker and Prometheus."""
    parts = CAMERAS * rate  # of one device, a second
    kept = parts * (FLAGGED + (1 - FLAGGED) * PASSES_KEPT)
    store, png, jpeg = parts * sizes.stored * DAY, kept * sizes.png * DAY, kept * sizes.jpeg * DAY
    rows = [["", *SITES]]
    counts = list(SITES.values())
    rows.append(["devices", *map(str, counts)])
    rows.append(["parts a second", *(f"{n * parts:g}" for n in counts)])
    frames = parts * SIDE * SIDE / LINK
    rows.append(["camera link of each device, one byte a pixel, of 1 Gbit/s", *[f"{frames:.1%}"] * len(counts)])
    rows.append(["store, GB a day on each device", *[f"{store / 1e9:.2f}"] * len(counts)])
    for kind, archive in (("PNG", png), ("JPEG", jpeg)):
        rows.append([f"archive with {kind}, GB a day on each device", *[f"{archive / 1e9:.1f}"] * len(counts)])
        full = f"{DISK / (store + archive):.1f}"
        rows.append([f"days until {DISK / 1e9:.0f} GB are full with {kind}", *[full] * len(counts)])
    rows.append(["MQTT messages a second at the broker", *(f"{2 * n * parts:g}" for n in counts)])
    told = [n * parts * (sizes.inspection + sizes.answer) / LINK for n in counts]
    rows.append(["MQTT payload, of 1 Gbit/s", *(f"{share:.2%}" for share in told)])
    rows.append(["Prometheus series", *(f"{n * sizes.series}" for n in counts)])
    rows.append(
        [f"Prometheus samples a second, every {SCRAPE} s", *(f"{n * sizes.series / SCRAPE:.0f}" for n in counts)]
    )
    scraped = [n * sizes.page / SCRAPE / LINK for n in counts]
    rows.append(["Prometheus pages, of 1 Gbit/s", *(f"{share:.3%}" for share in scraped)])
    return _table(rows)


def measured(sizes: Sizes) -> list[str]:
    """A table of what was written and how large it was."""
    return _table(
        [
            ["what", "bytes"],
            ["inspection as MQTT payload, one region", f"{sizes.inspection:.0f}"],
            ["answer as MQTT payload", f"{sizes.answer:.0f}"],
            ["inspection and its answer in the store, indexes included", f"{sizes.stored:.0f}"],
            [f"a kept inspection in the archive: PNG of {SIDE}x{SIDE}, heat layer, overlay, JSON", f"{sizes.png:.0f}"],
            ["the same with the original as JPEG", f"{sizes.jpeg:.0f}"],
            [f"Prometheus page of {CAMERAS} cameras, {sizes.series} series", f"{sizes.page:.0f}"],
        ]
    )


def _table(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]


PAGE = """# Scaling

This page is what `python -m benchmarks scaling` prints. Nothing on it was measured on a Jetson: the first table holds
ceilings from data sheets, the second a simulation, the last one arithmetic over sizes that were measured by writing them.

## Cameras per module

One inspection at 256 pixels with the default configuration is {gmacs:.2f} GMAC. Through memory go {weights:.1f} M weights,
{constants:.1f} M constants of the map in float32 and {halves:.1f} M in half precision, all of these once a batch, and
{activations:.1f} M activations, counted as what each convolution reads and writes: {fp16:.0f} MB at FP16 and {int8:.0f} MB at
INT8 with batch 1. A second camera in the batch adds its activations alone, {more16:.0f} MB at FP16 and {more8:.0f} MB at INT8,
{share16:.0%} and {share8:.0%} of what the first one costs. A module cannot inspect faster than its peak
multiply-accumulates allow, nor faster than its memory moves these bytes; the table holds the lower of the two in
inspections a second and names it. Preprocessing, the camera and everything else come on top.

The last columns are cameras with {rate:g} parts a second each at a share of the ceiling of INT8 with batch 8. Which share a
module reaches is not known here; {low:.0%} and {high:.0%} are two ends to reckon with until `python -m benchmarks throughput`
ran on yours. The GPU alone is counted, dense, at the power mode of the data sheet. A picture in tiles is as many
inspections as it has tiles: {tiles} for 2048x2048 pixels in tiles of 256 that share 32.

{modules}

## Cameras at one module, simulated

Cameras are not aligned: each has a clock of its own. Batches are made as a station makes them, of what waits when the
engine is free, one frame of each camera in turn, at most {batch}; a frame that still waits when its camera has a newer one
is dropped, as a camera that nothing triggers does it. The engine is one that reaches {low:.0%} of the ceiling of INT8 at
every batch size, `latency_budget_ms` is 0, and the load is the cameras' frames over what the engine does in batches of
{batch}. Times are from capture to verdict without camera, preprocessing and decision.

{lines}

Up to the load that the engine bears batches grow and nothing is lost; beyond it cameras lose about alike. A line whose
parts have deadlines wants the load at which p99 fits, not the one at which frames begin to be dropped.

## What was measured

{measured}

Payloads are JSON; topic, headers and TLS come on top. A picture's size depends on what it shows: this one is a
generated plate with a camera's noise.

## A line, a plant, a fleet

A device has {cameras} cameras with {rate:g} parts a second each; {flagged:.0%} of the parts are flagged and kept, and
{passes:.0%} of the others. A line is one device.

{sites}

What fills up first:

1. **The disk of each device**, whatever the number of devices: the archive is made of pictures. `max_age_days`,
   `max_count` and `min_free_gb` bound it, `original: jpeg` makes it smaller.
2. **The link from camera to device** where one gigabit carries all cameras: it grows with pixels, and a second link is
   the mend. Nothing of it leaves the device.
3. **The broker**, by messages and not by bytes. A device has at most {window} messages on the way, so it delivers at most
   {window} divided by the round trip in seconds: with a round trip of {round_trip:.0f} ms or more the messages above pile up in
   the store. `on: [REVIEW, REJECT]` tells of flagged parts alone. What a broker takes is not known here.
4. **Prometheus** last: its load grows with cameras, not with parts.

## A fleet, simulated

`python -m jetson fleet-sim` ([jetson.md](jetson.md)) runs devices on one machine where all but the hardware is real:
agents, slots, stores, golden checks, inspections, a broker and a file host. They take a good update, a bad one and a
good one; broker and file host are killed and started again during the last two. One run of 50 devices on two x86-64
cores, four working at a time: all had the three updates after 10, 8 and 11 seconds; all 50 rolled the bad one back by
themselves; of 800 inspections none was lost, and the broker kept 50 inventories, all of the last version. `--devices`
takes up to 1000; how many a broker across a plant's network bears is not known from it.
"""


def page(rate: float, shares: tuple[float, float]) -> str:
    """``docs/scaling.md``."""
    load, sizes, cut = default_load(), measure(), InputSpec(height=256, width=256, tiling=Tiling(side=256))
    one = {precision: load.bytes(precision, 1) for precision in WEIGHT_BYTES}
    more = {precision: 2 * load.bytes(precision, 2) - one[precision] for precision in WEIGHT_BYTES}
    return PAGE.format(
        gmacs=load.macs / 1e9, weights=load.weights / 1e6, constants=load.constants / 1e6,
        activations=load.activations / 1e6, fp16=one["FP16"] / 1e6, int8=one["INT8"] / 1e6,
        halves=load.halves / 1e6, more16=more["FP16"] / 1e6, share16=more["FP16"] / one["FP16"],
        more8=more["INT8"] / 1e6, share8=more["INT8"] / one["INT8"],
        window=ON_THE_WAY, rate=rate, low=shares[0], high=shares[1], cameras=CAMERAS, flagged=FLAGGED, passes=PASSES_KEPT,
        modules="\n".join(modules(load, rate, shares)), batch=BATCH,
        lines="\n".join(lines(load, rate, shares[0])), measured="\n".join(measured(sizes)),
        sites="\n".join(sites(sizes, rate)), round_trip=ON_THE_WAY / (2 * CAMERAS * rate) * 1e3, tiles=len(Grid.of((2048, 2048), cut)),
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("--rate", type=float, default=5.0, help="parts a second of each camera (default: %(default)s)")
    parser.add_argument(
        "--share", type=float, nargs=2, default=(0.1, 0.4), metavar=("LOW", "HIGH"),
        help="shares of the ceiling to reckon cameras with (default: 0.1 0.4)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if not options.rate > 0 or not 0 < options.share[0] <= options.share[1] <= 1:
        raise CallError("--rate must be over 0, and --share two rising numbers over 0 and at most 1")
    print(page(options.rate, tuple(options.share)), end="")
    return 0


if __name__ == "__main__":
    exit_with_code(main)
