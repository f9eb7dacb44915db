"""``dskd pack``: a bundle as the one file that a device needs, with graphs of one precision; ``dskd unpack`` opens it."""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dskd.jetson.bundle_archive import pack
from dskd.jetson.signing import Envelope, key_id, load_private
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import (
    ANSWERS,
    FLOAT,
    FORMED,
    FORMS,
    MANIFEST,
    Bundle,
    default_bundle,
    file_sha256,
    golden_file,
    load_bundle,
    write_manifest,
)
from dskd.runtime.bundle.manifest import Manifest
from dskd.runtime.errors import CallError, Parser, exit_with_code

CONTEXT = b"dskd-edge pack 1\n"  # a signature made for this is good for nothing else
ALL = "all"
EXAMPLES = """examples:
  dskd pack                                      every precision of runs/latest/bundle, as NAME.dskd
  dskd pack --precision int8 --out part.dskd     what computes in INT8, and nothing else
  dskd pack --key keys/plant-7.pem               signed; make keys with: dskd jetson keys

On the device: dskd unpack part.dskd --out bundle. Engines are not packed: they are built on the device."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd pack", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument(
        "--precision", choices=(ALL, "fp32", "fp16", "int8"), default=ALL, help="what to take (default: %(default)s)"
    )
    options.add_argument("--out", type=Path, help="file to write (default: the bundle's id, with .dskd)")
    options.add_argument(
        "--key", type=Path, action="append", default=[], help="private key; may be given again (default: not signed)"
    )
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    keys = [load_private(file) for file in options.key]
    bundle = load_bundle(options.bundle or default_bundle())
    with tempfile.TemporaryDirectory(prefix="dskd-pack-") as folder:
        chosen = bundle if options.precision == ALL else slim(bundle, options.precision, Path(folder) / "bundle")
        out = options.out or Path(f"{chosen.id}.dskd")
        with atomic.replacing(out) as temporary:
            pack(chosen, temporary, signed(chosen, keys) if keys else None)
    whole = sum((bundle.path / name).stat().st_size for name in bundle.manifest.files)
    graphs = ", ".join(sorted({name.partition("@")[0] for name in chosen.manifest.graphs}))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB of the bundle's {whole / 1e6:.1f} MB, with {graphs}")
    print(
        f"bundle {chosen.id}" + (f", signed by {', '.join(key_id(key.public_key()) for key in keys)}" if keys else "")
    )
    return 0


def slim(bundle: Bundle, precision: str, folder: Path) -> Bundle:
    """A copy with the graphs of one precision, and what proves them. Raises CallError where there are none."""
    manifest = bundle.manifest
    graphs = {
        name: graph
        for name, graph in manifest.graphs.items()
        if graph.precision == precision or (precision == "fp32" and name.partition("@")[0] == FLOAT)
    }
    if not graphs:
        maker = "dskd calibration" if precision == "int8" else "dskd export.onnx"
        raise CallError(f"{bundle.path}: has no graph in {precision}; make it with {maker}, or pack --precision all")
    names = _needed(manifest, graphs)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.file(name), target)
    kept = manifest.model_copy(update={"graphs": graphs, "files": {name: manifest.files[name] for name in names}})
    write_manifest(folder, kept)
    return load_bundle(folder)


def _needed(manifest: Manifest, graphs: dict[str, Any]) -> list[str]:
    """The files of those graphs. Reports of a calibration stay behind; a graph without golden answers has the float one's."""
    onnx = {name.partition("@")[0] for name in graphs}
    answers = {golden_file(graph, kind) for graph in graphs for kind in ANSWERS}
    if any(golden_file(graph, "scores") not in manifest.files for graph in graphs):
        answers |= {golden_file(FLOAT, kind) for kind in ("scores", "maps")}
    others = {golden_file(graph, kind) for graph in manifest.graphs for kind in ANSWERS} - answers
    left = ("calibration/",) if FORMED in onnx else ("calibration/", FORMS)
    return sorted(
        name
        for name in manifest.files
        if name not in others and not name.startswith(left) and (not name.endswith(".onnx") or name in onnx)
    )


def signed(bundle: Bundle, keys: Sequence[Any]) -> bytes:
    """An envelope that names the manifest, which names every other file."""
    text = statement_of(bundle.path)
    signatures = {key_id(k.public_key()): base64.b64encode(k.sign(CONTEXT + text.encode())).decode() for k in keys}
    return Envelope(statement=text, signatures=signatures).model_dump_json(indent=1).encode()


def statement_of(folder: Path) -> str:
    """What is signed of the bundle in ``folder``."""
    return f"manifest sha256 {file_sha256(folder / MANIFEST)}"


if __name__ == "__main__":
    exit_with_code(main)
