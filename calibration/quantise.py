"""From ranges to Q/DQ graphs, one for TensorRT and one for CPUs, by onnxruntime's quantiser.

* TensorRT: signed activations without zero point, the only ones its parser takes; no pair on the main branch of a
  residual sum, so that convolution, sum and ReLU become one kernel; the rest in float16, and with it the convolution
  that reads the picture: 4 % of the work, and seven bits of a picture's eight would be felt everywhere after.
* CPU: unsigned activations, which the instructions of x86 and Arm want; sums are quantised too.

Input scaling and head stay in float32, and the head, like every layer left in float, reads values that were not rounded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Literal, get_args

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import

import numpy as np
import onnx

from dskd.runtime.imports import without

with without("torch"):  # hundreds of megabytes that onnxruntime 1.23, the last for Python 3.10, imports and never uses
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

from dskd.calibration.ranges import Histogram, Method, range_of
from dskd.export.graph.half import to_half
from dskd.export.graph.parts import (
    HEAD,
    INPUT,
    TRUNK,
    constants_of,
    names_of,
    opset,
    remove_unused_constants,
)

Target = Literal["tensorrt", "cpu"]
TARGETS: tuple[Target, ...] = get_args(Target)
FILES: dict[Target, str] = {"tensorrt": "model.int8.onnx", "cpu": "model.int8.cpu.onnx"}
QUANTISED = ["Conv", "Add"]
CUT = ("Relu", "Clip")  # activations; Clip is ReLU6
SCALES_IN_HALF = 19  # opset from which scales may be float16


def quantisable(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that can be quantised, in order: convolutions, and the sums that end a residual block.

    Other sums stay in float: those of an aggregation or an injection weigh what eight bits cannot say.
    """
    convolved = {output for node in model.graph.node if node.op_type == "Conv" for output in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.name.startswith(TRUNK)
        and (node.op_type == "Conv" or (node.op_type == "Add" and convolved.intersection(node.input)))
    ]


def reading_picture(model: onnx.ModelProto) -> set[str]:
    """Names of the convolutions that read what the input part makes of the picture."""
    made = {output for node in model.graph.node if node.name.startswith(INPUT) for output in node.output}
    return {node.name for node in model.graph.node if node.op_type == "Conv" and node.input[0] in made}


