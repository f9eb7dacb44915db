"""The parts of an exported graph by the names its nodes carry: input, trunk of convolutions, head that compares."""

from __future__ import annotations

from math import prod

import onnx
from onnx import shape_inference

INPUT, TRUNK, HEAD = "/to_input/", "/path/", "/anomaly_map/"  # the modules of export.prune.PrunedGraph


def names_of(model: onnx.ModelProto, part: str) -> list[str]:
    """Names of the nodes of one part, in order. Raises ValueError where there are none: not one of our graphs."""
    found = [node.name for node in model.graph.node if node.name.startswith(part)]
    if not found:
        raise ValueError(f"the graph has no nodes of {part}: it was not written by dskd export.onnx")
    return found


def constants_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Every constant tensor by its name: initializers and Constant nodes."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = next(a.t for a in node.attribute if a.name == "value")
    return found


def set_constant(model: onnx.ModelProto, name: str, tensor: onnx.TensorProto) -> None:
    """Replaces the initializer ``name``, or adds it."""
    tensor.name = name
    for present in model.graph.initializer:
        if present.name == name:
            present.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)


def feature_names(model: onnx.ModelProto) -> list[str]:
    """Tensors that the head takes from the trunk, in the order in which it first asks for them."""
    made = {output for node in model.graph.node if node.name.startswith(TRUNK) for output in node.output}
    asked = [name for node in model.graph.node if node.name.startswith(HEAD) for name in node.input if name in made]
    return list(dict.fromkeys(asked))


def remove_unused_constants(model: onnx.ModelProto) -> None:
    """Drops initializers that nothing reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that the graph is written in."""
    return max(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def convolution_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of each convolution for one image. Raises ValueError where a shape cannot be inferred."""
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    places = {value.name: _spatial(value) for value in [*graph.input, *graph.value_info, *graph.output]}
    return {  # a kernel is applied once per output position, a transposed one once per input position
        node.name: prod(places[node.output[0] if node.op_type == "Conv" else node.input[0]])
        * prod(weights[node.input[1]])
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    }


def _spatial(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim[2:])
