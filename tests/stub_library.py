"""Shared libraries whose functions do nothing but return 0, written byte by byte: no compiler is needed."""

from __future__ import annotations

import platform
import struct
from pathlib import Path

PAGE = 0x10000  # the largest that a loader may ask for
# ELF's number of the machine, and its code for "return 0"
MACHINES = {"x86_64": (62, bytes.fromhex("31c0c3")), "aarch64": (183, bytes.fromhex("000080d2c0035fd6"))}
LOAD, DYNAMIC, STACK = 1, 2, 0x6474E551  # kinds of segments
READ_RUN, READ_WRITE = 5, 6
HASH, STRTAB, SYMTAB, STRSZ, SYMENT = 4, 5, 6, 10, 11  # entries of the dynamic section
GLOBAL_FUNCTION = 0x12
HEADER, SEGMENT, SYMBOL = 64, 56, 24  # bytes


def write_stub_library(path: Path, functions: list[str]) -> None:
    """Writes an ELF shared object that exports each of ``functions`` as ``long f() { return 0; }``.

    One page with headers, names and code, and one with the dynamic section, which the loader writes to.
    """
    machine, code = MACHINES[platform.machine()]
    names = b"\0" + b"".join(function.encode() + b"\0" for function in functions)
    chain = [1, *range(2, len(functions) + 1), 0]  # one bucket: the symbols one after the other
    table = struct.pack(f"<{4 + len(functions)}I", 1, len(functions) + 1, chain[0], 0, *chain[1:])
    table_at = HEADER + 4 * SEGMENT
    symbols_at = -(-(table_at + len(table)) // 8) * 8
    names_at = symbols_at + SYMBOL * (len(functions) + 1)
    names = names.ljust(-(-(names_at + len(names)) // 16) * 16 - names_at, b"\0")
    code_at = names_at + len(names)
    symbols = bytes(SYMBOL)
    for function in functions:
        at = names.index(b"\0" + function.encode() + b"\0") + 1
        symbols += struct.pack("<IBBHQQ", at, GLOBAL_FUNCTION, 0, 1, code_at, len(code))
    places = (HASH, table_at, STRTAB, names_at, SYMTAB, symbols_at, STRSZ, len(names), SYMENT, SYMBOL, 0, 0)
    dynamic = struct.pack("<12Q", *places)
    head = [
        struct.pack(
            "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, machine, 1, 0, HEADER, 0, 0, HEADER, SEGMENT, 4, 64, 0, 0
        ),
        _segment(LOAD, READ_RUN, 0, code_at + len(code)),
        _segment(LOAD, READ_WRITE, PAGE, len(dynamic)),
        _segment(DYNAMIC, READ_WRITE, PAGE, len(dynamic)),
        _segment(STACK, READ_WRITE, 0, 0),
    ]
    page = (b"".join(head) + table).ljust(symbols_at, b"\0") + symbols + names + code
    assert len(page) <= PAGE
    path.write_bytes(page.ljust(PAGE, b"\0") + dynamic)


def _segment(kind: int, flags: int, at: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, PAGE)
