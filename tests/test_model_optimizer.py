"""Where the INT8 graph for TensorRT rounds, beside NVIDIA's Model-Optimizer, node for node.

Model-Optimizer asks for CuPy and onnxruntime for GPUs, gigabytes that it does not need to place Q/DQ nodes: it is
installed here without what it asks for, into a folder of its own.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from dskd.calibration.quantise import observed_tensors, quantise
from dskd.calibration.ranges import observe
from dskd.export.graph.parts import HEAD
from dskd.export.graph.transposed import rewrite_transposed
from dskd.runtime.bundle.loading import Bundle

PACKAGES = [
    "nvidia-modelopt==0.47.0", "onnx-graphsurgeon", "polygraphy", "onnxslim", "lief", "cppimport", "mako", "pybind11",
    "onnxconverter-common", "omegaconf", "antlr4-python3-runtime==4.9.3", "pulp", "nvidia-ml-py", "ninja", "onnxscript",
    "onnx_ir", "colorama",
]  # fmt: skip
QUANTISE = """
import sys, numpy
from modelopt.onnx.quantization import quantize
source, target, inputs = sys.argv[1:]
quantize(source, quantize_mode="int8", calibration_data={"image": numpy.load(inputs)}, calibration_method="max",
         calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=target, log_level="ERROR")
"""
COMPARED = ("Conv", "Add", "MaxPool", "Concat", "DepthToSpace", "Relu")
# Ours reads the picture in half precision, and with it the pool behind; a sum whose shortcut no convolution reads in eight
# bits stays in half (dskd.calibration.quantise).
OURS = {
    "/path/teacher/conv1/Conv",
    "/path/teacher/maxpool/MaxPool",
    "/path/decoder/stage3/stage3.0/Add",
    "/path/decoder/stage2/stage2.0/Add",
}


def rounded_inputs(model: onnx.ModelProto) -> dict[str, tuple[bool, ...]]:
    """Of each node that is compared, which inputs come from eight bits."""
    producer = {output: node for node in model.graph.node for output in node.output}

    def rounded(name: str) -> bool:
        node = producer.get(name)
        while node is not None and node.op_type == "Cast":
            node = producer.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    nodes = [node for node in model.graph.node if node.op_type in COMPARED and not node.name.startswith(HEAD)]
    return {node.name: tuple(map(rounded, node.input[:2])) for node in nodes}


@pytest.mark.thorough
@pytest.mark.slow
def test_it_rounds_where_model_optimizer_does(bundle: Bundle, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", site]
    done = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Model-Optimizer cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    model, inputs = onnx.load(bundle.file("model.onnx")), bundle.golden().inputs[:2]
    rewrite_transposed(model)
    onnx.save(model, tmp_path / "plain.onnx")
    np.save(tmp_path / "inputs.npy", inputs)
    subprocess.run(
        [sys.executable, "-c", QUANTISE, tmp_path / "plain.onnx", tmp_path / "theirs.onnx", tmp_path / "inputs.npy"],
        env={**os.environ, "PYTHONPATH": str(site)}, check=True,
    )  # fmt: skip
    histograms = observe(copy.deepcopy(model), observed_tensors(model), inputs)
    ours = rounded_inputs(quantise(model, histograms, "minmax", "tensorrt"))
    theirs = rounded_inputs(onnx.load(tmp_path / "theirs.onnx"))
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 80
    assert {name for name in ours if ours[name] != theirs[name]} == OURS
