"""``python -m benchmarks accuracy``: every method on one set, from one budget of images, as it is exported.

Each row is an ordinary training run, bundle and calibration in a folder of their own; what is finished is read back,
what was killed goes on. The last step of a run is what is judged: nothing here, and nothing in training, looks at a
test image to choose. Figures are of the exported graphs, run by onnxruntime.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dskd.benchmarks.demo import OF_LIGHT
from dskd.benchmarks.lab.models.comparison import overlays, set_table, table
from dskd.benchmarks.lab.models.labelled import Labelled, read_labelled, sha256_of
from dskd.benchmarks.lab.models.product_probes import probed
from dskd.benchmarks.lab.models.trained import trained
from dskd.calibration.__main__ import main as calibrate
from dskd.export.graph.answers import answer_files
from dskd.export.run_to_bundle import export
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle, is_bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code
from dskd.runtime.inspection.backends.onnx_runtime import GRAPHS as CPU_GRAPHS
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.train import data
from dskd.train.batches import Schedule
from dskd.train.config import TrainConfig, load_config
from dskd.train.data import InspectionSet
from dskd.train.evaluate import Scored, figures
from dskd.train.methods import METHODS
from dskd.train.products import figures_by_product, find_products, split_products
from dskd.train.run import versions
from dskd.train.trained_run import TrainedRun

CONTESTANTS: dict[str, tuple[str, ...]] = {name: (f"method={name}",) for name in METHODS} | {
    "urd-plain": ("method=urd", "urd.injection=plain"),
    "rdpp-pairwise": ("method=rdpp", "rdpp.transport=pairwise"),
    # Both students with the paper's terms as far as they are known, RD's recipe and map: nothing that we added.
    "dskd-plain": (
        "method=dskd",
        "loss.flattened=false",
        "loss.l2_encoder=1",
        "loss.l2_decoder=1",
        "dskd.mixed=1",
        "augment.pseudo_anomalies=0",
        "recipe.batch=16",
        "recipe.schedule=constant",
        "recipe.warm_up=0",
        "recipe.clip=0",
        "map.distance=cosine",
        "map.scale_weights=[1,1,1]",
    ),
    "dskd-decoder": ("method=dskd", "dskd.students=decoder"),
    "dskd-lite": ("method=dskd", *OF_LIGHT),
    "dskd-slim": ("method=dskd", "embedding.width=0.5", "decoder.width=0.5", "map.components=256"),
}
# Each is run by onnxruntime: ``int8`` is the graph that TensorRT builds from, ``int8-cpu`` the one that a CPU runs.
GRAPHS = {
    "fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx", "int8-cpu": "model.int8.cpu.onnx"
}  # fmt: skip
TIMED = 30  # pictures, after WARM_UP others
WARM_UP = 3
EXAMPLES = """examples:
  python -m benchmarks accuracy --data tiles --methods dskd,rd --seeds 3 --precisions fp32,int8 --images 7680
  python -m benchmarks accuracy --data tiles --methods dskd:3,rd:3,urd,snl    three seeds of two, one of the others
  python -m benchmarks accuracy --data tiles --data cloth --data label --methods snl,rd    one model for three products
  python -m benchmarks accuracy --each --data tiles --data castings --methods dskd,rd    a model for each set, and the mean
  python -m benchmarks accuracy --data tiles --variant wide method=rd backbone=wide_resnet50_2"""

Row = dict[str, object]
Report = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks accuracy", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--data", type=Path, action="append", required=True, help="MVTec layout; once for each product of one model")
    add("--each", action="store_true", help="a model for each --data instead of one for all, and their mean")
    add("--category", action="append", default=[], help="which product of --data; may be repeated, all takes all")
    add(
        "--methods",
        default="",
        help=f"separated by commas, NAME or NAME:SEEDS: {', '.join(CONTESTANTS)} (default: the methods)",
    )
    add("--variant", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"), help="a row of your own")
    add(
        "--seeds",
        type=int,
        default=1,
        help="runs of each row that names no number itself, seeds from 0 on (default: %(default)s)",
    )
    add("--precisions", default="fp32", help=f"separated by commas: {', '.join(GRAPHS)} (default: %(default)s)")
    add("--images", type=int, help="images shown to each run in whole epochs (default: each method's own epochs)")
    add("--config", type=Path, help="settings that all rows share (default: each method's own)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting for all rows")
    add("--out", type=Path, default=Path("runs/accuracy"), help="folder of the runs (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one")
    add("--teacher-weights", help="file of ImageNet weights")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not options.each:
        report = compared(options, find_products(options.data, options.category), options.out)
        print(json.dumps(report) if options.json else table(report["rows"]))
        return 0
    sets = [find_products([root], options.category) for root in options.data]
    reports = {images.name: compared(options, images, options.out / images.name) for images in sets}
    if len(reports) < len(sets):
        raise CallError("--each: two sets have one name, and their runs would lie in one folder; rename one")
    found = set_table({name: report["rows"] for name, report in reports.items()})
    atomic.write_text(options.out / "accuracy.md", found + "\n")
    print(json.dumps(reports) if options.json else found)
    return 0


def compared(options: argparse.Namespace, images: InspectionSet, out: Path) -> Report:
    """Every row on one set, or on the products of one model; what ``accuracy.json`` in ``out`` holds."""
    contestants, seeds, precisions = asked(options)
    labels = {item.defect for item in images.test}
    if "good" not in labels or len(labels) < 2:
        raise CallError(f"--data {images.folder}: needs good and defective test images, and has not both")
    rows: list[Row] = []
    shown: dict[str, Bundle] = {}
    for name, settings in contestants.items():
        for seed in range(seeds[name]):
            config = load_config(options.config, [*options.set, *settings, f"recipe.seed={seed}"])
            config = within_budget(config, images, options.images)
            folder = out / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") / f"seed-{seed}"
            done = trained(folder, config, images, options.teacher_weights, options.device)
            bundle = bundled(done, precisions)
            rows += judged(name, done, bundle, images, precisions)
            shown.setdefault(name, bundle)
            write(out, images, rows, precisions)  # what is known so far
    spec = next(iter(shown.values())).manifest.input
    if all(bundle.manifest.input == spec for bundle in shown.values()):
        time_side_by_side(shown, rows, precisions)
        overlays(shown, GRAPHS[precisions[0]], first_of_each(images), spec, out / "overlays")
    return write(out, images, rows, precisions)


def asked(options: argparse.Namespace) -> tuple[dict[str, tuple[str, ...]], dict[str, int], list[str]]:
    """Rows with their settings, how many seeds of each, and precisions. Raises CallError for what is not known."""
    words = [word for word in options.methods.split(",") if word] or ([] if options.variant else list(METHODS))
    seeds = {name: int(count or options.seeds) for name, count in map(_named, words)}
    unknown = next((name for name in seeds if name not in CONTESTANTS), None)
    if unknown is not None:
        raise CallError(f"--methods {unknown}: is not known; known are {', '.join(CONTESTANTS)}, or define a --variant")
    own = {name: tuple(settings) for name, *settings in options.variant}
    seeds |= dict.fromkeys(own, options.seeds)
    precisions = [precision for precision in GRAPHS if precision in options.precisions.split(",")]
    wrong = set(options.precisions.split(",")) - set(GRAPHS)
    if wrong or min(seeds.values()) < 1 or (options.images is not None and options.images < 1):
        raise CallError(f"--precisions takes {', '.join(GRAPHS)}; seeds and --images are at least 1")
    return {name: CONTESTANTS[name] for name in seeds if name not in own} | own, seeds, precisions


def _named(word: str) -> tuple[str, str]:
    """``rd`` or ``rd:3``: a row's name and its number of seeds, which may be missing."""
    found = re.fullmatch(r"([^:]+)(?::([0-9]{1,3}))?", word)
    if found is None:
        raise CallError(f"--methods {word}: is neither NAME nor NAME:SEEDS")
    return found[1], found[2] or ""


