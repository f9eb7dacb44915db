"""Other forms of an INT8 graph in a bundle: what each does not share with the usual one, and how a device joins them.

A form shares its eight-bit weights with the usual graph, which are nearly all of it. Joining is two messages one after the
other, which protobuf reads as one, so a device needs no onnx.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dskd.runtime.bundle.graph_operators import GRAPH, NODE, fields
from dskd.runtime.bundle.loading import FORMS, Bundle
from dskd.runtime.errors import DskdError

NAMES = (
    "scales in float32",
    "transposed convolutions in half",
    "scales in float32, transposed convolutions in half",
)
_INITIALIZER, _INPUT, _TENSOR_NAME = 5, 1, 8  # numbers of the fields in GraphProto, NodeProto and TensorProto
_BYTES = 2  # kind of a field


def part_file(form: str) -> str:
    """The bundle's file of a form."""
    return f"{FORMS}{NAMES.index(form)}.part"


def joined_form(bundle: Bundle, graph: str, form: str) -> bytes | None:
    """A form of the bundle's ``graph`` as ONNX; None where the bundle, an older one, does not hold it.

    Raises DskdError where a file is not what it should be.
    """
    if part_file(form) not in bundle.manifest.files:
        return None
    file: Path = bundle.file(part_file(form))
    try:
        return joined(file.read_bytes(), bundle.file(graph).read_bytes())
    except ValueError as error:
        raise DskdError(f"{file}: is no part of an ONNX graph ({error}); calibrate the bundle again") from error


def joined(part: bytes, usual: bytes) -> bytes:
    """``part`` with the constants that it reads and does not hold, from ``usual``; all are ONNX models as bytes."""
    own = {name for name, _ in _constants(part)}
    read = {
        part[first:last]
        for begin, stop in _of_graph(part, NODE)
        for number, first, last in fields(part, begin, stop)
        if number == _INPUT
    }
    shared = [record for name, record in _constants(usual) if name in read - own]
    return part + _field(GRAPH, b"".join(_field(_INITIALIZER, record) for record in shared))


def _constants(model: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and bytes of a model's constants."""
    for begin, stop in _of_graph(model, _INITIALIZER):
        names = [model[first:last] for number, first, last in fields(model, begin, stop) if number == _TENSOR_NAME]
        yield b"".join(names[-1:]), model[begin:stop]


def _of_graph(model: bytes, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the fields of that number in the model's graph begin and end."""
    for number, start, end in fields(model, 0, len(model)):
        if number == GRAPH:
            yield from ((begin, stop) for kind, begin, stop in fields(model, start, end) if kind == wanted)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
