"""ONNX file to serialized TensorRT engine, with TensorRT 8.6, 10 and 11 and with TensorRT-RTX alike.

The ``tensorrt`` module is a parameter, and what it can do is asked of it by name, never guessed from its version.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from dskd.export.build_progress import watching
from dskd.export.engine_errors import BuildLog, build_failure, collecting_logger, parse_failure
from dskd.export.layer_report import LayerReport, report_layers
from dskd.export.weak_typing import keep_types
from dskd.runtime import atomic
from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.cuda import hearing_driver

INPUT, OUTPUTS = "image", ["score", "anomaly_map"]


@dataclass(frozen=True)
class BuildOptions:
    """How to build. ``batch`` is the smallest, the one tuned for and the largest; ``workspace`` is in MiB.

    None leaves a choice to TensorRT.
    """

    batch: tuple[int, int, int]
    dla_core: int | None = None
    gpu_fallback: bool = False
    workspace: int | None = None
    opt_level: int | None = None
    timing_cache: Path | None = None
    detailed: bool = False
    verbose: Path | None = None


@dataclass(frozen=True)
class Built:
    """A serialized engine, the layers it was made from, and what its build took."""

    plan: bytes
    report: LayerReport
    seconds: float


def build_engine(trt: Any, onnx: Path, options: BuildOptions, calibrator: Any = None) -> Built:
    """Parses and builds. Raises DskdError that names the operator, layer or memory that it failed for.

    With a ``calibrator`` TensorRT finds INT8 ranges itself; else the types are those of the ONNX file.
    """
    log = BuildLog(file=options.verbose)
    with hearing_driver() as driver:
        built = _build(trt, onnx, options, calibrator, log, driver.screen)
    log.take_driver(driver.lines)
    if built is None:
        raise driver.quoted_in(build_failure(log, onnx))
    return built


def _build(trt: Any, onnx: Path, options: BuildOptions, calibrator: Any, log: BuildLog, screen: TextIO) -> Built | None:
    """None where TensorRT gives no plan."""
    logger = collecting_logger(trt, log)
    builder = _builder(trt, logger, log)
    if options.dla_core is not None and options.dla_core >= builder.num_DLA_cores:
        raise MissingPart(
            f"DLA core {options.dla_core}: TensorRT {trt.__version__} finds {builder.num_DLA_cores} on this device; "
            "leave out --dla-core"
        )
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    # TensorRT 11 has typed networks only, also for its DLA; before that the DLA knows the flags only
    weak = hasattr(trt.BuilderFlag, "FP16") and (not typed or options.dla_core is not None or calibrator is not None)
    network = builder.create_network(_network_flags(trt, weak))
    parser = trt.OnnxParser(network, logger)
    if options.dla_core is not None and hasattr(getattr(trt, "OnnxParserFlag", None), "ADJUST_FOR_DLA"):
        parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)  # takes nodes apart that the DLA knows in parts only
    if not parser.parse_from_file(str(onnx)):
        raise parse_failure(parser, log, onnx)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    _add_profile(builder, network, config, options.batch, onnx)
    if calibrator is not None:
        config.set_flag(trt.BuilderFlag.INT8)
        config.set_flag(trt.BuilderFlag.FP16)  # for what stays out of INT8
        config.int8_calibrator = calibrator
    elif weak:
        keep_types(trt, network, config, options.dla_core is not None)
    cache = _load_timing_cache(config, options.timing_cache)
    start = time.monotonic()
    with watching(trt, config, f"building {onnx.name}", screen):
        plan = builder.build_serialized_network(network, config)
    seconds = time.monotonic() - start
    if plan is None:
        return None
    if cache:
        _save_timing_cache(config, cache)
    return Built(bytes(plan), report_layers(network, config, options.dla_core), seconds)


def _builder(trt: Any, logger: Any, log: BuildLog) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # what the bindings raise where the library gives none
        reason = log.errors[0] if log.errors else str(error)
        raise MissingPart(
            f"TensorRT {trt.__version__} does not start ({reason}); check that driver and TensorRT belong together"
        ) from error


def _network_flags(trt: Any, weak: bool) -> int:
    """Not weak: the ONNX file alone decides on types. 8.6 must be told of the explicit batch, 11 no longer knows it."""
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if not weak and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def _configure(trt: Any, config: Any, options: BuildOptions) -> None:
    config.clear_flag(trt.BuilderFlag.TF32)  # rounds float32 to ten bits, and the golden check would say so
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.dla_core is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla_core
    if options.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _add_profile(builder: Any, network: Any, config: Any, batch: tuple[int, int, int], onnx: Path) -> None:
    """Says which batch sizes the engine takes. Raises DskdError where the graph is none of a bundle's."""
    inputs = [network.get_input(k) for k in range(network.num_inputs)]
    outputs = [network.get_output(k).name for k in range(network.num_outputs)]
    if [tensor.name for tensor in inputs] != [INPUT] or outputs != OUTPUTS or len(inputs[0].shape) != 4:
        raise DskdError(f"{onnx}: is not a graph from {INPUT} to {' and '.join(OUTPUTS)}; export the bundle again")
    profile = builder.create_optimization_profile()
    try:
        profile.set_shape(INPUT, *((size, *tuple(inputs[0].shape)[1:]) for size in batch))
        taken = config.add_optimization_profile(profile) >= 0
    except (RuntimeError, ValueError):  # which of the two calls complains, and how, differs between versions
        taken = False
    if not taken:
        raise DskdError(f"{onnx}: TensorRT refuses the batch sizes {':'.join(map(str, batch))}; give MIN <= OPT <= MAX")


def _load_timing_cache(config: Any, file: Path | None) -> Path | None:
    """Starts from the measurements in ``file``; from none where it is absent, broken or another device's."""
    if file is None:
        return None
    known = file.read_bytes() if file.is_file() else b""
    for data in (known, b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            break
    return file


def _save_timing_cache(config: Any, file: Path) -> None:
    cache = config.get_timing_cache()
    data = cache.serialize() if cache is not None else None
    if data is not None:
        atomic.write_bytes(file, bytes(data))
