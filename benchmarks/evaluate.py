"""``dskd evaluate BUNDLE FOLDER``: how right a bundle is on labelled pictures, judged as on the line."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from pathlib import Path

from dskd.benchmarks.environment import describe
from dskd.benchmarks.evaluation import GOOD, Evaluation, Judged, Pixels
from dskd.benchmarks.evaluation_page import acceptance, report
from dskd.runtime import atomic
from dskd.runtime.bundle.manifest import PRECISIONS
from dskd.runtime.capture.image_files import list_images
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code, one_line
from dskd.runtime.inspection.backends import BACKENDS
from dskd.runtime.model import Model, load
from dskd.runtime.verbosity import add_verbosity, apply_verbosity
from dskd.train.data import TestImage, data_sha256, find_labelled, load_mask
from dskd.train.progress import progress

EXAMPLES = """examples:
  dskd evaluate runs/latest/bundle parts/test        parts/test/good, parts/test/scratch, ... and parts/ground_truth
  dskd evaluate runs/latest/bundle parts             the folder above it (MVTec layout) is the same
  dskd evaluate bundle parts --masks marked          masks elsewhere: marked/scratch/NAME.png
  dskd evaluate bundle parts --precision int8 --out int8

The good parts are in a folder "good" (or "ok"), each kind of defect in a folder of its own name. Masks are optional;
with them there are figures about pixels. Writes to --out: report.html (pictures of what was missed), acceptance.html
(a page to print and sign), evaluation.json and pictures.csv. Exit code 1 where a picture could not be judged."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd evaluate", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("bundle", type=Path, help="bundle folder, such as runs/latest/bundle")
    options.add_argument("folder", type=Path, help="pictures in folders by class: good, and each kind of defect")
    options.add_argument(
        "--masks", type=Path, help="masks by class (default: ground_truth beside test/, or in the folder)"
    )
    options.add_argument("--out", type=Path, default=Path("evaluation"), help="where to write (default: %(default)s)")
    options.add_argument(
        "--backend", default="auto", choices=BACKENDS, help="what runs the graph (default: %(default)s)"
    )
    options.add_argument("--precision", choices=PRECISIONS, help="what to compute in (default: the backend's)")
    options.add_argument("--reject-threshold", type=float, help="default: the bundle's")
    options.add_argument("--review-threshold", type=float, help="default: the bundle's")
    options.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    add_verbosity(options)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    apply_verbosity(options)
    pictures = labelled_pictures(options.folder, options.masks)
    with load(
        options.bundle, backend=options.backend, precision=options.precision,
        reject_threshold=options.reject_threshold, review_threshold=options.review_threshold,
    ) as model:  # fmt: skip
        evaluation, failed = evaluate(model, pictures)
        if not evaluation.judged:
            raise DskdError(f"{options.folder}: no picture could be judged; the first: {failed[0]}")
        facts = _facts(model, options.folder, pictures)
        pages = {"report.html": report(evaluation, facts, model), "acceptance.html": acceptance(evaluation, facts)}
    found = {"facts": facts, **evaluation.as_dict(), "failed": failed}
    options.out.mkdir(parents=True, exist_ok=True)
    texts = {**pages, "evaluation.json": json.dumps(found, indent=1), "pictures.csv": _csv(evaluation)}
    for name, text in texts.items():
        atomic.write_text(options.out / name, text)
    print(json.dumps(found) if options.json else _summary(evaluation, options.out))
    for line in failed:
        print(f"not judged: {line}", file=sys.stderr)
    return 1 if failed else 0


def labelled_pictures(folder: Path, masks: Path | None = None) -> list[TestImage]:
    """The pictures of ``folder`` or of its ``test``, by class. Raises CallError where there are no classes."""
    if not folder.is_dir():
        raise CallError(f"{folder}: is not a folder; name one with good/ and a folder for each kind of defect")
    tests = folder / "test" if (folder / "test").is_dir() else folder
    if masks is not None and not masks.is_dir():
        raise CallError(f"--masks {masks}: is not a folder")
    beside = tests.parent / "ground_truth" if tests.name == "test" else tests / "ground_truth"
    marked = masks or beside
    found = [item for item in find_labelled(tests, marked) if marked not in item.path.parents]
    if not found:
        below = "pictures, but no folders by class" if list_images(tests) else "no pictures"
        raise CallError(f"{folder}: has {below}; put good parts into good/ and each kind of defect into its own folder")
    return found


def evaluate(model: Model, pictures: list[TestImage]) -> tuple[Evaluation, list[str]]:
    """Judges each picture; also a line for each one that could not be read or judged."""
    spec = model.bundle.manifest.input
    marked = any(item.mask for item in pictures)
    pixels = Pixels(len(pictures) if marked else 0, spec.height, spec.width)
    judged, failed = list[Judged](), list[str]()
    for item in progress(pictures, desc="evaluating", unit="image"):
        try:
            result = model(item.path)
            shown = spec if result.found is None else spec.of_box(result.inspection.covers)
            mask = load_mask(item, shown, result.image) if item.mask or (marked and item.defect == GOOD) else None
        except DskdError as error:
            failed.append(one_line(str(error)))
            continue
        took = sum(result.inspection.timings_ms.values())
        judged.append(Judged(item.path, item.defect, result.verdict, result.score, result.ratio, took))
        if mask is not None:
            pixels.add(mask, result.anomaly_map)
    return Evaluation(judged, pixels.figures() if marked else {}), failed


def _facts(model: Model, folder: Path, pictures: list[TestImage]) -> dict[str, object]:
    machine = describe()
    settings = model.settings
    return {
        "date": machine["when"],
        "bundle": model.bundle.id,
        "pictures": str(folder),
        "pictures_sha256": data_sha256([item.path for item in pictures]),
        "backend": model.backend.name,
        "graph": model.backend.graph,
        "reject_over": settings.reject,
        "review_over": settings.review,
        "device": machine.get("model") or machine.get("gpu") or machine.get("cpu") or machine["machine"],
    }


def _csv(evaluation: Evaluation) -> str:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["picture", "class", "verdict", "score", "times_reject_threshold", "milliseconds"])
    for each in evaluation.judged:
        values = [f"{each.score:.6g}", f"{each.ratio:.4f}", f"{each.milliseconds:.2f}"]
        rows.writerow([str(each.path), each.label, each.verdict.value, *values])
    return text.getvalue()


def _summary(evaluation: Evaluation, out: Path) -> str:
    names = {
        "image_auroc": "image AUROC", "image_ap": "AP", "image_f1_max": "best F1",
        "pixel_auroc": "pixel AUROC", "pro": "PRO",
    }  # fmt: skip
    figures = {**evaluation.figures(), **evaluation.pixel_figures}
    lines = [evaluation.table(), ""]
    if figures:
        lines.append("  ".join(f"{names[name]} {value:.4f}" for name, value in figures.items()))
    if evaluation.false_rejects.total:
        lines.append(f"good parts rejected:  {evaluation.false_rejects}")
    if evaluation.misses.total:
        lines.append(f"defects that passed:  {evaluation.misses}")
    if not figures:
        lines.append("AUROC needs good and defective pictures; give both for it")
    return "\n".join([*lines, "", f"report      {out / 'report.html'}", f"acceptance  {out / 'acceptance.html'}"])


if __name__ == "__main__":
    exit_with_code(main)
