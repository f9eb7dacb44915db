"""``dskd export.trt``: the bundle's graph becomes a TensorRT engine, on the device that will run it."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dskd.export.engine_build import BuildOptions, build_engine
from dskd.export.engine_errors import BuildLog, collecting_logger
from dskd.export.engine_summary import summary, to_json
from dskd.export.layer_report import engine_layers
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle, default_bundle, load_bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import CallError, MissingPart, Parser, exit_with_code, one_line
from dskd.runtime.inspection.cuda import Device, find_device, open_memory
from dskd.runtime.inspection.engine import GRAPHS, engine_paths
from dskd.runtime.user_cache import cache_folder, key_of
from dskd.runtime.verbosity import add_verbosity, apply_verbosity

if TYPE_CHECKING:
    from dskd.export.engine_profile import LayerTime
    from dskd.runtime.inspection.engine import EngineFacts

LARGEST_WORKSPACE = 1 << 20  # MiB: more than any device has
EXAMPLES = """examples:
  dskd export.trt --fp16                        build once, reuse while GPU, TensorRT and graph stay the same
  dskd export.trt --int8 --batch 1:4:8          for batches of 1 to 8, tuned for 4
  dskd export.trt --fp16 --dla-core 0 --gpu-fallback --layers layers.json
  dskd export.trt --int8 --calibrate good/ --plan own.plan    ranges by TensorRT 8.6 or 10, for trtexec and the DLA
  dskd export.trt --best                        the faster of INT8 and half precision here
  dskd export.trt --fp16 --check                without a GPU: does TensorRT take the graph?

