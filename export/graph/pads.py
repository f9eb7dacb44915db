"""Pads of zeros, taken into the convolutions that read them: uneven padding costs a convolution nothing."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from dskd.export.graph.parts import constants_of, remove_unused_constants


def fuse_pads(model: onnx.ModelProto) -> None:
    """Removes, in place, every Pad of zeros beside height and width that convolutions alone read."""
    constants = constants_of(model)
    kept = {output.name for output in model.graph.output}
    for node in [node for node in model.graph.node if node.op_type == "Pad"]:
        readers = [reader for reader in model.graph.node if node.output[0] in reader.input]
        around = _sides(node, constants)
        if around is None or node.output[0] in kept or any(reader.op_type != "Conv" for reader in readers):
            continue
        for reader in readers:
            reader.input[0] = node.input[0]
            own = next((attribute for attribute in reader.attribute if attribute.name == "pads"), None)
            if own is None:
                reader.attribute.append(helper.make_attribute("pads", around))
            else:
                own.ints[:] = [a + b for a, b in zip(own.ints, around, strict=True)]
        model.graph.node.remove(node)
    remove_unused_constants(model)


def _sides(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[int] | None:
    """Rows and columns [top, left, bottom, right] that a Pad adds; None where it does something else."""
    mode = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "mode"), b"constant")
    amounts, value = (constants.get(name) for name in (*node.input[1:3], "")[:2])
    filled = value is not None and bool(numpy_helper.to_array(value).any())
    pads = [] if amounts is None else numpy_helper.to_array(amounts).tolist()
    plain = (
        mode == b"constant" and not filled and len(node.input) < 4 and len(pads) == 8 and not any(pads[:2] + pads[4:6])
    )
    return [*pads[2:4], *pads[6:]] if plain else None