def within_budget(config: TrainConfig, images: InspectionSet, budget: int | None) -> TrainConfig:
    """As many whole epochs as come nearest to ``budget`` images shown; None leaves the recipe's own."""
    if budget is None:
        return config
    training = sum(len(part) for part, _ in split_products(images, config, strict=True))
    recipe = config.recipe.model_copy(update={"epochs": max(1, round(budget / training))})
    return config.model_copy(update={"recipe": recipe})


def bundled(done: TrainedRun, precisions: Sequence[str]) -> Bundle:
    """The bundle of a run, exported and calibrated where that is not done yet."""
    folder = done.folder / "bundle"
    bundle = load_bundle(folder) if is_bundle(folder) else None
    if bundle is None or bundle.manifest.provenance.checkpoint_sha256 != done.record["model_sha256"]:
        bundle, _ = export(done, next(iter(done.method.readings())), folder, opset=20, batch=1, licence="benchmark")
    if any(GRAPHS[precision] not in bundle.manifest.graphs for precision in precisions):
        with contextlib.redirect_stdout(sys.stderr):
            calibrate(["--bundle", str(folder)])
        bundle = load_bundle(folder)
    return bundle


def judged(name: str, done: TrainedRun, bundle: Bundle, images: InspectionSet, precisions: Sequence[str]) -> list[Row]:
    """A row for each precision; figures already known of the same graph and test images are read back."""
    file = done.folder / "accuracy.json"
    known: dict[str, Row] = {}
    if file.is_file():
        with contextlib.suppress(ValueError):
            known = json.loads(file.read_text())
    test_sha256 = sha256_of(images)
    rows, test = [], None
    for precision in precisions:
        key = f"{bundle.manifest.files[GRAPHS[precision]]} {test_sha256}"
        if key not in known:
            test = test or read_labelled(images, done.config.input)
            known[key] = measured(bundle, precision, images, test)
            atomic.write_text(file, json.dumps(known, indent=1))
        recipe, record = done.config.recipe, done.record
        told = {"method": name, "seed": recipe.seed, "precision": precision, **known[key]}
        told |= {"images_shown": images_shown(done), "minutes": record["minutes"], "painted": record["painted"]}
        rows.append(told)
    return rows


