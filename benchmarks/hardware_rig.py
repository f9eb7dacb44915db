"""What the steps of ``benchmarks hardware`` work with: the copy of the bundle, commands, times, a broken kernel."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.cuda import Memory, find_device, open_memory
from dskd.runtime.inspection.engine import GRAPHS, engine_paths

Found = dict[str, Any]
TRTEXEC = "/usr/src/tensorrt/bin"  # where JetPack puts it, on nobody's path


@dataclass(frozen=True)
class Rig:
    """Where the steps work."""

    work: Path

    @property
    def bundle(self) -> Bundle:
        """The copy that engines are built in."""
        return load_bundle(self.work / "bundle")

    @property
    def precisions(self) -> list[Precision]:
        """Those of which an engine was built."""
        bundle = self.bundle
        built = [precision for precision in GRAPHS if engine_paths(bundle, precision)[0].is_file()]
        if not built:
            raise MissingPart("no engine was built")
        return built

    def run(self, *words: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command of this Python. Raises MissingPart or DskdError with what it said last."""
        done = subprocess.run(  # noqa: S603
            [sys.executable, *map(str, words)], capture_output=True, text=True, errors="replace", check=False,
            env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        sys.stderr.write(done.stderr)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
            first = next((line for line in said if line.startswith("error: ")), said[-1]).removeprefix("error: ")
            raise (MissingPart if done.returncode == MissingPart.exit_code else DskdError)(first)
        return done


def write_nowhere(memory: Memory) -> None:
    """Runs a kernel that writes to address 8. Raises MissingPart without NVIDIA's run-time compiler."""
    try:
        from cuda.bindings import driver, nvrtc
    except ImportError as error:
        raise MissingPart(f"the kernel cannot be compiled ({error})") from error
    source = b'extern "C" __global__ void nowhere() { *(volatile int *)8 = 1; }'
    try:
        program = nvrtc.nvrtcCreateProgram(source, b"nowhere.cu", 0, [], [])[1]
        architecture = f"--gpu-architecture=compute_{memory.device.compute_capability.replace('.', '')}".encode()
        nvrtc.nvrtcCompileProgram(program, 1, [architecture])
        code = b" " * nvrtc.nvrtcGetPTXSize(program)[1]
        nvrtc.nvrtcGetPTX(program, code)
    except RuntimeError as error:
        raise MissingPart(f"NVIDIA's run-time compiler is missing ({error})") from error
    with memory.active():
        module = driver.cuModuleLoadData(code)[1]
        kernel = driver.cuModuleGetFunction(module, b"nowhere")[1]
        driver.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)
        driver.cuCtxSynchronize()


def in_context(memory: Memory, ask: Callable[[], object]) -> None:
    """Calls it with the device's context as this thread's own."""
    with memory.active():
        ask()


def reopen() -> None:
    """The device anew, in the same process."""
    again = open_memory(find_device(), "cuda-bindings")
    with again.active():
        again.allocate(1024)


def engine_of(bundle: Bundle, precision: Precision) -> Any:
    """The bundle's engine of that precision."""
    from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend

    return TensorRtBackend(bundle, precision)


def answers_of(backend: Any, inputs: Any) -> tuple[Any, Any]:
    """Maps [N, H, W] and scores [N] of inputs, one by one; closes the backend."""
    maps, scores = [], []
    for image in inputs:
        output = backend.infer(image[None])
        maps.append(output.maps()[0].copy())
        scores.append(output.scores[0])
    backend.close()
    return np.stack(maps), np.array(scores)


def took(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    start = time.perf_counter()
    call()
    return round((time.perf_counter() - start) * 1000, 3)


def median(call: Callable[[], object], seconds: float) -> float:
    """The median of calls over some seconds, in ms."""
    end, times = time.perf_counter() + seconds, [took(call)]
    while time.perf_counter() < end:
        times.append(took(call))
    return round(statistics.median(times), 4)


def version_of(package: str, module: str = "") -> str:
    """A package's version; of a ``module`` that does not load, why. Empty where it is not installed."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    try:
        if module and importlib.util.find_spec(module) is not None:
            version = str(getattr(importlib.import_module(module), "__version__", version))
    except Exception as error:  # a library that does not load is no reason to stop
        return f"does not load: {error}"
    return version


def trtexec_path() -> str | None:
    """NVIDIA's tool, where it is installed."""
    return shutil.which("trtexec") or (f"{TRTEXEC}/trtexec" if Path(f"{TRTEXEC}/trtexec").is_file() else None)
