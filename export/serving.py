"""``dskd export.serving``: a bundle for NVIDIA Triton or DeepStream, as files that those read."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle, default_bundle, load_bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import CallError, DskdError, MissingPart, Parser, exit_with_code
from dskd.runtime.inspection.engine import GRAPHS, engine_paths, read_facts

NETWORK_MODES = {"fp32": 0, "int8": 1, "fp16": 2}  # of nvinfer
EXAMPLES = """examples:
  dskd export.serving --triton models                    models/NAME/config.pbtxt and models/NAME/1/model.onnx
  dskd export.serving --triton models --plan --precision fp16    the engine of this device instead
  dskd export.serving --deepstream inspect --precision fp16      inspect/model.onnx and inspect/nvinfer.txt

Thresholds, regions and verdicts are the runtime's: these give scores and maps. Exit code 0: written; 1: it failed;
2: the call was wrong; 3: onnx is missing."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd export.serving", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument("--triton", type=Path, metavar="FOLDER", help="model repository to write into")
    options.add_argument(
        "--deepstream", type=Path, metavar="FOLDER", help="folder for a float graph and nvinfer's keys"
    )
    options.add_argument("--precision", choices=list(GRAPHS), default="fp32", help="which graph (default: fp32)")
    options.add_argument("--plan", action="store_true", help="for Triton: the engine that export.trt built here")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    if not (options.triton or options.deepstream):
        raise CallError("choose --triton FOLDER or --deepstream FOLDER, or both")
    if options.plan and not options.triton:
        raise CallError("--plan goes with --triton: DeepStream builds an engine of its own")
    bundle = load_bundle(options.bundle or default_bundle())
    if options.triton:
        print(f"Triton      {write_triton(bundle, options.triton, options.precision, options.plan)}")
    if options.deepstream:
        print(f"DeepStream  {write_deepstream(bundle, options.deepstream, options.precision)}")
    return 0


def write_triton(bundle: Bundle, repository: Path, precision: Precision, plan: bool) -> Path:
    """A model of the repository, its version 1 replaced. Returns its configuration's file. Raises DskdError."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", bundle.manifest.name)
    largest = bundle.manifest.max_batch
    if plan:
        source, facts = engine_paths(bundle, precision)
        if not source.is_file():
            raise MissingPart(f"{source}: there is no engine; build it: dskd export.trt --{precision}")
        largest = read_facts(facts).batch[2]
    else:
        source = bundle.file(GRAPHS[precision])
    folder = repository / name / "1"
    try:
        shutil.rmtree(folder, ignore_errors=True)  # the other kind of model may lie there
        folder.mkdir(parents=True)
        shutil.copyfile(source, folder / ("model.plan" if plan else "model.onnx"))
        config = repository / name / "config.pbtxt"
        atomic.write_text(config, triton_config(bundle, name, plan, largest))
    except OSError as error:
        raise DskdError(f"{folder}: cannot be written ({error.strerror}); check the path and its rights") from error
    return config


def triton_config(bundle: Bundle, name: str, plan: bool, largest: int) -> str:
    """``config.pbtxt``: one picture a request or several, batched by Triton; a score of each has no shape of its own."""
    spec = bundle.manifest.input
    return f"""# bundle {bundle.id}: a picture is BGR, {spec.width} x {spec.height}, resized as dskd does
name: "{name}"
platform: "{"tensorrt_plan" if plan else "onnxruntime_onnx"}"
max_batch_size: {largest}
input [ {{ name: "image" data_type: TYPE_UINT8 dims: [ {spec.height}, {spec.width}, 3 ] }} ]
output [
  {{ name: "score" data_type: TYPE_FP32 dims: [ 1 ] reshape {{ shape: [ ] }} }},
  {{ name: "anomaly_map" data_type: TYPE_FP32 dims: [ {spec.height}, {spec.width} ] }}
]
dynamic_batching {{ }}
"""


def write_deepstream(bundle: Bundle, folder: Path, precision: Precision) -> Path:
    """The graph with a float input as nvinfer gives it, and its key file, which is returned. Raises DskdError."""
    try:
        import onnx

        from dskd.export.graph.float_input import with_float_input
    except ImportError as error:
        raise MissingPart(f"onnx is not installed ({error}); pip install onnx") from error
    graph = with_float_input(onnx.load(bundle.file(GRAPHS[precision])))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(graph, folder / "model.onnx")
        keys = folder / "nvinfer.txt"
        atomic.write_text(keys, nvinfer_keys(bundle, precision))
    except OSError as error:
        raise DskdError(f"{folder}: cannot be written ({error.strerror}); check the path and its rights") from error
    if bundle.manifest.input.crop is not None or bundle.manifest.input.tiling is not None:
        print(
            "warning: this bundle crops or tiles its pictures; DeepStream must do the same before nvinfer",
            file=sys.stderr,
        )
    return keys


def nvinfer_keys(bundle: Bundle, precision: Precision) -> str:
    """The [property] group of nvinfer's file: any network, its tensors as metadata, planar BGR without scaling."""
    spec = bundle.manifest.input
    return f"""# bundle {bundle.id}; score and anomaly_map come as NvDsInferTensorMeta
[property]
gpu-id=0
onnx-file=model.onnx
batch-size={bundle.manifest.max_batch}
network-mode={NETWORK_MODES[precision]}
network-type=100
output-tensor-meta=1
output-blob-names=score;anomaly_map
infer-dims=3;{spec.height};{spec.width}
model-color-format=1
net-scale-factor=1.0
maintain-aspect-ratio=0
"""


if __name__ == "__main__":
    exit_with_code(main)
