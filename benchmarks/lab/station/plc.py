"""A PLC's side of Modbus TCP by the station's register map: one request, one reply, on one connection."""

from __future__ import annotations

import socket
import struct

from dskd.runtime.station.outputs.registers import (
    COILS,
    HOLDING_REGISTERS,
    INPUT_REGISTERS,
    INPUTS,
    TEXT,
    address,
    registers_text,
    size,
    text_registers,
)

PATIENCE = 2.0  # seconds for a reply


class Plc:
    """Raises OSError where the station does not answer or hangs up."""

    def __init__(self, port: int) -> None:
        self._link = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._link.settimeout(PATIENCE)

    def coil(self, name: str, value: bool) -> None:
        """Writes a coil."""
        self._ask(struct.pack(">BHH", 5, address(COILS, name), 0xFF00 if value else 0))

    def text(self, name: str, value: str) -> None:
        """Writes a text into holding registers."""
        words = text_registers(value)
        head = struct.pack(">BHHB", 16, address(HOLDING_REGISTERS, name), len(words), 2 * len(words))
        self._ask(head + struct.pack(f">{len(words)}H", *words))

    def registers(self) -> list[int]:
        """All input registers."""
        data = self._ask(struct.pack(">BHH", 4, 0, size(INPUT_REGISTERS)))[1:]
        return list(struct.unpack(f">{len(data) // 2}H", data))

    def close(self) -> None:
        """Hangs up."""
        self._link.close()

    def _ask(self, request: bytes) -> bytes:
        """The reply's data."""
        self._link.sendall(struct.pack(">HHHB", 1, 0, 1 + len(request), 1) + request)
        reply = self._exactly(struct.unpack(">H", self._exactly(6)[4:])[0])
        if reply[1] != request[0]:
            raise OSError(f"the station refuses a request (Modbus exception {reply[2]})")
        return reply[2:]

    def _exactly(self, number: int) -> bytes:
        data = b""
        while len(data) < number:
            more = self._link.recv(number - len(data))
            if not more:
                raise OSError("the station hung up")
            data += more
        return data


def bit(registers: list[int], name: str) -> bool:
    """One of the status bits."""
    return bool(registers[0] >> address(INPUTS, name) & 1)


def part_of(registers: list[int]) -> str:
    """The part that the result is about."""
    return registers_text(registers[address(INPUT_REGISTERS, "PartId") :][:TEXT])
