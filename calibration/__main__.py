"""``python -m calibration``: INT8 graphs for TensorRT and for CPUs, and what they cost."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from calibration.add_graphs import FLOAT, add_graphs
from calibration.compare import Answers, Row, answer_files, map_correlation, verdicts
from calibration.equalise import equalised, largest_of_channels
from calibration.images import cover
from calibration.observed import Observed, read_observed, write_observed
from calibration.pictures import Labelled, Pictures, gather
from calibration.quantise import FILES, TARGETS, observed_tensors, quantisable, quantise, without_transposed
from calibration.ranges import METHODS, observe
from calibration.report import Report
from calibration.sensitivity import sensitivity
from calibration.usual_errors import relearn
from runtime import atomic
from runtime.bundle import Bundle, default_bundle, file_sha256, hash_files, load_bundle, write_manifest
from runtime.errors import CallError, Parser, exit_with_code
from runtime.manifest import Precision
from train import metrics

FOLDER, CACHE = "calibration", "observed.json"
LOOKED_AT = 16  # images by which layers are compared

EXAMPLES = """examples:
  python -m calibration                                      the newest bundle, with the pictures of its run
  python -m calibration --images good/ --held-out more/      good parts of this line, none of them trained on in more/
  python -m calibration --tolerance 0.05                     worst layers stay in float until scores move by less than
                                                             a twentieth of their spread on good parts"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="python -m calibration", description=__doc__, epilog=EXAMPLES,
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
        "--tolerance", type=float, help="largest score shift on good images, as a share of the scores' spread"
    )
    options.add_argument(
        "--keep-map", action="store_true", help="keep the float model's local distances instead of learning them anew"
    )
    options.add_argument("--json", action="store_true", help="print the report as one JSON object")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    if options.count < 1 or (options.tolerance is not None and not options.tolerance > 0):
        raise CallError("--count must be at least 1 and --tolerance over 0")
    bundle = load_bundle(options.bundle or default_bundle())
    pictures = gather(bundle, options.images, options.held_out, options.labelled)
    with atomic.replacing_directory(bundle.path) as folder:  # a killed calibration leaves the bundle as it was
        shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
        report = calibrate(bundle, folder, pictures, options)
    final = load_bundle(bundle.path)
    print(json.dumps({"bundle": final.id, **report.as_dict()}) if options.json else summary(final, report))
    return 0


def calibrate(bundle: Bundle, folder: Path, pictures: Pictures, options: argparse.Namespace) -> Report:
    """Adds the INT8 graphs and the report to the copy of ``bundle`` in ``folder``."""
    model = without_transposed(onnx.load(bundle.file(FLOAT)))
    excluded = named_layers(model, options.exclude)
    chosen = cover(model, pictures.inputs, options.count)
    observed = observe_once(bundle, model, pictures, chosen, folder / FOLDER)
    model, histograms = equalised(model, observed.largest), observed.histograms
    looked_at = pictures.inputs[chosen[:LOOKED_AT]]
    layers = sensitivity(model, histograms, options.method, looked_at)
    candidates = [name for name in layers if name not in excluded]
    targets = options.target or TARGETS
    while True:
        graphs: dict[str, tuple[onnx.ModelProto, Precision]] = {}
        for target in targets:
            quantised = quantise(model, histograms, options.method, target, excluded)
            if not options.keep_map:
                relearn(quantised, pictures.inputs, ridge_of(bundle), f"usual errors, {target}")
            graphs[FILES[target]] = (quantised, "int8")
        made, answers = add_graphs(folder, bundle.manifest, graphs, pictures.held_out)
        shift = max(relative_shift(answers[FLOAT], answers[name]) for name in graphs)
        if options.tolerance is None or shift <= options.tolerance or not candidates:
            break
        tqdm.write(f"scores move by {shift:.3f} of their spread; {candidates[0]} goes back to float")
        excluded.append(candidates.pop(0))
    facts = {
        "method": options.method,
        "images": f"{len(chosen)} of {len(pictures.inputs)}",
        "held-out good images": len(pictures.held_out),
        "largest score shift, in spreads of good images": round(shift, 4),
    }
    report = Report(facts, compare(made, answers, pictures), layers, excluded)
    report.write(folder / FOLDER)
    write_manifest(folder, made.manifest.model_copy(update={"files": hash_files(folder)}))
    return report


