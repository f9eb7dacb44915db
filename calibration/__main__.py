"""``dskd calibration``: INT8 graphs for TensorRT and for CPUs, and what they cost."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from dskd.calibration.flips import require_few_flips, verdicts
from dskd.calibration.images import usable
from dskd.calibration.judged import Judged, judge_all
from dskd.calibration.observed import observe_once
from dskd.calibration.pictures import Pictures, gather
from dskd.calibration.quantise import FILES, TARGETS, in_eight_bits, quantisable
from dskd.calibration.ranges import METHODS
from dskd.calibration.report import Report, Row
from dskd.calibration.sensitivity import sensitivity, too_sensitive
from dskd.calibration.within_tolerance import Limit, Recipe, graph_within, relative_shift
from dskd.export.graph.add_graphs import add_graphs, float_answers
from dskd.export.graph.answers import HeldOut
from dskd.export.graph.half_head import head_in_half
from dskd.export.graph.parts import convolution_macs
from dskd.export.graph.variants import write_forms
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import FLOAT, Bundle, default_bundle, hash_files, load_bundle, write_manifest
from dskd.runtime.errors import CallError, Parser, as_words, exit_with_code
from dskd.runtime.verbosity import add_verbosity, apply_verbosity
from dskd.train.turned import WAYS, Turned

FOLDER = "calibration"
NEW, MOVED = "taken as new, changed or missing since training", "thresholds that moved"  # facts of the report
LOOKED_AT = 8  # images by which layers are compared

EXAMPLES = """examples:
  dskd calibration                                      the newest bundle, with the pictures of its run
  dskd calibration --images good/ --held-out more/      good parts of this line, none of them trained on in more/
  dskd calibration --tolerance 0.05                     worst layers stay in float until scores move by less than
                                                             a twentieth of their spread on good parts"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd calibration", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument("--images", type=Path, help="good images for the ranges (default: those of the training)")
    options.add_argument(
        "--held-out", type=Path, help="good images never trained on, for thresholds (default: the run's own)"
    )
    options.add_argument("--labelled", type=Path, help="MVTec layout with test images (default: the run's, if any)")
    options.add_argument(
        "--method", choices=METHODS, default="minmax", help="how ranges are chosen (default: %(default)s)"
    )
    options.add_argument(
        "--count", type=int, default=256, help="images that the ranges come from (default: %(default)s)"
    )
    options.add_argument("--target", choices=TARGETS, action="append", help="only this graph (default: both)")
    options.add_argument(
        "--exclude", action="append", default=[], metavar="NAME", help="leave layers whose name holds NAME in float"
    )
    options.add_argument(
        "--tolerance",
        type=float,
        help="largest score shift on good images, as a share of the scores' spread\n(default: none, every layer that may be is in eight bits)",
    )
    options.add_argument(
        "--keep-map", action="store_true", help="keep the float model's local distances instead of learning them anew"
    )
    options.add_argument(
        "--new-pictures",
        action="store_true",
        help="take the run's pictures as they are now, although some were changed or are gone since training",
    )
    options.add_argument(
        "--accept-flips",
        action="store_true",
        help="write the bundle although a graph judges more good pictures otherwise than the false-reject rates explain",
    )
    options.add_argument("--json", action="store_true", help="print the report as one JSON object")
    add_verbosity(options)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    apply_verbosity(options)
    final, report = carry_out(options)
    peak = peak_memory()
    fields = {"bundle": final.id, "peak_memory_mb": peak, **report.as_dict()}
    print(json.dumps(fields) if options.json else summary(final, report, peak))
    return 0


def calibrate(
    bundle: str | os.PathLike[str] | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    held_out: str | os.PathLike[str] | None = None,
    labelled: str | os.PathLike[str] | None = None,
    method: str = "minmax",
    count: int = 256,
    target: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    tolerance: float | None = None,
    keep_map: bool = False,
    new_pictures: bool = False,
    accept_flips: bool = False,
) -> Path:
    """Calibrates as ``dskd calibration`` does, with its words, and returns the bundle's folder. Raises DskdError."""
    words = as_words(bundle=bundle, images=images, held_out=held_out, labelled=labelled, method=method, count=count)
    words += as_words(target=target, exclude=exclude, tolerance=tolerance, keep_map=keep_map)
    words += as_words(new_pictures=new_pictures, accept_flips=accept_flips)
    return carry_out(parser().parse_args(words))[0].path


def carry_out(options: argparse.Namespace) -> tuple[Bundle, Report]:
    """Adds the INT8 graphs to the bundle that the options name; nothing of it changes where that fails."""
    if options.count < 1 or (options.tolerance is not None and not options.tolerance > 0):
        raise CallError("--count must be at least 1 and --tolerance over 0")
    bundle = load_bundle(options.bundle or default_bundle())
    pictures = gather(bundle, options.images, options.held_out, options.labelled, options.new_pictures)
    with atomic.replacing_directory(bundle.path) as folder:  # a killed calibration leaves the bundle as it was
        shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
        report = add_int8(bundle, folder, pictures, options)
    return load_bundle(bundle.path), report


