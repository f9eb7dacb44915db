"""``dskd.export.trt`` on a machine that only pretends to have a GPU: TensorRT-RTX builds, onnxruntime answers for the engine.

As a script it takes the command's options; PRETEND_KILL names the moment at which it kills itself.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt_rtx

import dskd.export.engine_attempts
import dskd.export.engine_install
import dskd.export.trt
import dskd.runtime.inspection.backends.tensorrt_engine
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import exit_with_code
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend, OnnxRuntimeOutput
from dskd.runtime.inspection.cuda import Device
from dskd.runtime.inspection.engine import GRAPHS
from dskd.runtime.result import Image

ORIN = Device(0, "Orin", "8.7", 8 << 30, integrated=True, multiprocessors=8)


class Answering(OnnxRuntimeBackend):
    """Stands for the engine. ``offset`` is what it is wrong by; ``plans`` are the plans it was given."""

    offset = 0.0
    plans: list[bytes] = []  # noqa: RUF012
    closed = 0

    def __init__(self, bundle: Bundle, precision: Precision, plan: Path, dla_core: int | None = None) -> None:
        super().__init__(bundle, GRAPHS[precision], threads=1)
        self.name = f"tensorrt-{precision}"
        type(self).plans = [*self.plans, plan.read_bytes()]

    def infer(self, batch: Image) -> OnnxRuntimeOutput:
        """As the graph says, and ``offset`` more."""
        kill("proof")
        output = super().infer(batch)
        output.scores = output.scores + np.float32(self.offset)
        return output

    def close(self) -> None:
        """Counts."""
        super().close()
        type(self).closed += 1


def kill(moment: str) -> None:
    """Ends this process hard where PRETEND_KILL asks for it."""
    if os.environ.get("PRETEND_KILL") == moment:
        os.kill(os.getpid(), signal.SIGKILL)


def pretend(setattr_: Callable[[Any, str, Any], None]) -> None:
    """Puts stand-ins where a device is asked for, and nowhere else."""
    write_facts = dskd.export.engine_install.write_facts

    def write_facts_unless_killed(*arguments: Any) -> None:
        kill("facts")
        write_facts(*arguments)

    setattr_(dskd.export.trt, "find_device", lambda: ORIN)
    setattr_(dskd.export.trt, "open_memory", lambda device: SimpleNamespace(close=lambda: None))
    setattr_(dskd.export.trt, "engine_layers", lambda trt, plan, logger: {"Layers": []})
    setattr_(dskd.runtime.inspection.backends.tensorrt_engine, "load_tensorrt", lambda: tensorrt_rtx)
    setattr_(dskd.export.engine_install, "TensorRtBackend", Answering)
    setattr_(dskd.export.engine_attempts, "TensorRtBackend", Answering)
    setattr_(dskd.export.engine_attempts, "MEASURED", 0.01)
    setattr_(dskd.export.engine_install, "write_facts", write_facts_unless_killed)


if __name__ == "__main__":
    pretend(setattr)
    exit_with_code(dskd.export.trt.main)