def in_eight_bits(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions of a Q/DQ graph that read rounded activations."""
    producer = _producers(model)

    def source(name: str) -> onnx.NodeProto | None:
        made = producer.get(name)  # a cast stands between where the part before is in float32
        return producer.get(made.input[0]) if made is not None and made.op_type == "Cast" else made

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return [n.name for n in convolutions if (made := source(n.input[0])) and made.op_type == "DequantizeLinear"]


def observed_tensors(model: onnx.ModelProto) -> list[str]:
    """Float tensors whose ranges a quantiser may ask for: what goes into and comes out of those nodes and their ReLUs."""
    constants = constants_of(model)
    chosen = [n for n in model.graph.node if n.name.startswith(TRUNK) and n.op_type in (*QUANTISED, *CUT)]
    names = [name for node in chosen for name in (*node.input, *node.output)]
    return [name for name in dict.fromkeys(names) if name and name not in constants]


def quantise(
    model: onnx.ModelProto,
    histograms: dict[str, Histogram],
    method: Method,
    target: Target,
    exclude: Collection[str] = (),
) -> onnx.ModelProto:
    """The Q/DQ graph for ``target``; nodes named in ``exclude`` stay in float."""
    ranges = {name: range_of(histogram, method) for name, histogram in histograms.items()}
    ranges |= {before: ranges[after] for before, after in _cut_off(model) if {before, after} <= ranges.keys()}
    allowed = set(quantisable(model)).difference(exclude)
    if target == "tensorrt":
        allowed -= reading_picture(model)
    allowed -= _sums_of_what_is_not_rounded(model, allowed)
    kept_out = [node.name for node in model.graph.node if node.name not in allowed]
    in_float = set(quantisable(model)) - allowed | set(names_of(model, HEAD))
    # The quantiser itself, because onnxruntime 1.23, the last for Python 3.10, gives quantize_static no ranges.
    quantiser = QDQQuantizer(
        save_and_reload_model_with_shape_infer(model), per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if target == "tensorrt" else QuantType.QUInt8,
        tensors_range=_tensors_data(ranges), nodes_to_quantize=[], nodes_to_exclude=kept_out,
        op_types_to_quantize=QUANTISED, extra_options=_options(target),
    )  # fmt: skip
    quantised = quantiser.quantize_model()
    quantiser.model.topological_sort()
    _give_float_to(quantised, in_float)
    if target == "tensorrt":
        _free_main_branches(quantised)
    _prune(quantised)
    _place_in_trunk(quantised)
    if target == "tensorrt" and opset(quantised) >= SCALES_IN_HALF:
        return to_half(quantised)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _cut_off(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """What goes into an activation that alone reads it, and what comes out.

    Rounded with the step of what comes out, what goes in is cut off by the rounding itself: an activation costs no second
    rounding, and no level is spent on values that it drops.
    """
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        if node.op_type in CUT and node.name.startswith(TRUNK) and readers[node.input[0]] == 1:
            yield node.input[0], node.output[0]


def _sums_of_what_is_not_rounded(model: onnx.ModelProto, allowed: Collection[str]) -> set[str]:
    """Residual sums whose shortcut no convolution reads in eight bits: to round it for the sum alone spares nothing."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    known = {node.output[0] for node in convolutions}
    known |= {node.input[0] for node in convolutions if node.name in allowed}
    sums = [node for node in model.graph.node if node.op_type == "Add" and node.name in allowed]
    return {node.name for node in sums if not known.issuperset(node.input)}


def _options(target: Target) -> dict[str, object]:
    common: dict[str, object] = {"WeightSymmetric": True, "DedicatedQDQPair": False, "AddQDQPairToWeight": False}
    if target == "cpu":
        return common
    return common | {
        "ActivationSymmetric": True,
        "QuantizeBias": False,  # TensorRT's parser refuses int32 in a DequantizeLinear
        "OpTypesToExcludeOutputQuantization": QUANTISED,
        "QDQOpTypePerChannelSupportToAxis": {"Conv": 0},
    }


def _tensors_data(ranges: dict[str, tuple[float, float]]) -> TensorsData:
    return TensorsData(
        CalibrationMethod.MinMax,
        {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()},
    )


def _give_float_to(quantised: onnx.ModelProto, kept_out: Collection[str]) -> None:
    """The quantiser lets every reader of a tensor read its rounded form; nodes that are ``kept_out`` read it as it was."""
    producer = _producers(quantised)
    for node in quantised.graph.node:
        if node.name in kept_out:
            node.input[:] = [_before_pair(producer, name) or name for name in node.input]


def _free_main_branches(quantised: onnx.ModelProto) -> None:
    """A residual sum keeps a pair on one input: the one on a convolution that nothing else reads goes."""
    producer = _producers(quantised)
    readers = Counter(name for node in quantised.graph.node for name in node.input)
    for node in quantised.graph.node:
        if node.op_type != "Add" or not node.name.startswith(TRUNK):
            continue
        for k, name in enumerate(node.input):
            source = _before_pair(producer, name)
            if source and readers[name] == 1 and readers[source] == 1 and producer[source].op_type == "Conv":
                node.input[k] = source
                break


def _producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def _before_pair(producer: dict[str, onnx.NodeProto], name: str) -> str | None:
    """What went into the Q/DQ pair whose output ``name`` is; None where it is none."""
    dequantise = producer.get(name)
    if dequantise is None or dequantise.op_type != "DequantizeLinear":
        return None
    quantise_node = producer.get(dequantise.input[0])
    if quantise_node is None or quantise_node.op_type != "QuantizeLinear":
        return None
    return str(quantise_node.input[0])


def _prune(model: onnx.ModelProto) -> None:
    """Removes nodes whose results nothing reads."""
    while True:
        read = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
        dead = [node for node in model.graph.node if not read.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            model.graph.node.remove(node)
    remove_unused_constants(model)


def _place_in_trunk(model: onnx.ModelProto) -> None:
    """The quantiser names a weight's node after the weight; give it the trunk's prefix like its neighbours."""
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not node.name.startswith(TRUNK):
            node.name = f"{TRUNK}{node.name}"
