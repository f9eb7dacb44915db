"""NVIDIA's own tool on the bundle's own engine: what it says is the least that a runtime on this device can take.

Not yet run on hardware: the form of its output is that of TensorRT's documentation.
"""

from __future__ import annotations

import re
from pathlib import Path

from dskd.benchmarks.processes import Reply
from dskd.jetson.machine import Machine
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.engine import engine_paths

COMMAND = "trtexec"
PLACES = "/usr/src/tensorrt/bin"  # where JetPack puts it, on nobody's path
PATIENCE = 120.0  # seconds
# "GPU Compute Time" is the engine alone, "Latency" with the copies to and from the device
FIGURES = {"Latency": "frame to verdict", "GPU Compute Time": "bare network"}
_LINE = r"\[I\] {name}: min = [\d.]+ ms, max = [\d.]+ ms, mean = [\d.]+ ms, median = ([\d.]+) ms"


def parse(said: str) -> dict[str, float]:
    """Medians in ms by our names, and ``rate`` in images a second. Raises DskdError where they are missing."""
    found = {
        what: float(match[1]) for name, what in FIGURES.items() if (match := re.search(_LINE.format(name=name), said))
    }
    rate = re.search(r"Throughput: ([\d.]+) qps", said)
    if len(found) < len(FIGURES) or rate is None:
        errors = [line.partition("[E]")[2].strip() for line in said.splitlines() if "[E]" in line]
        raise DskdError(f"trtexec: {errors[0] if errors else 'its output has no performance summary'}; run it by hand")
    return found | {"rate": float(rate[1])}


def words(bundle: Bundle, precision: Precision, seconds: float) -> list[str]:
    """The call for one image on the bundle's engine. Raises MissingPart where there is none."""
    plan, _ = engine_paths(bundle, precision)
    if not plan.is_file():
        raise MissingPart(f"{plan}: there is no engine; build it: dskd export.trt --{precision}")
    spec = bundle.manifest.input
    shape = f"image:1x{spec.height}x{spec.width}x3"
    timing = ["--useCudaGraph", "--warmUp=200", f"--duration={max(round(seconds), 1)}", "--percentile=99"]
    return [f"--loadEngine={plan}", f"--shapes={shape}", *timing]


def turn(bundle: Bundle, precision: Precision, seconds: float, machine: Machine | None = None) -> Reply:
    """One run as a contender's turn. Raises MissingPart without trtexec, DskdError where it fails."""
    machine = machine or Machine()
    tool = machine.which(COMMAND) or next((str(p) for p in machine.glob(f"{PLACES}/{COMMAND}")), None)
    if tool is None:
        raise MissingPart(f"{COMMAND} is not installed; it comes with JetPack (libnvinfer-bin) below {PLACES}")
    said = machine.run(tool, *words(bundle, precision, seconds), timeout=PATIENCE)
    if said is None:
        raise DskdError(f"{Path(tool).name} failed or took more than {PATIENCE:.0f} seconds; run it by hand")
    return {"times": {what: [value] for what, value in parse(said).items() if what != "rate"}}
