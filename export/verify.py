"""``dskd export.verify``: torch, pruned model, ONNX and its lower precisions agree, and by how much."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dskd.runtime.bundle.loading import FLOAT, default_bundle, load_bundle, write_manifest
from dskd.runtime.errors import CallError, Parser, exit_with_code
from dskd.runtime.verbosity import add_verbosity, apply_verbosity

PARITY_IMAGES = 32  # fewer would not be a proof
EXAMPLES = """dskd export.verify                                the newest run's bundle on 32 pictures
dskd export.verify --bundle bundles/bottle --run runs/bottle --images 200
dskd export.verify --json"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(prog="dskd export.verify", description=__doc__, examples=EXAMPLES)
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument("--run", type=Path, help="folder of the run it came from (default: the bundle's parent)")
    options.add_argument(
        "--images", type=int, default=PARITY_IMAGES, help="images to compare on (default: %(default)s)"
    )
    options.add_argument("--json", action="store_true", help="print one JSON object")
    add_verbosity(options)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    apply_verbosity(options)
    if options.images < 1:
        raise CallError(f"--images {options.images} must be at least 1")
    from dskd.export.agreement import compare, require, table  # torch, which --help does not wait for
    from dskd.export.golden import parity_inputs
    from dskd.train.trained_run import load_run

    bundle = load_bundle(options.bundle or default_bundle())
    try:
        run = load_run(options.run or bundle.path.resolve().parent)
    except CallError as error:
        raise error if options.run else CallError(f"{error}, or name the bundle's run with --run") from error
    if run.record["model_sha256"] != bundle.manifest.provenance.checkpoint_sha256:
        raise CallError(f"{run.folder}: is not the run that bundle {bundle.id} came from; name it with --run")
    pairs, faults = compare(run, bundle, parity_inputs(run, options.images))
    fields = {"bundle": bundle.id, "pairs": [pair.model_dump(by_alias=True) for pair in pairs]}
    reject = bundle.manifest.graphs[FLOAT].thresholds.reject.score
    print(json.dumps(fields) if options.json else table(pairs, reject, faults))
    require(faults)
    if options.images >= PARITY_IMAGES:  # a shorter look must not replace the proof
        write_manifest(bundle.path, bundle.manifest.model_copy(update={"parity": pairs}))
    return 0


if __name__ == "__main__":
    exit_with_code(main)