def ridge_of(bundle: Bundle) -> float:
    """The setting ``map.ridge`` that the model was trained with."""
    settings = bundle.manifest.provenance.config.get("map")
    return float(settings.get("ridge", 0.5)) if isinstance(settings, dict) else 0.5


def named_layers(model: onnx.ModelProto, parts: Sequence[str]) -> list[str]:
    """Layers whose name holds one of ``parts``. Raises CallError for a part that none holds."""
    layers = quantisable(model)
    for part in parts:
        if not any(part in name for name in layers):
            raise CallError(f"--exclude {part}: no layer's name holds it; names are like {layers[0]}")
    return [name for name in layers if any(part in name for part in parts)]


def observe_once(
    bundle: Bundle, model: onnx.ModelProto, pictures: Pictures, chosen: list[int], folder: Path
) -> Observed:
    """What the chosen images showed: as kept from an earlier calibration of the same graph and images, or seen anew."""
    hashes = {str(pictures.paths[k]): file_sha256(pictures.paths[k]) for k in chosen}
    belongs = [bundle.manifest.files[FLOAT], *sorted(hashes.values())]
    key = hashlib.sha256("".join(belongs).encode()).hexdigest()
    folder.mkdir(exist_ok=True)
    found = read_observed(folder / CACHE, key)
    if found is None:
        bar = partial(tqdm, pictures.inputs[chosen], unit="image", leave=False, disable=None)
        largest = largest_of_channels(model, bar(desc="equalising"))
        histograms = observe(equalised(model, largest), observed_tensors(model), bar(desc="calibrating"))
        found = Observed(largest, histograms)
        write_observed(folder / CACHE, found, key)
    (folder / "images.json").write_text(json.dumps(hashes, indent=1))
    return found


def relative_shift(reference: Answers, other: Answers) -> float:
    """Mean absolute difference of the scores, as a share of their standard deviation."""
    difference = np.abs(reference.scores - other.scores).mean()
    return float(difference / max(float(reference.scores.std()), 1e-9))


def compare(bundle: Bundle, held_out: dict[str, Answers], pictures: Pictures) -> list[Row]:
    """A row for each graph of ``bundle``."""
    good, rows, truth = held_out[FLOAT], [], None
    for name, graph in bundle.manifest.graphs.items():
        judged = held_out[name].scores
        figures: dict[str, float] = {}
        if pictures.labelled is not None:
            answers = answer_files(bundle, name, pictures.labelled.paths, f"test images, {name}")
            figures = labelled_figures(answers, pictures.labelled)
            judged = np.concatenate((judged, answers.scores))
        found = verdicts(judged, graph.thresholds)
        truth = found if truth is None else truth  # the float graph is the first
        difference = np.abs(good.scores - held_out[name].scores)
        rows.append(
            Row(
                graph=name,
                precision=graph.precision,
                megabytes=round(bundle.graph_file(name).stat().st_size / 1e6, 1),
                score_shift=float(difference.mean()),
                score_shift_largest=float(difference.max()),
                map_correlation=map_correlation(good, held_out[name]),
                reject_threshold=graph.thresholds.reject.score,
                review_threshold=graph.thresholds.review.score,
                flips=int((found != truth).sum()),
                judged=len(found),
                labelled=figures,
            )
        )
    return rows


def labelled_figures(answers: Answers, labelled: Labelled) -> dict[str, float]:
    """Image AUROC, pixel AUROC and PRO."""
    return {
        "image_auroc": metrics.auroc(np.array([defect != "good" for defect in labelled.defects]), answers.scores),
        "pixel_auroc": metrics.auroc(labelled.masks.ravel(), answers.maps.ravel()),
        "pro": metrics.pro(labelled.masks, answers.maps),
    }


def summary(bundle: Bundle, report: Report) -> str:
    """The calibration for a terminal."""
    head, cells = report.table()
    widths = [max(len(row[k]) for row in [head, *cells]) for k in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *cells]]
    lines += [f"left in float: {', '.join(report.excluded)}"] if report.excluded else []
    return "\n".join([*lines, f"bundle {bundle.id}: report in {bundle.path / FOLDER / 'report.html'}"])


if __name__ == "__main__":
    exit_with_code(main)
