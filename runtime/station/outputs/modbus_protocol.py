"""Modbus TCP, application layer: one request's bytes to one reply's bytes (Modbus Application Protocol V1.1b3)."""

from __future__ import annotations

import struct
from typing import Protocol

from dskd.runtime.station.outputs.registers import COILS, HOLDING_REGISTERS, INPUT_REGISTERS, INPUTS, size

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, DEVICE_FAILURE = 1, 2, 3, 4
LARGEST_PDU = 253  # bytes after the unit id
HEADER = struct.Struct(">HHHB")  # transaction, protocol 0, length of what follows it, unit


class Registers(Protocol):
    """What is read and written."""

    def coils(self) -> list[bool]: ...  # noqa: D102
    def inputs(self) -> list[bool]: ...  # noqa: D102
    def input_registers(self) -> list[int]: ...  # noqa: D102
    def holding_registers(self) -> list[int]: ...  # noqa: D102
    def write_coils(self, start: int, values: list[bool]) -> None: ...  # noqa: D102
    def write_registers(self, start: int, values: list[int]) -> None: ...  # noqa: D102


class Refused(Exception):
    """A request that is answered with an exception code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def reply(request: bytes, registers: Registers) -> bytes:
    """The reply's bytes from the function code on; whatever the request is, there is one."""
    function = request[0] if request else 0
    try:
        if function not in _FUNCTIONS:
            raise Refused(ILLEGAL_FUNCTION)
        return bytes([function]) + _FUNCTIONS[function](request[1:], registers)
    except Refused as refused:
        return bytes([function | 0x80, refused.code])


def _two(data: bytes) -> tuple[int, int]:
    if len(data) != 4:
        raise Refused(ILLEGAL_VALUE)
    first, second = struct.unpack(">HH", data)
    return first, second


def _range(start: int, count: int, most: int, end: int) -> None:
    if not 1 <= count <= most:
        raise Refused(ILLEGAL_VALUE)
    if start + count > end:
        raise Refused(ILLEGAL_ADDRESS)


def _pack_bits(bits: list[bool]) -> bytes:
    packed = bytearray((len(bits) + 7) // 8)
    for position, bit in enumerate(bits):
        packed[position // 8] |= bit << position % 8
    return bytes([len(packed)]) + bytes(packed)


def _read_coils(data: bytes, registers: Registers) -> bytes:
    start, count = _two(data)
    _range(start, count, 2000, size(COILS))
    return _pack_bits(registers.coils()[start : start + count])


def _read_inputs(data: bytes, registers: Registers) -> bytes:
    start, count = _two(data)
    _range(start, count, 2000, size(INPUTS))
    return _pack_bits(registers.inputs()[start : start + count])


def _pack_registers(values: list[int]) -> bytes:
    return bytes([2 * len(values)]) + struct.pack(f">{len(values)}H", *values)


def _read_holding(data: bytes, registers: Registers) -> bytes:
    start, count = _two(data)
    _range(start, count, 125, size(HOLDING_REGISTERS))
    return _pack_registers(registers.holding_registers()[start : start + count])


def _read_input_registers(data: bytes, registers: Registers) -> bytes:
    start, count = _two(data)
    _range(start, count, 125, size(INPUT_REGISTERS))
    return _pack_registers(registers.input_registers()[start : start + count])


def _write_coil(data: bytes, registers: Registers) -> bytes:
    at, value = _two(data)
    if value not in (0x0000, 0xFF00):
        raise Refused(ILLEGAL_VALUE)
    _range(at, 1, 1, size(COILS))
    registers.write_coils(at, [value == 0xFF00])
    return data


def _write_register(data: bytes, registers: Registers) -> bytes:
    at, value = _two(data)
    _range(at, 1, 1, size(HOLDING_REGISTERS))
    registers.write_registers(at, [value])
    return data


def _write_coils(data: bytes, registers: Registers) -> bytes:
    start, count = _two(data[:4])
    if len(data) < 5 or data[4] != (count + 7) // 8 or len(data) != 5 + data[4]:
        raise Refused(ILLEGAL_VALUE)
    _range(start, count, 1968, size(COILS))
    registers.write_coils(start, [bool(data[5 + k // 8] >> k % 8 & 1) for k in range(count)])
    return data[:4]


def _write_registers(data: bytes, registers: Registers) -> bytes:
    start, count = _two(data[:4])
    if len(data) < 5 or data[4] != 2 * count or len(data) != 5 + data[4]:
        raise Refused(ILLEGAL_VALUE)
    _range(start, count, 123, size(HOLDING_REGISTERS))
    registers.write_registers(start, list(struct.unpack(f">{count}H", data[5:])))
    return data[:4]


_FUNCTIONS = {
    1: _read_coils,
    2: _read_inputs,
    3: _read_holding,
    4: _read_input_registers,
    5: _write_coil,
    6: _write_register,
    15: _write_coils,
    16: _write_registers,
}
