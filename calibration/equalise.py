"""Channels of a tensor brought to like ranges, exactly: what one convolution gives larger, the next weighs less.

Activations are rounded with one step for all channels of a tensor, so a channel that never exceeds a hundredth of the
largest keeps two of its 128 levels. ReLU, maximum pooling, sums and concatenation let a positive factor per channel
pass, so a factor can be taken out of the rows of the convolutions that make a channel and put into the columns of those
that read it (Nagel et al. 2019, cross-layer equalisation), balanced between activation and weight as in SmoothQuant
(Xiao et al. 2023). Channels that anything else reads, the head above all, stay as they are; so do
those that ReLU6 cuts off, all at one height.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dskd.export.graph.parts import TRUNK, constants_of, opset, set_constant
from dskd.export.graph.session import open_session
from dskd.runtime.result import Image

PASSING = ("Relu", "MaxPool")
AXES_ARE_INPUT = 18  # opset from which ReduceMax takes its axes as a tensor
BLOCK = 4  # channels that depth-to-space turns into one: 2 x 2 pixels
SMALLEST, LARGEST = 2.0**-8, 2.0**8  # a factor outside says that a channel is as good as dead

Floats = NDArray[np.float64]


def largest_of_channels(model: onnx.ModelProto, inputs: Iterable[Image]) -> dict[str, Floats]:
    """Largest |value| [C] of each tensor that a convolution reads, over network inputs [H, W, 3]."""
    tensors = _read_by_convolutions(model)
    nodes, constants, asked = len(model.graph.node), len(model.graph.initializer), []
    axes = numpy_helper.from_array(np.array([0, 2, 3]), "channel_axes")
    model.graph.initializer.append(axes)
    for name in tensors:
        size, largest = f"{name}_size", f"{name}_largest"
        model.graph.node.append(helper.make_node("Abs", [name], [size]))
        if opset(model) >= AXES_ARE_INPUT:
            model.graph.node.append(helper.make_node("ReduceMax", [size, axes.name], [largest], keepdims=0))
        else:
            model.graph.node.append(helper.make_node("ReduceMax", [size], [largest], keepdims=0, axes=[0, 2, 3]))
        asked.append(largest)
    try:
        session = open_session(model, asked)
    finally:  # put back: a copy would take as much memory again as the graph
        del model.graph.node[nodes:]
        del model.graph.initializer[constants:]
    found = {name: np.zeros(1) for name in tensors}
    for image in inputs:
        for name, values in zip(tensors, session.run(asked, {"image": image[None]}), strict=True):
            found[name] = np.maximum(found[name], values)
    return found


def equalise(model: onnx.ModelProto, largest: Mapping[str, Floats]) -> None:
    """Changes a graph without transposed convolutions so that it computes the same with channels of like ranges."""
    channels = _Channels(model)
    factors = channels.factors(largest)
    constants = constants_of(model)
    for node in channels.convolutions:
        weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        made, read = factors[channels.of[node.output[0]]], factors[channels.of[node.input[0]]]
        into = read[:, None] if groups_of(node) > 1 else read[None, :]  # a depthwise kernel reads its own channel alone
        weight = weight / made[:, None, None, None] * into[:, :, None, None]
        set_constant(model, node.input[1], numpy_helper.from_array(weight.astype(np.float32)))
        if len(node.input) > 2:
            bias = numpy_helper.to_array(constants[node.input[2]]) / made
            set_constant(model, node.input[2], numpy_helper.from_array(bias.astype(np.float32)))


def groups_of(node: onnx.NodeProto) -> int:
    """Groups of a convolution: 1, or one for each channel where it is depthwise."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.name.startswith(TRUNK) and node.op_type == "Conv"]


def _read_by_convolutions(model: onnx.ModelProto) -> list[str]:
    return list(dict.fromkeys(node.input[0] for node in _convolutions(model)))


class _Channels:
    """Which channels of which tensors must share one factor. ``of``: tensor -> [C] number of each channel's group."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._constants = model, constants_of(model)
        self._parent: list[int] = []
        self._fixed: set[int] = set()
        self._tensors: dict[str, NDArray[np.int64]] = {}
        self.convolutions = _convolutions(model)
        for node in model.graph.node:
            self._visit(node)
        self.of = {name: np.array([self._root(k) for k in ids]) for name, ids in self._tensors.items()}

    def factors(self, largest: Mapping[str, Floats]) -> Floats:
        """Factor of each group from the largest |activation| [C] of each tensor that a convolution reads."""
        activation, weight = np.zeros(len(self._parent)), np.zeros(len(self._parent))
        for node in self.convolutions:
            groups = self.of[node.input[0]]
            size = np.abs(numpy_helper.to_array(self._constants[node.input[1]])).max((2, 3))
            column = size.max(1 if groups_of(node) > 1 else 0)
            np.maximum.at(activation, groups, largest[node.input[0]])
            np.maximum.at(weight, groups, column)
        alive = (activation > 0) & (weight > 0)
        factors = np.sqrt(np.where(alive, activation, 1) / np.where(alive, weight, 1))
        factors = np.clip(factors / np.median(factors[alive]) if alive.any() else factors, SMALLEST, LARGEST)
        factors[~alive] = 1
        factors[[self._root(k) for k in self._fixed]] = 1
        return np.asarray(factors)

    def _visit(self, node: onnx.NodeProto) -> None:
        known = [self._tensors[name] for name in node.input if name in self._tensors]
        if not node.name.startswith(TRUNK):
            self._fix(known)
        elif node.op_type == "Conv":
            self._visit_convolution(node)
        elif node.op_type in PASSING and known:
            self._tensors[node.output[0]] = known[0]
        elif node.op_type == "Add" and len(known) == 2:
            for a, b in zip(*known, strict=True):
                self._join(a, b)
            self._tensors[node.output[0]] = known[0]
        elif node.op_type == "Concat" and len(known) == len(node.input):
            self._tensors[node.output[0]] = np.concatenate(known)
        elif node.op_type == "DepthToSpace" and known:
            blocks = known[0].reshape(-1, BLOCK)  # mode CRD: the pixels of a channel stand together
            for first, *others in blocks:
                for other in others:
                    self._join(first, other)
            self._tensors[node.output[0]] = blocks[:, 0]
        else:
            self._fix(known)

    def _visit_convolution(self, node: onnx.NodeProto) -> None:
        groups = groups_of(node)
        out, each = numpy_helper.to_array(self._constants[node.input[1]]).shape[:2]
        into = each * groups
        if node.input[0] not in self._tensors:  # the image
            self._tensors[node.input[0]] = self._new(into)
            self._fix([self._tensors[node.input[0]]])
        if groups > 1 and not out == into == groups:
            raise ValueError(f"{node.name}: a convolution in groups of several channels cannot be equalised")
        self._tensors[node.output[0]] = self._new(out)

    def _new(self, count: int) -> NDArray[np.int64]:
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def _join(self, a: int, b: int) -> None:
        self._parent[self._root(a)] = self._root(b)

    def _fix(self, known: list[NDArray[np.int64]]) -> None:
        for ids in known:
            self._fixed.update(ids.tolist())
