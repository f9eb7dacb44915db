"""Which operators an ONNX file is made of, read from the file itself, so that no library loads what may never end.

A bundle's graph is a straight path from picture to map. A loop in it, or a branch, is nothing that export writes, and no
golden check would come to an end on one that runs 2^40 times. The file is protobuf: fields with a number, nested.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from dskd.runtime.errors import DskdError

# Operators with graphs of their own, whose bodies run as often as a value in the file says.
UNBOUNDED = frozenset({b"Loop", b"Scan", b"If", b"SequenceMap"})
MOST_NODES = 100_000  # export writes some hundred
GRAPH, _FUNCTIONS, NODE, _OPERATOR = 7, 25, 1, 4  # numbers of the fields in ModelProto, GraphProto and NodeProto
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # kinds of fields
Field = tuple[int, int, int]  # number, and where its bytes begin and end


class _Malformed(ValueError):
    """No protobuf."""


def require_bounded(file: Path) -> None:
    """Raises DskdError where the graph may run without end, or the file is no ONNX."""
    try:
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = _unbounded(data)
    except (OSError, ValueError) as error:
        raise DskdError(
            f"{file}: is no ONNX graph ({error or 'its fields do not fit'}); export the bundle again"
        ) from error
    if found:
        raise DskdError(f"{file}: holds {found}, which may run without end; export the bundle again")


def _unbounded(data: mmap.mmap) -> str:
    """What may run without end, empty where nothing does."""
    nodes = 0
    for number, start, end in fields(data, 0, len(data)):
        if number == _FUNCTIONS:
            return "functions of its own"
        if number != GRAPH:
            continue
        for kind, begin, stop in fields(data, start, end):
            if kind != NODE:
                continue
            nodes += 1
            if nodes > MOST_NODES:
                return f"over {MOST_NODES} operators"
            for field, first, last in fields(data, begin, stop):
                if field == _OPERATOR and data[first:last] in UNBOUNDED:
                    return f"the operator {data[first:last].decode()}"
    return ""


def fields(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[Field]:
    """The protobuf fields between two places. Raises ValueError where it is none."""
    while at < end:
        key, at = _varint(data, at, end)
        kind, start = key & 7, at
        if kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind == _BYTES:
            length, start = _varint(data, at, end)
            at = start + length
        elif kind in (_EIGHT, _FOUR):
            at += 8 if kind == _EIGHT else 4
        else:
            raise _Malformed(f"a field of kind {kind}")
        if at > end:
            raise _Malformed("a field is longer than the file")
        yield key >> 3, start, at


def _varint(data: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    """A whole number and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed("a number does not end")
