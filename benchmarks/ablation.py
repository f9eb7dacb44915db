"""``python -m benchmarks.ablation``: what each part of DSKD is worth, all from the same image budget.

Each row is an ordinary training run in a folder of its own; a row that is finished is read back, one that was killed
goes on. Nothing is chosen here: the table is printed for every row at its last step.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from benchmarks.trained import trained
from runtime.errors import CallError, Parser, exit_with_code
from train.config import TrainConfig, load_config
from train.data import find_images

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
    parser = Parser(prog="python -m benchmarks.ablation", description=__doc__)
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
        rows += rows_of(name, config, trained(folder, config, images, options.teacher_weights, options.device).record)
    print(json.dumps({"rows": rows}) if options.json else table(rows))
    return 0


def rows_of(name: str, config: TrainConfig, record: dict[str, object]) -> list[dict[str, object]]:
    """One row per reading."""
    figures = record["figures"]
    assert isinstance(figures, dict)
    budget = {"epochs": config.recipe.epochs, "seed": config.recipe.seed, "minutes": record["minutes"]}
    default = next(iter(figures))
    painted = {default: record["painted"]}
    return [
        {"variant": name, "reading": reading, **budget, **found, "painted": painted.get(reading)}
        for reading, found in figures.items()
    ]


def table(rows: list[dict[str, object]]) -> str:
    """Markdown, so that it can be pasted."""
    lines = [
        "| variant | reading | image AUROC | image AP | pixel AUROC | PRO | painted defects | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        values = " | ".join("" if row[column] is None else f"{row[column]:.4f}" for column in COLUMNS)
        painted = row["painted"]["all"] if isinstance(row["painted"], dict) else ""
        lines.append(f"| {row['variant']} | {row['reading']} | {values} | {painted} | {row['minutes']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with_code(main)