def images_shown(done: TrainedRun) -> int:
    """Of a run: whole batches only."""
    recipe, count = done.config.recipe, int(str(done.record["training_images"]))
    schedule = Schedule(count, recipe.batch * recipe.accumulate, recipe.epochs, recipe.seed)
    return schedule.steps * schedule.batch


def measured(bundle: Bundle, precision: str, images: InspectionSet, test: Labelled) -> Row:
    """Figures of one graph; of several products the mean over them, each one's own, and those of the probes."""
    graph = GRAPHS[precision]
    answers = answer_files(bundle, graph, test.paths, f"test images, {graph}")
    scored = Scored(answers.scores, answers.maps)
    if images.products:
        each = figures_by_product(images, test.paths, test.defects, scored, test.masks)
        if not each:
            raise DskdError("no product has good and defective test images")
        own = {product: found.as_dict() for product, found in each.items()}
        names = [name for name, value in next(iter(own.values())).items() if not isinstance(value, dict)]
        found: Row = {name: _mean([fields[name] for fields in own.values()]) for name in names}
        found["products"] = own
        good = scored.scores[[defect == "good" for defect in test.defects]]
        found["probes"] = probed(bundle, graph, images, test, good)
    else:
        found = figures(scored, test.defects, test.masks).as_dict()
    entry = bundle.manifest.graphs[graph]
    cost = {"parameters": entry.parameters, "macs": entry.macs, "megabytes": bundle.file(graph).stat().st_size / 1e6}
    return {**found, **cost}


def _mean(values: Sequence[object]) -> float | None:
    known = [float(value) for value in values if isinstance(value, (int, float))]
    return float(np.mean(known)) if known else None


def time_side_by_side(shown: Mapping[str, Bundle], rows: Sequence[Row], precisions: Sequence[str]) -> None:
    """Gives rows of a CPU's graphs their median milliseconds for one picture on one thread, all graphs taking turns.

    One run of a method stands for all its seeds: the graphs differ in their numbers only.
    """
    size = next(iter(shown.values())).manifest.input
    picture = np.random.default_rng(0).integers(0, 256, (1, size.height, size.width, 3), np.uint8)
    backends = {
        (name, precision): OnnxRuntimeBackend(bundle, GRAPHS[precision], threads=1)
        for name, bundle in shown.items()
        for precision in precisions
        if GRAPHS[precision] in CPU_GRAPHS.values()
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in backends}
    for _ in tqdm(range(WARM_UP + TIMED), desc="latency", unit="round", leave=False, disable=None):
        for key, backend in backends.items():
            start = time.perf_counter()
            backend.infer(picture).maps()
            times[key].append(1000 * (time.perf_counter() - start))
    for backend in backends.values():
        backend.close()
    for row in rows:
        measured_ms = times.get((str(row["method"]), str(row["precision"])))
        row["latency_ms"] = float(np.median(measured_ms[WARM_UP:])) if measured_ms else None


def first_of_each(images: InspectionSet) -> list[data.TestImage]:
    """The first test image of each kind by its name: examples that no score has chosen."""
    firsts: dict[str, data.TestImage] = {}
    for item in images.test:
        firsts.setdefault(item.defect, item)
    return list(firsts.values())


def write(out: Path, images: InspectionSet, rows: list[Row], precisions: Sequence[str]) -> Report:
    """Writes ``accuracy.json`` and ``accuracy.md``; returns what the first holds."""
    report: Report = {"environment": versions(), "data": images.name, "precisions": list(precisions), "rows": rows}
    out.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out / "accuracy.json", json.dumps(report, indent=1))
    atomic.write_text(out / "accuracy.md", table(rows) + "\n")
    return report


if __name__ == "__main__":
    exit_with_code(main)