The engine and its facts stand in the bundle's engines/. It replaces an older one only after it gave the trained
model's answers on the golden frames. --workspace, --opt-level and --verbose always build anew. Exit code 0: done;
1: the graph or the engine failed; 2: the call was wrong; 3: GPU, TensorRT or DLA is missing."""


def parser() -> argparse.ArgumentParser:
    """The command's options, in trtexec's words."""
    options = Parser(
        prog="dskd export.trt", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    add = options.add_argument
    choice = options.add_mutually_exclusive_group()
    choice.add_argument("--fp16", action="store_true", help="half precision; distance, fusion and score in float32")
    choice.add_argument("--int8", action="store_true", help="the calibrated graph (dskd calibration)")
    choice.add_argument(
        "--best",
        action="store_true",
        help="the faster of INT8 and half precision, as measured; float32 where neither works",
    )
    choice.add_argument("--fp32", action="store_true", help="float32, to compare with")
    add("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    add(
        "--batch",
        metavar="MIN:OPT:MAX",
        help="images at once (default: 1:1: and the bundle's largest; on the DLA 1:1:1)",
    )
    add("--dla-core", type=int, metavar="N", help="run what it can on this DLA core")
    add("--gpu-fallback", action="store_true", help="let the GPU run the layers that the DLA cannot")
    add(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="file of measurements, read and written; makes the next build faster (default: one in this user's cache)",
    )
    add("--workspace", type=int, metavar="MIB", help="scratch memory a layer may use (default: all that is free)")
    add("--opt-level", type=int, choices=range(6), help="0 builds fastest, 5 searches longest (default: TensorRT's, 3)")
    add("--layers", type=Path, metavar="FILE", help="JSON file to write: each layer with its types and device")
    add(
        "--calibrate",
        type=Path,
        metavar="FOLDER",
        help="with --int8: let TensorRT 8.6 or 10 find the ranges on good pictures (needs --plan)",
    )
    add("--calibrator", choices=("entropy", "minmax"), default="entropy", help="how it finds them (default: entropy)")
    add("--plan", type=Path, metavar="FILE", help="where that plan goes, its ranges beside it; for trtexec, not proved")
    add("--profile", action="store_true", help="run the engine and say where its time goes, layer by layer")
    add(
        "--verbose",
        type=Path,
        metavar="FILE",
        help="file to write: all that TensorRT and the driver say of the build, for a bug report",
    )
    add("--trtexec", action="store_true", help="only print the call of NVIDIA's trtexec that does the same")
    add("--check", action="store_true", help="only parse and build, with TensorRT-RTX; needs no GPU, leaves no engine")
    add("--json", action="store_true", help="print one JSON object")
    add_verbosity(options, verbose=False)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    apply_verbosity(options)
    refuse_contradictions(options)
    bundle = load_bundle(options.bundle or default_bundle())
    tried = precisions(options, bundle)
    onnx = bundle.file(GRAPHS[tried[0]])
    wanted = BuildOptions(
        batch=choose_batch(options, bundle),
        dla_core=options.dla_core,
        gpu_fallback=options.gpu_fallback,
        workspace=options.workspace,
        opt_level=options.opt_level,
        timing_cache=options.timing_cache,
        detailed=options.layers is not None or options.profile,
        verbose=options.verbose,
    )
    if options.trtexec:
        from dskd.export.engine_profile import trtexec_command

        print(trtexec_command(bundle, tried[0], wanted))
        return 0
    if options.verbose:
        atomic.write_text(options.verbose, "")
    if options.check:
        return check(onnx, bundle, wanted, options)
    try:
        device = find_device()
    except MissingPart as missing:
        what = str(missing).partition(";")[0]  # the advice after it is for those who want to inspect
        print(f"error: {one_line(what)}; an engine is built on the device that will run it", file=sys.stderr)
        print("next: add --check to try the graph here with TensorRT-RTX, which needs no GPU", file=sys.stderr)
        return MissingPart.exit_code
    wanted = replace(wanted, timing_cache=wanted.timing_cache or kept_cache(device))
    if options.calibrate:
        return calibrate(bundle, device, wanted, options)
    return build(bundle, tried, device, wanted, options)


def kept_cache(device: Device) -> Path | None:
    """Where measurements of this device are kept between builds; TensorRT itself refuses those of another version."""
    folder = cache_folder()
    return folder and folder / f"{key_of(device.name, device.compute_capability, device.multiprocessors)}.timing"


def calibrate(bundle: Bundle, device: Device, wanted: BuildOptions, options: argparse.Namespace) -> int:
    """Builds with ranges that TensorRT finds itself; the bundle stays as it is."""
    from dskd.export.implicit_int8 import build_implicit, told
    from dskd.runtime.inspection.backends.tensorrt_engine import load_tensorrt

    trt = load_tensorrt()
    with closing(open_memory(device)) as memory:
        built, cache = build_implicit(trt, bundle, memory, wanted, options.calibrate, options.calibrator, options.plan)
    print(told(built, options.plan, cache, options.json))
    return 0


def refuse_contradictions(options: argparse.Namespace) -> None:
    """Raises CallError where options are missing, out of range or do not go together."""
    if not (options.fp16 or options.int8 or options.best or options.fp32):
        raise CallError("choose one of --fp16, --int8, --best and --fp32")
    if options.dla_core is None and options.gpu_fallback:
        raise CallError("--gpu-fallback is for layers that a DLA core cannot run; add --dla-core N")
    if options.dla_core is not None and options.dla_core < 0:
        raise CallError(f"--dla-core {options.dla_core}: cores count from 0")
    if options.dla_core is not None and options.fp32:
        raise CallError("--dla-core: the DLA computes in FP16 and INT8 only; take --fp16 instead of --fp32")
    if (options.calibrate is None) != (options.plan is None) or (options.calibrate and not options.int8):
        raise CallError("--calibrate FOLDER and --plan FILE belong together, with --int8")
    if options.dla_core is not None and options.int8 and not options.calibrate:
        raise CallError(
            "--dla-core: the DLA takes no Q/DQ nodes, by which the INT8 graph says its ranges; take --fp16, leave "
            "out --dla-core, or let TensorRT 8.6 or 10 find ranges (--calibrate)"
        )
    if options.workspace is not None and not 1 <= options.workspace <= LARGEST_WORKSPACE:
        raise CallError(f"--workspace {options.workspace} must lie between 1 and {LARGEST_WORKSPACE} MiB")
    if options.check and (options.dla_core is not None or options.timing_cache):
        raise CallError("--check does not go with --dla-core or --timing-cache: TensorRT-RTX has neither")


def precisions(options: argparse.Namespace, bundle: Bundle) -> list[Precision]:
    """What the call names; for --best all that the bundle has, to be tried in turn, on the DLA half precision alone."""
    if options.calibrate:
        return ["fp32"]  # the graph that TensorRT finds ranges for
    if not options.best:
        return ["fp32" if options.fp32 else "int8" if options.int8 else "fp16"]
    tried: list[Precision] = ["fp16"] if options.dla_core is not None else ["int8", "fp16", "fp32"]
    return [precision for precision in tried if GRAPHS[precision] in bundle.manifest.files] or ["fp32"]


def choose_batch(options: argparse.Namespace, bundle: Bundle) -> tuple[int, int, int]:
    """MIN:OPT:MAX of the call, else what the bundle promises. Raises CallError where it is no such thing."""
    largest = bundle.manifest.max_batch
    if options.batch is None:
        return (1, 1, 1 if options.dla_core is not None else largest)
    match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6}):([0-9]{1,6})", options.batch)
    if not match:
        raise CallError(f"--batch {options.batch}: write MIN:OPT:MAX, as in 1:1:{largest}")
    low, tuned, high = (int(part) for part in match.groups())
    if not 1 <= low <= tuned <= high:
        raise CallError(f"--batch {options.batch}: 1 <= MIN <= OPT <= MAX must hold")
    if high > largest:
        raise CallError(f"--batch {options.batch}: the bundle was exported for at most {largest} (export.onnx --batch)")
    if options.dla_core is not None and low < high:
        raise CallError(f"--batch {options.batch}: a DLA takes one size only, as in 1:1:1")
    return low, tuned, high


def check(onnx: Path, bundle: Bundle, wanted: BuildOptions, options: argparse.Namespace) -> int:
    """Parses and builds with TensorRT-RTX and says what came out; nothing is kept."""
    try:
        rtx: Any = importlib.import_module("tensorrt_rtx")
    except (ImportError, OSError) as error:
        raise MissingPart(f"TensorRT-RTX cannot be loaded ({error}); pip install 'tensorrt-rtx>=1.7.1'") from error
    built = build_engine(rtx, onnx, wanted)
    if options.layers:
        atomic.write_text(options.layers, built.report.to_json(None))
    layers, megabytes = len(built.report.layers), round(len(built.plan) / 1e6, 1)
    fields = {
        "bundle": str(bundle.path),
        "graph": onnx.name,
        "tensorrt_rtx": rtx.__version__,
        "parsed": True,
        "built": True,
        "batch": wanted.batch,
        "layers": layers,
        "megabytes": megabytes,
        "seconds": round(built.seconds, 2),
    }
    text = (
        f"{onnx}: TensorRT-RTX {rtx.__version__} parses and builds it\n"
        f"{layers} layers  {megabytes} MB  {built.seconds:.1f} s  batch {':'.join(map(str, wanted.batch))}"
    )
    print(json.dumps(fields) if options.json else text)
    return 0


def build(
    bundle: Bundle, tried: list[Precision], device: Device, wanted: BuildOptions, options: argparse.Namespace
) -> int:
    """Builds, proves and installs the engine on this device, or says that the one there still fits."""
    # imported here: they take longer than the answer that a GPU is missing
    from dskd.export.engine_attempts import make_best, make_engine
    from dskd.runtime.inspection.backends.tensorrt_engine import load_tensorrt

    trt = load_tensorrt()
    open_memory(device).close()  # better missed now than after minutes of building, when the proof needs it
    plan, _ = engine_paths(bundle, tried[0])
    plan.parent.mkdir(exist_ok=True)
    told: list[dict[str, object]] = []
    with atomic.sole_writer(plan.parent):
        if options.best:
            made, told = make_best(trt, bundle, tried, device, wanted)
        else:
            made = make_engine(trt, bundle, tried[0], device, wanted)
    if options.layers:
        layers = engine_layers(
            trt, engine_paths(bundle, made.precision)[0].read_bytes(), collecting_logger(trt, BuildLog())
        )
        report = made.built.report.to_json(layers) if made.built else json.dumps({"engine": layers}, indent=1) + "\n"
        atomic.write_text(options.layers, report)
    times = profile(trt, bundle, made.facts, device) if options.profile else None
    if options.json:
        print(to_json(bundle, made, told, times))
    else:
        print(summary(bundle, made, told))
        if times:
            from dskd.export.engine_profile import profile_table

            print(profile_table(times))
    return 0


def profile(trt: Any, bundle: Bundle, facts: EngineFacts, device: Device) -> list[LayerTime]:
    """Layer times of the engine that stands now."""
    from dskd.export.engine_profile import profile_layers

    plan, _ = engine_paths(bundle, facts.precision)
    size = bundle.manifest.input.height, bundle.manifest.input.width
    return profile_layers(trt, open_memory(device), plan, facts.dla_core, size, facts.batch[1])


if __name__ == "__main__":
    exit_with_code(main)
