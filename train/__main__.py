"""``dskd train``: learn what good parts look like."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from dskd.runtime.bundle.manifest import Thresholds
from dskd.runtime.errors import CallError, Parser, as_words, exit_with_code
from dskd.runtime.inspection.threshold import WHAT_IS_ODD, describe
from dskd.runtime.verbosity import add_verbosity, apply_verbosity

EXAMPLES = """examples:
  dskd train --data pictures/good                       a plain folder of good parts
  dskd train --data mvtec --category bottle             an MVTec layout: test images are evaluated
  dskd train --data mvtec --category all --set method=snl    one model for all products
  dskd train --data parts --config train/configs/magnetic_tile.yaml --epochs 60
  torchrun --nproc-per-node 4 -m dskd.train --data parts          four GPUs

A run that was killed goes on where its last checkpoint was: give the same command again."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd train", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument(
        "--data", type=Path, action="append",
        help="folder of good images or an MVTec layout (default: $DSKD_DATA); once for each product of a common model",
    )  # fmt: skip
    options.add_argument(
        "--category", action="append", default=[],
        help="which product, where --data holds several; may be repeated, all takes all\n(default: the only one)",
    )  # fmt: skip
    options.add_argument("--config", type=Path, help="YAML file with settings (default: built-in)")
    options.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting; may be repeated"
    )
    words = options.add_argument_group("settings by a word of their own (docs/settings.md has all)")
    words.add_argument(
        "--epochs", type=int, help="times that each picture is shown, as --set recipe.epochs=N (default: 30)"
    )
    words.add_argument("--batch", type=int, help="pictures in a step, as --set recipe.batch=N (default: 8)")
    words.add_argument(
        "--size",
        metavar="WxH",
        help="the network's input, multiples of 32, as 256x256 (default: by the pictures' shape)",
    )
    options.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
    options.add_argument(
        "--teacher-weights",
        help='file of ImageNet weights, or "random" to try without\n'
        "(default: $DSKD_TEACHER_WEIGHTS, else downloaded once, or from their package)",
    )
    options.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one"
    )
    options.add_argument("--strict", action="store_true", help="refuse unreadable images instead of skipping them")
    options.add_argument(
        "--keep-checkpoint", action="store_true", help="keep the optimiser's state of a finished run too"
    )
    options.add_argument("--json", action="store_true", help="print the run's record as one JSON object")
    add_verbosity(options)
    options.add_schema(_settings)
    return options


def _settings() -> type[BaseModel]:
    from dskd.train.config import TrainConfig

    return TrainConfig


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    apply_verbosity(options)
    folder, record = carry_out(options)
    if record:  # else another process of the group reports
        print(json.dumps(record) if options.json else summary(record, folder))
    return 0


def train(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    category: str | Sequence[str] = (),
    config: str | os.PathLike[str] | None = None,
    set: Mapping[str, object] | None = None,  # noqa: A002 the command's word
    out: str | os.PathLike[str] | None = None,
    teacher_weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    strict: bool = False,
) -> Path:
    """Trains as ``dskd train`` does, with its words, and returns the folder of the run.

    ``set`` changes settings: ``{"recipe.epochs": 20}``. Raises DskdError.
    """
    words = as_words(data=data, category=category, config=config, out=out, teacher_weights=teacher_weights)
    words += as_words(device=device, strict=strict, set=[f"{key}={json.dumps(v)}" for key, v in (set or {}).items()])
    return carry_out(parser().parse_args(words))[0]


def as_settings(options: argparse.Namespace) -> list[str]:
    """The options that are words for settings, as ``KEY=VALUE``."""
    settings = []
    if options.size is not None:
        width, _, height = options.size.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise CallError(f"--size {options.size}: write width and height in pixels, as 256x256")
        settings += [f"input.width={width}", f"input.height={height}"]
    named = {"recipe.epochs": options.epochs, "recipe.batch": options.batch}
    return settings + [f"{key}={value}" for key, value in named.items() if value is not None]


def carry_out(options: argparse.Namespace) -> tuple[Path, dict[str, object]]:
    """Trains; the folder of the run and its record, which is empty in all but the first process of a group."""
    roots = options.data or [Path(root) for root in [os.environ.get("DSKD_DATA")] if root]
    if not roots:
        raise CallError(
            "name a folder of good images with --data (or DSKD_DATA); dskd train.synthetic DIR makes one to try"
        )
    from dskd.train.progress import whole_work

    with whole_work("preparing"):
        return _carry_out(options, roots)


def _carry_out(options: argparse.Namespace, roots: list[Path]) -> tuple[Path, dict[str, object]]:
    from dskd.train.checkpoint import CHECKPOINT, lighten
    from dskd.train.config import load_config  # torch, which --help does not wait for
    from dskd.train.products import find_products
    from dskd.train.run import point_latest, run

    config = load_config(options.config, [*options.set, *as_settings(options)])
    images = find_products(roots, options.category)
    folder = options.out or Path("runs") / images.name
    record = run(config, images, options.teacher_weights, folder, options.device, options.strict)
    if record:
        point_latest(folder)
        if not options.keep_checkpoint:
            lighten(folder / CHECKPOINT)
    return folder, record


def summary(record: dict[str, object], folder: Path) -> str:
    """The run for a terminal."""
    thresholds = Thresholds.model_validate(record["thresholds"])
    from dskd.train.progress import gone, phases_text

    lines = [f"trained on {record['training_images']} good images in {gone() / 60:.1f} minutes: {phases_text()}"]
    choices = record["choices"]
    assert isinstance(choices, dict)
    lines.append(f"map {choices['map']}")  # the input was told before training
    figures = record["figures"]
    assert isinstance(figures, dict)
    for reading, found in figures.items():
        values = "  ".join(
            f"{k} {found[k]:.4f}" for k in ("image_auroc", "image_ap", "pixel_auroc", "pro") if found[k] is not None
        )
        lines.append(f"reading {reading}: {values}")
    products = record.get("products")
    assert products is None or isinstance(products, dict)
    for name, own in (products or {}).items():
        limit = Thresholds.model_validate(own["thresholds"]).reject.score
        auroc = [f"{reading} {found['image_auroc']:.4f}" for reading, found in own.get("figures", {}).items()]
        lines.append(
            f"product {name}: REJECT over a score of {limit:.4f}  image_auroc {', '.join(auroc) or 'not known'}"
        )
    lines.append(f"defects painted on held-out images: image_auroc {record['painted']['all']:.4f}")  # type: ignore[index]
    lines.append(f"REJECT, the part is thrown out: a score over {describe(thresholds.reject)}")
    lines.append(f"REVIEW, a person looks: a score over {describe(thresholds.review)}")
    if record.get("odd_held_out"):
        lines.append(f"look at {record['odd_held_out']}: {WHAT_IS_ODD}")
    latest = Path("runs") / "latest"
    where = "" if latest.exists() and latest.samefile(folder) else f" --run {shlex.quote(str(folder))}"
    lines.append(f"report: {folder / 'report.html'}   next: dskd export.onnx{where}")
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with_code(main)