def add_int8(bundle: Bundle, folder: Path, pictures: Pictures, options: argparse.Namespace) -> Report:
    """Adds the INT8 graphs and the report to the copy of ``bundle`` in ``folder``."""
    kept = folder / FOLDER
    kept.mkdir(exist_ok=True)
    reference = float_answers(bundle, pictures.held_out)
    pictures.require_same(reference.scores)
    with TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"  # read where it is needed: protobuf frees a graph as a whole or not
        chosen, histograms = observe_once(bundle.file(FLOAT), pictures.inputs, options.count, kept, prepared)
        named = named_layers(onnx.load(prepared), options.exclude)
        layers = sensitivity(onnx.load(prepared), histograms, options.method, chosen.first(LOOKED_AT))
        spared = [name for name in too_sensitive(layers, float(reference.scores.std())) if name not in named]
        ridge = None if options.keep_map else ridge_of(bundle)
        limit = Limit(options.tolerance, usable(pictures.held_out, bundle.manifest.input), prepared)
        recipe = Recipe(prepared, histograms, options.method, pictures.inputs, ridge, turned_in(bundle))
        excluded = {}
        for target in options.target or TARGETS:
            at_first = [*named, *spared] if target == "tensorrt" else named
            graph, excluded[FILES[target]] = graph_within(limit, recipe, target, at_first, layers)
            onnx.save(graph if target == "cpu" else head_in_half(graph), folder / FILES[target])
            del graph
        if FILES["tensorrt"] in excluded:
            write_forms(folder, FILES["tensorrt"])
        macs = convolution_macs(onnx.load(prepared))
    made, held_out = add_graphs(folder, bundle.manifest, dict.fromkeys(excluded, "int8"), pictures.held_out, reference)
    if not options.accept_flips:
        require_few_flips(made, held_out, excluded)
    judged = judge_all(made, pictures.labelled, kept) if pictures.labelled else {}
    shifts = {name: relative_shift(reference.scores, held_out[name].scores) for name in excluded}
    facts: dict[str, object] = {
        "method": options.method,
        "images": f"{len(chosen)} of {len(pictures.inputs)}",
        "held-out good images": len(pictures.held_out),
        "largest score shift, in spreads of good images": round(max(shifts.values()), 4),
    }
    if pictures.new:
        facts[NEW] = " and ".join(pictures.new)
    if changed := moved(bundle, made):
        facts[MOVED] = "; ".join(changed)
    report = Report(facts, compare(made, held_out, judged, macs), layers, excluded)
    report.write(kept)
    write_manifest(folder, made.manifest.model_copy(update={"files": hash_files(folder)}))
    return report


def ridge_of(bundle: Bundle) -> float:
    """The setting ``map.ridge`` that the model was trained with."""
    settings = bundle.manifest.provenance.config.get("map")
    return float(settings.get("ridge", 0.5)) if isinstance(settings, dict) else 0.5


def turned_in(bundle: Bundle) -> Turned:
    """The copies of pictures that the model learnt from as well; older bundles know of none."""
    settings = bundle.manifest.provenance.config.get("data")
    name = settings.get("turned", "none") if isinstance(settings, dict) else "none"
    return next((turned for turned in WAYS if turned == name), "none")


def named_layers(model: onnx.ModelProto, parts: Sequence[str]) -> list[str]:
    """Layers whose name holds one of ``parts``. Raises CallError for a part that none holds."""
    layers = quantisable(model)
    for part in parts:
        if not any(part in name for name in layers):
            raise CallError(f"--exclude {part}: no layer's name holds it; names are like {layers[0]}")
    return [name for name in layers if any(part in name for part in parts)]


def compare(
    bundle: Bundle, held_out: Mapping[str, HeldOut], judged: Mapping[str, Judged], macs: Mapping[str, int]
) -> list[Row]:
    """A row for each graph of ``bundle``, the float graph first. ``macs``: of each convolution."""
    rows, truth, good = [], None, held_out[FLOAT].scores
    for name, graph in bundle.manifest.graphs.items():
        own, scores = judged.get(name, Judged([], {})), held_out[name].scores
        found = verdicts(np.append(scores, np.array(own.scores, np.float32)), graph.thresholds)
        truth = found if truth is None else truth
        difference = np.abs(good - scores)
        rows.append(
            Row(
                graph=name,
                precision=graph.precision,
                megabytes=round(bundle.graph_file(name).stat().st_size / 1e6, 1),
                macs=graph.macs,
                macs_in_eight_bits=sum(macs[layer] for layer in in_eight_bits(onnx.load(bundle.graph_file(name)))),
                score_shift=float(difference.mean()),
                score_shift_largest=float(difference.max()),
                map_correlation=held_out[name].map_correlation,
                reject_threshold=graph.thresholds.reject.score,
                review_threshold=graph.thresholds.review.score,
                flips=int((found != truth).sum()),
                judged=len(found),
                labelled=own.figures,
            )
        )
    return rows


def peak_memory() -> int:
    """Most memory that this process held at once, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the caller held before it started this program
        kilobytes = int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    else:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    return round(kilobytes * 1024 / 1e6)


def moved(before: Bundle, after: Bundle) -> list[str]:
    """What is said of each graph that stood in the bundle before and has another reject threshold now."""
    known = before.manifest.graphs
    limits = {
        name: (known[name].thresholds.reject.score, graph.thresholds.reject.score)
        for name, graph in after.manifest.graphs.items()
        if name in known
    }
    return [
        f"{name} rejects over {new:.4f}, before over {old:.4f}" for name, (old, new) in limits.items() if old != new
    ]


def summary(bundle: Bundle, report: Report, peak: int) -> str:
    """The calibration for a terminal."""
    head, cells = report.table()
    widths = [max(len(row[k]) for row in [head, *cells]) for k in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *cells]]
    lines += report.left_in_float()
    lines += [f"{key}: {value}" for key, value in report.facts.items() if key in (NEW, MOVED)]
    lines.append(f"most memory held at once: {peak} MB")
    return "\n".join([*lines, f"bundle {bundle.id}: report in {bundle.path / FOLDER / 'report.html'}"])


if __name__ == "__main__":
    exit_with_code(main)
