"""``dskd train.sweep``: a model and a bundle for each of many products, several at once."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dskd.runtime import atomic
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code
from dskd.runtime.verbosity import add_verbosity, apply_verbosity, quiet
from dskd.train import on_ray

if TYPE_CHECKING:
    from dskd.train.sweep_product import Product

SUMMARY = "sweep.json"
COLUMNS = {
    "product": "{}", "status": "{}", "training_images": "{}", "image_auroc": "{:.4f}", "pixel_auroc": "{:.4f}",
    "painted": "{:.4f}", "reject": "{:.4f}", "minutes": "{:.1f}",
}  # fmt: skip
EXAMPLES = """examples:
  dskd train.sweep --data mvtec                         every category of an MVTec layout
  dskd train.sweep --data parts/*/good --out runs/parts one plain folder of good parts per product
  dskd train.sweep --data mvtec --gpus 0.5              two products share a GPU
  dskd train.sweep --data mvtec --address auto          on the Ray cluster that this machine belongs to

A sweep that was stopped goes on: give the same command again. Finished products are kept, a killed training goes on from
its checkpoint. On a cluster every machine must see --data and --out under the same path and have dskd-edge[sweep]."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd train.sweep",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    options.add_argument(
        "--data", type=Path, nargs="+", action="extend", required=True,
        help="a folder of products, or each product's own folder",
    )  # fmt: skip
    options.add_argument(
        "--category", action="append", default=[], help="one of the products in --data; may be repeated (default: all)"
    )
    options.add_argument("--config", type=Path, help="YAML file with settings for all products (default: built-in)")
    options.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting; may be repeated"
    )
    options.add_argument(
        "--out", type=Path, default=Path("runs/sweep"), help="folder for the products' runs (default: %(default)s)"
    )
    options.add_argument(
        "--teacher-weights",
        help='file of ImageNet weights, or "random" to try without\n'
        "(default: $DSKD_TEACHER_WEIGHTS, else downloaded once, or from their package)",
    )
    options.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one"
    )
    options.add_argument("--strict", action="store_true", help="refuse unreadable images instead of skipping them")
    options.add_argument("--address", help="Ray cluster: auto or HOST:6379 (default: workers on this machine)")
    options.add_argument(
        "--cpus", type=int, help=f"cores for one product (default: {on_ray.CORES}, or what a GPU's share is)"
    )
    options.add_argument("--gpus", type=float, help="GPUs for one product (default: 1 where there are some)")
    options.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    add_verbosity(options)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    apply_verbosity(options)
    if (options.cpus is not None and options.cpus < 1) or (options.gpus is not None and options.gpus < 0):
        raise CallError("--cpus is at least 1 and --gpus at least 0")
    products = chosen(options)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallError(f"--out {options.out}: cannot be made ({error.strerror}); name a folder to write to") from error
    with atomic.sole_writer(options.out):
        rows = sweep(products, options)
    print(json.dumps(report(products, rows)) if options.json else summary(products, rows, options.out / SUMMARY))
    return 1 if any(row["status"] == "failed" for row in rows.values()) else 0


def chosen(options: argparse.Namespace) -> list[Product]:
    """The products that the options name, everything that can be wrong with the call looked at."""
    from dskd.train.config import load_config  # torch, which --help does not wait for
    from dskd.train.data import categories_of
    from dskd.train.networks.backbones import BACKBONES
    from dskd.train.products import ALL, find_products
    from dskd.train.sweep_product import Product
    from dskd.train.weights import RANDOM, load_teacher

    config = load_config(options.config, options.set)
    categories = options.category or ([ALL] if len(options.data) == 1 and categories_of(options.data[0]) else [])
    images = find_products(options.data, categories)
    weights = options.teacher_weights or os.environ.get("DSKD_TEACHER_WEIGHTS")
    load_teacher(BACKBONES[config.backbone], weights)  # one download and one complaint instead of many
    if weights and weights != RANDOM:
        weights = str(Path(weights).resolve())
    out = options.out.resolve()
    return [
        Product(part.name, part.folder.resolve(), out / part.name, config, weights, options.device, options.strict)
        for part in images.products or (images,)
    ]


def sweep(products: Sequence[Product], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A row for each product by its name; the summary in ``--out`` grows with every one of them."""
    from dskd.train.sweep_product import make

    rows: dict[str, dict[str, Any]] = {}
    bar = tqdm(total=len(products), desc="products", unit="product", disable=quiet() or None)
    with closing(bar), on_ray.connected(options.address) as ray:
        taken = on_ray.share(ray, options.device, options.cpus, options.gpus)
        for product, row in on_ray.as_done(ray, make, products, taken):
            if isinstance(row, DskdError):
                row = {"product": product.name, "status": "failed", "reason": str(row), "bundle": None}
            rows[product.name] = row
            atomic.write_text(options.out / SUMMARY, json.dumps(report(products, rows), indent=1))
            if row["status"] == "failed":
                bar.write(f"{product.name} failed: {row['reason']}", file=sys.stderr)
            bar.update()
    return rows


def report(products: Sequence[Product], rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The sweep as one JSON object."""
    done = [rows[product.name] for product in products if product.name in rows]
    counts = {status: sum(row["status"] == status for row in done) for status in ("made", "kept", "failed")}
    return counts | {"waiting": [p.name for p in products if p.name not in rows], "products": done}


def summary(products: Sequence[Product], rows: dict[str, dict[str, Any]], file: Path) -> str:
    """The sweep for a terminal."""
    table = [list(COLUMNS)]
    for product in products:
        row = rows[product.name]
        table.append(["" if row.get(key) is None else form.format(row[key]) for key, form in COLUMNS.items()])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines += [f"{name} failed: {row['reason']}" for name, row in rows.items() if row["status"] == "failed"]
    bundles = sum(row["bundle"] is not None for row in rows.values())
    return "\n".join([*lines, f"{bundles} bundles of {len(products)} products, figures in {file}"])


if __name__ == "__main__":
    exit_with_code(main)
