"""``dskd export.onnx``: a trained run becomes a bundle."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from dskd.runtime.bundle.loading import FLOAT, Bundle, default_bundle
from dskd.runtime.errors import CallError, Parser, as_words, exit_with_code
from dskd.runtime.verbosity import add_verbosity, apply_verbosity

if TYPE_CHECKING:
    from dskd.export.run_to_bundle import Exported

OPSETS = (20, 17)  # 17 for the TensorRT 8.5 and 8.6 of JetPack 5 and 6.0
EXAMPLES = """dskd export.onnx                                  the newest run becomes runs/latest/bundle
dskd export.onnx --run runs/bottle --out bundles/bottle
dskd export.onnx --opset 17                       for the TensorRT of JetPack 5 and 6.0"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(prog="dskd export.onnx", description=__doc__, examples=EXAMPLES)
    options.add_argument(
        "--run", type=Path, default=Path("runs/latest"), help="folder of the trained run (default: %(default)s)"
    )
    options.add_argument("--out", type=Path, help="bundle folder to write (default: RUN/bundle)")
    options.add_argument(
        "--reading", help="inference path, where the method has several; DSKD: teacher (default) or encoder_student"
    )
    options.add_argument(
        "--opset", type=int, choices=OPSETS, default=OPSETS[0], help="17 for JetPack 5 and 6.0 (default: %(default)s)"
    )
    options.add_argument(
        "--batch", type=int, default=8, help="largest batch the bundle promises (default: %(default)s)"
    )
    options.add_argument(
        "--licence", default="not stated", help="terms of the model, kept in the manifest (default: %(default)s)"
    )
    options.add_argument("--json", action="store_true", help="print one JSON object")
    add_verbosity(options)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    apply_verbosity(options)
    bundle, exported = carry_out(options)
    print(to_json(bundle, exported) if options.json else summary(bundle, exported))
    return 0


def export_run(
    run: str | os.PathLike[str] = "runs/latest",
    *,
    out: str | os.PathLike[str] | None = None,
    reading: str | None = None,
    opset: int = OPSETS[0],
    batch: int = 8,
    licence: str = "not stated",
) -> Path:
    """Exports as ``dskd export.onnx`` does, with its words, and returns the bundle's folder. Raises DskdError."""
    words = as_words(run=run, out=out, reading=reading, opset=opset, batch=batch, licence=licence)
    return carry_out(parser().parse_args(words))[0].path


def carry_out(options: argparse.Namespace) -> tuple[Bundle, Exported]:
    """Reads the run and exports it."""
    if options.batch < 1:
        raise CallError(f"--batch {options.batch} must be at least 1")
    from dskd.export.run_to_bundle import export  # torch, which --help does not wait for
    from dskd.train.trained_run import load_run

    run = load_run(options.run)
    readings = list(run.method.readings())
    reading = options.reading or readings[0]
    if reading not in readings:
        raise CallError(f"--reading {reading}: this model has {', '.join(readings)}")
    out = options.out or options.run / "bundle"
    return export(run, reading, out, options.opset, options.batch, options.licence)


def summary(bundle: Bundle, exported: Exported) -> str:
    """The export for a terminal."""
    from dskd.export import agreement

    before, after = exported.before, exported.after
    default = default_bundle()
    where = "" if default.exists() and default.samefile(bundle.path) else f" --bundle {shlex.quote(str(bundle.path))}"
    lines = [
        f"bundle {bundle.id} in {bundle.path}",
        f"trained  {before.parameters / 1e6:6.2f} M parameters  {before.macs / 1e9:5.2f} GMAC",
        f"exported {after.parameters / 1e6:6.2f} M parameters  {after.macs / 1e9:5.2f} GMAC  {exported.megabytes:.1f} MB",
        f"onnxsim: {exported.nodes_traced} nodes before, {exported.nodes} after",
        agreement.proved(bundle.manifest.parity, bundle.manifest.graphs[FLOAT].thresholds.reject.score),
        f"next: dskd runtime{where} --source PICTURES --sink images://overlays",
    ]
    return "\n".join(lines)


def to_json(bundle: Bundle, exported: Exported) -> str:
    """The export as one JSON object."""
    fields = {
        "bundle": str(bundle.path),
        "id": bundle.id,
        "parameters": {"trained": exported.before.parameters, "exported": exported.after.parameters},
        "macs": {"trained": exported.before.macs, "exported": exported.after.macs},
        "nodes": {"traced": exported.nodes_traced, "simplified": exported.nodes},
        "pairs": [pair.model_dump(by_alias=True) for pair in bundle.manifest.parity],
    }
    return json.dumps(fields)


if __name__ == "__main__":
    exit_with_code(main)
