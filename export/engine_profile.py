"""Where an engine's time goes, layer by layer, and the call of NVIDIA's trtexec that does what a build here does."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dskd.export.engine_build import BuildOptions
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.inspection.backends.tensorrt_engine import IMAGE, MAP, SCORE, LoadedEngine
from dskd.runtime.inspection.cuda import Memory, hearing_driver
from dskd.runtime.inspection.engine import GRAPHS, engine_paths

WARM_UP, RUNS = 5, 50
SHOWN = 15  # layers of a table


@dataclass(frozen=True)
class LayerTime:
    """A layer of the engine with its mean time in ms and its share of all."""

    name: str
    ms: float
    share: float


def profile_layers(
    trt: Any, memory: Memory, plan: Path, dla_core: int | None, size: tuple[int, int], rows: int
) -> list[LayerTime]:
    """Runs the engine for ``rows`` pictures of ``size`` with TensorRT's profiler; slowest layer first.

    The sum is more than a run takes without it: layers are timed one by one. Closes ``memory``.
    """
    try:
        with hearing_driver(), memory.active():
            stream = memory.stream()
            engine = LoadedEngine(trt, memory, stream.handle, plan, dla_core, size)
            context, times = engine.context(), _profiler(trt)
            pixels = rows * size[0] * size[1]
            addresses = {
                IMAGE: memory.allocate(3 * pixels),
                SCORE: memory.allocate(4 * rows),
                MAP: memory.allocate(4 * pixels),
            }
            picture = memory.host((rows, *size, 3), np.uint8)
            memory.to_device(addresses[IMAGE], picture, rows, stream)
            engine.bind(context, rows, addresses)
            for run in range(WARM_UP + RUNS):
                if run == WARM_UP:
                    context.profiler = times
                engine.run(context)
                stream.synchronize()
            del context
            engine.close()
    finally:
        memory.close()
    total = sum(times.sums.values()) or 1.0
    layers = [LayerTime(name, ms / RUNS, ms / total) for name, ms in times.sums.items()]
    return sorted(layers, key=lambda layer: -layer.ms)


def _profiler(trt: Any) -> Any:
    class Times(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # the bindings do not take super()
            self.sums: dict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT once a layer and run; must not raise."""
            self.sums[layer_name] += ms

    return Times()


def profile_table(layers: list[LayerTime]) -> str:
    """The slowest layers, and all others in one line."""
    lines = [f"{layer.ms:9.4f} ms {layer.share:6.1%}  {layer.name[:120]}" for layer in layers[:SHOWN]]
    rest = layers[SHOWN:]
    if rest:
        lines.append(f"{sum(one.ms for one in rest):9.4f} ms {sum(one.share for one in rest):6.1%}  {len(rest)} others")
    return "\n".join([*lines, f"{sum(one.ms for one in layers):9.4f} ms  {len(layers)} layers, timed one by one"])


def trtexec_command(bundle: Bundle, precision: Precision, wanted: BuildOptions) -> str:
    """What to type for the same build with trtexec of TensorRT 10 and later: NVIDIA's forum asks for it."""
    spec, plan = bundle.manifest.input, engine_paths(bundle, precision)[0]
    shapes = [f"{IMAGE}:{rows}x{spec.height}x{spec.width}x3" for rows in wanted.batch]
    words = [
        "trtexec",
        f"--onnx={bundle.file(GRAPHS[precision])}",
        f"--saveEngine={plan.with_suffix('.trtexec.plan').name}",
    ]
    words += [f"--{which}Shapes={shape}" for which, shape in zip(("min", "opt", "max"), shapes, strict=True)]
    if wanted.dla_core is None:
        words.append("--stronglyTyped")
    else:
        words += ["--fp16", f"--useDLACore={wanted.dla_core}", *(["--allowGPUFallback"] if wanted.gpu_fallback else [])]
    words += ["--noTF32"]
    if wanted.workspace is not None:
        words.append(f"--memPoolSize=workspace:{wanted.workspace}M")
    if wanted.opt_level is not None:
        words.append(f"--builderOptimizationLevel={wanted.opt_level}")
    if wanted.timing_cache is not None:
        words.append(f"--timingCacheFile={wanted.timing_cache}")
    words += ["--profilingVerbosity=detailed", "--useCudaGraph", "--dumpProfile", "--separateProfileRun", "--verbose"]
    return shlex.join(words)
