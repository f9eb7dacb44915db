"""``python -m benchmarks ablation``: what each part of DSKD is worth, all from the same image budget.

Each row is an ordinary training run in a folder of its own; a row that is finished is read back, one that was killed
goes on. Nothing is chosen here: the table is printed for every row at its last step. Beside each row's own map stands
the published one (cosine distances of three scales, summed), which shows what the students alone are worth.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dskd.benchmarks.lab.models.labelled import read_labelled, sha256_of
from dskd.benchmarks.lab.models.trained import trained
from dskd.runtime import atomic
from dskd.runtime.errors import CallError, Parser, exit_with_code
from dskd.train.config import load_config
from dskd.train.data import InspectionSet, find_images
from dskd.train.evaluate import EagerGraph, figures, score
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.maps import AnomalyMap
from dskd.train.trained_run import TrainedRun

VARIANTS = {
    "full": [],
    "decoder student only": ["dskd.students=decoder"],
    "RD (decoder student only, no pseudo-anomalies)": [
        "dskd.students=decoder",
        "augment.pseudo_anomalies=0",
    ],
    "encoder student only": ["dskd.students=encoder"],
    "without fusion": ["dskd.fusion=false"],
    "without pseudo-anomalies": ["augment.pseudo_anomalies=0"],
}  # fmt: skip
COLUMNS = ("image_auroc", "image_ap", "pixel_auroc", "pro")


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="python -m benchmarks ablation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="MVTec layout with labelled test images")
    parser.add_argument("--config", type=Path, help="settings that all rows share (default: built-in)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting for all rows"
    )
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="only this row; may be repeated")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/ablation"), help="folder of the runs (default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one"
    )
    parser.add_argument("--teacher-weights", help="file of ImageNet weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    images = find_images(options.data)
    if not images.test:
        raise CallError(f"--data {options.data}: holds no labelled test images, and an ablation needs them")
    rows = []
    for name in options.variant or VARIANTS:
        config = load_config(options.config, [*options.set, *VARIANTS[name]])
        folder = options.out / re.sub(r"[^a-z]+", "-", name.lower()).strip("-")
        done = trained(folder, config, images, options.teacher_weights, options.device)
        rows += rows_of(name, done, by_published_map(done, images))
    print(json.dumps({"rows": rows}) if options.json else table(rows))
    return 0


def rows_of(name: str, done: TrainedRun, published: dict[str, dict[str, object]]) -> list[dict[str, object]]:
    """One row per reading."""
    record, recipe = done.record, done.config.recipe
    found = record["figures"]
    assert isinstance(found, dict)
    budget = {"epochs": recipe.epochs, "seed": recipe.seed, "minutes": record["minutes"]}
    painted = {next(iter(found)): record["painted"]}
    return [
        {"variant": name, "reading": reading, **budget, **own, "painted": painted.get(reading),
         "published_map": published[reading]}
        for reading, own in found.items()
    ]  # fmt: skip


def by_published_map(done: TrainedRun, images: InspectionSet) -> dict[str, dict[str, object]]:
    """Figures of each reading with the published map; what is known of this model and these images is read back."""
    file, key = done.folder / "published_map.json", f"{done.record['model_sha256']} {sha256_of(images)}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known: dict[str, dict[str, object]] = json.loads(file.read_text())[key]
        return known
    test, spec = read_labelled(images, done.config.input), done.config.input
    found = {}
    for reading in done.method.readings():
        graph = EagerGraph(
            done.method.inference_path(reading), AnomalyMap(spec.height, spec.width), BACKBONES[done.config.backbone]
        )
        scored = score(graph, test.inputs, torch.device("cpu"), f"published map, {reading}")
        found[reading] = figures(scored, test.defects, test.masks).as_dict()
    atomic.write_text(file, json.dumps({key: found}, indent=1))
    return found


def table(rows: list[dict[str, object]]) -> str:
    """Markdown, so that it can be pasted."""
    lines = [
        "| variant | reading | image AUROC | image AP | pixel AUROC | PRO | painted defects | minutes "
        "| published map: image AUROC | PRO |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        painted = row["painted"]["all"] if isinstance(row["painted"], dict) else ""
        published = row["published_map"]
        assert isinstance(published, dict)
        cells = [*_cells(row, COLUMNS), painted, row["minutes"], *_cells(published, ("image_auroc", "pro"))]
        lines.append(f"| {row['variant']} | {row['reading']} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _cells(found: Mapping[str, object], columns: Sequence[str]) -> list[str]:
    return [f"{value:.4f}" if isinstance(value := found[column], float) else "" for column in columns]


if __name__ == "__main__":
    exit_with_code(main)
