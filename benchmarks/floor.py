"""What the machine could do at best: its peak of multiply-accumulates and its copy bandwidth, both measured here.

A graph cannot take less time than its MACs at the peak, nor than its bytes at the bandwidth (Williams, Waterman and
Patterson, "Roofline", 2009). The peak is what large convolutions reach in the same backend and precision. Bytes are
the graph's constants as stored, and what each convolution reads and writes, once, in that precision.

Peak and bandwidth are measured after the rounds, not in them: on a machine that others use, a share of the floor may be
some per cent too high or too low. A GPU with memory of its own has no floor here: how fast that copies is not measured.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from dskd.benchmarks.contenders import Contestant, blank, golden_source
from dskd.benchmarks.results import Floor, Results
from dskd.jetson.machine import Machine
from dskd.jetson.platform import bandwidth as memory_bandwidth
from dskd.jetson.platform import find_platform
from dskd.jetson.telemetry import read_telemetry
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.cuda import find_device

SIZES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}  # bytes of an activation
COPIED = 96 << 20  # bytes for each thread: more than caches hold
COPIES = 5
SECONDS = 1.0  # on the large convolutions
FASTEST = 10  # percentile of their times: a peak is the best that was seen, but for one lucky call


def floors(
    bundle: Bundle, chosen: Sequence[Contestant], ran_as: Mapping[str, str], measured_ms: Mapping[str, float]
) -> Results:
    """A floor for each contestant, whose bare network took ``measured_ms``; notes say what cannot be had here."""
    results = blank([])
    cards = [each for each in chosen if on_a_card(ran_as[each.name])]
    results.notes.extend(f"floor of {each.name}: not measured of a GPU with memory of its own" for each in cards)
    if len(cards) == len(chosen):
        return results
    try:
        from dskd.benchmarks.probe import write_probe
        from dskd.export.graph.cost import graph_cost
    except ModuleNotFoundError as error:
        results.notes.append(f"floor: {error.name} is not installed; pip install 'dskd-edge[export]'")
        return results
    import onnx

    found, bandwidth = graph_cost(onnx.load(bundle.file("model.onnx"))), _bandwidth()
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        probe = write_probe(Path(folder) / "probe")
        for each in (each for each in chosen if each not in cards):
            try:
                peak, graph = _peak(probe, each)
            except DskdError as error:
                results.notes.append(f"floor of {each.name}: {error}")
                continue
            size = bundle.file(graph.partition("@")[0]).stat().st_size + found.activations * SIZES[each.precision]
            at_best = 1e3 * max(found.macs / peak, size / bandwidth)
            results.floors.append(
                Floor(name=each.name, macs=found.macs, bytes=size, peak_macs=peak, bandwidth=bandwidth,
                      floor_ms=at_best, measured_ms=measured_ms[each.name])
            )  # fmt: skip
    return results


def on_a_card(backend: str) -> bool:
    """Whether ``backend``, by its own name, computes in memory that is not the CPU's."""
    if not backend.startswith(("tensorrt", "onnxruntime-cuda")):
        return False
    try:
        return not find_device().integrated
    except DskdError:
        return False


def _peak(probe: Bundle, contestant: Contestant) -> tuple[float, str]:
    """MACs a second that this backend reaches in this precision, and the graph that it runs. Raises DskdError."""
    if contestant.backend == "tensorrt":
        from dskd.export.trt import main as build

        build(["--bundle", str(probe.path), f"--{contestant.precision}", "--batch", "1:1:1"])
    with replace(contestant, bundle=probe.path).worker(golden_source(probe)) as worker:
        times = worker.ask("network", seconds=SECONDS)["times"]["bare network"]
        return worker.ready["macs"] / float(np.percentile(times, FASTEST)) * 1e3, worker.ready["graph"]


def _bandwidth() -> float:
    """Bytes a second: of a Jetson's memory by its clock and bus, elsewhere as copies reach it on all cores."""
    module, clock = find_platform().module, read_telemetry(Machine()).emc_clock.now
    if module is not None and clock is not None:
        return memory_bandwidth(clock, module.memory_bus) * 1e9
    return copy_bandwidth(len(os.sched_getaffinity(0)))


def copy_bandwidth(threads: int, size: int = COPIED) -> float:
    """Bytes read and written a second by copies of ``size`` bytes in each thread; the best of some."""
    pairs = [(np.ones(size, np.uint8), np.empty(size, np.uint8)) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(COPIES + 1):  # the first one touches the pages
            start = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            best = max(best, 2 * size * threads / (time.perf_counter() - start))
    return best
