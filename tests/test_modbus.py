"""The Modbus server, asked by pymodbus and by bytes that no PLC would send."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from budget import cases
from conftest import ROOT
from pymodbus.client import ModbusTcpClient
from station_files import wait_for

from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Inspection, Region, Verdict
from dskd.runtime.station.control import PlcState
from dskd.runtime.station.outputs.handshake import Handshake
from dskd.runtime.station.outputs.modbus import MOST_CLIENTS, ModbusOutput, ModbusServer
from dskd.runtime.station.outputs.modbus_protocol import reply
from dskd.runtime.station.outputs.registers import (
    COILS,
    HOLDING_REGISTERS,
    INPUT_REGISTERS,
    INPUTS,
    address,
    document,
    registers_text,
    size,
    text_registers,
    two_registers,
)

CASES = cases(10_000)


class Camera:
    """What a PLC sees of a camera, with its answers by hand."""

    def __init__(self) -> None:
        self.ready, self.busy, self.error, self.job, self.missed = True, 0, 0, 3, 0
        self.parts: list[str | None] = []
        self.jobs: list[int] = []
        self.refuses: DskdError | None = None

    def trigger(self, part: str | None) -> str:
        if self.refuses is not None:
            raise self.refuses
        self.parts.append(part)
        return part or "made"

    def plc_state(self) -> PlcState:
        return PlcState(self.ready, self.busy, self.error, self.job, self.missed)

    def change_job(self, job: int) -> None:
        self.jobs.append(job)
        if job == 9:
            raise CallError("no such recipe")
        if job == 8:
            raise DskdError("golden check failed")
        self.job = job


class Plc:
    """A real client of a real server."""

    def __init__(self, **options: object) -> None:
        self.camera = Camera()
        self.handshake = Handshake(self.camera, self.camera.change_job, buffer=4)
        config = ModbusOutput(kind="modbus", listen="127.0.0.1:0", camera="top", **options)  # type: ignore[arg-type]
        self.server = ModbusServer("plc", config, self.handshake)
        self.client = ModbusTcpClient(self.server.address[0], port=self.server.address[1], timeout=5)

    def coil(self, name: str, value: bool) -> None:
        assert not self.client.write_coil(address(COILS, name), value).isError()

    def bit(self, name: str) -> bool:
        return bool(self.client.read_discrete_inputs(0, count=size(INPUTS)).bits[address(INPUTS, name)])

    def registers(self) -> list[int]:
        found = self.client.read_input_registers(0, count=size(INPUT_REGISTERS))
        assert not found.isError()
        return list(found.registers)

    def value(self, name: str) -> int:
        return self.registers()[address(INPUT_REGISTERS, name)]

    def part(self) -> str:
        return registers_text(self.registers()[address(INPUT_REGISTERS, "PartId") :])


@pytest.fixture
def plc() -> Iterator[Plc]:
    made = Plc()
    assert made.client.connect()
    yield made
    made.client.close()
    made.server.close()


def answer(part: str, verdict: Verdict = Verdict.PASS, score: float = 0.5, inspected: bool = True) -> Answer:
    region = Region((0, 0, 1, 1), 1, 1.0)
    found = Inspection("top", "1", 1.0, verdict, score, 0.75, (region,), {}, "b", "x", part=part)
    reason = Reason.INSPECTED if inspected else Reason.NO_VERDICT
    return Answer("top", part, verdict, reason, 10.0, 10.123, found if inspected else None)


def test_the_document_is_what_the_server_does() -> None:
    assert (ROOT / "docs" / "modbus.md").read_text() == document()
    for area in (COILS, INPUTS, INPUT_REGISTERS, HOLDING_REGISTERS):
        taken = [at for point in area for at in range(point.address, point.end)]
        assert len(taken) == len(set(taken))


def test_one_part_after_the_other(plc: Plc) -> None:
    plc.coil("TriggerEnable", True)
    assert plc.bit("TriggerReady")
    assert plc.bit("Online")
    for number, verdict in enumerate((Verdict.PASS, Verdict.REJECT, Verdict.REVIEW), 1):
        completed = plc.bit("Completed")
        assert not plc.client.write_registers(
            address(HOLDING_REGISTERS, "PartWanted"), text_registers(f"A-{number}")
        ).isError()
        plc.coil("Trigger", True)
        assert plc.bit("TriggerAck")
        plc.coil("Trigger", False)
        assert not plc.bit("TriggerAck")
        plc.handshake.answer(answer(f"A-{number}", verdict, score=-1.5 * number))
        assert plc.bit("ResultsValid")
        assert plc.bit("Completed") != completed
        assert plc.bit("JobPass") == (verdict is Verdict.PASS)
        result = plc.registers()
        assert result[10:12] == [0, number]
        assert result[12] == number if verdict is Verdict.PASS else True
        assert result[13:15] == two_registers(-1500 * number)
        assert result[15:20] == [0, 750, 123, 0, 1]
        assert plc.part() == f"A-{number}"
        plc.coil("ResultsAck", True)
        assert not plc.bit("ResultsValid")
        plc.coil("ResultsAck", False)
    assert plc.camera.parts == ["A-1", "A-2", "A-3"]
    assert plc.value("TriggerCount") == 0
    assert plc.registers()[5] == 3


def test_results_wait_for_their_acknowledgement_and_an_overrun_shows(plc: Plc) -> None:
    for number in range(6):  # the buffer holds four
        plc.handshake.answer(answer(f"P{number}"))
    assert plc.bit("Overrun")
    assert plc.value("ErrorCode") == 30
    seen = []
    while plc.bit("ResultsValid"):
        seen.append((plc.part(), plc.registers()[11]))
        plc.coil("ResultsAck", True)
        plc.coil("ResultsAck", False)
    assert seen == [("P0", 1), ("P1", 2), ("P2", 3), ("P3", 4)]
    plc.handshake.answer(answer("P6"))
    assert plc.registers()[11] == 7  # the gap shows
    plc.coil("ClearError", True)
    assert not plc.bit("Overrun")
    assert plc.value("ErrorCode") == 0


def test_a_trigger_that_is_not_taken(plc: Plc) -> None:
    plc.coil("Trigger", True)  # not enabled
    assert plc.bit("MissedAcq")
    assert not plc.bit("TriggerAck")
    plc.coil("Trigger", False)
    plc.coil("TriggerEnable", True)
    plc.camera.refuses = DskdError("not ready")
    plc.coil("Trigger", True)
    assert plc.bit("MissedAcq")
    assert plc.value("ErrorCode") == 10
    plc.coil("Trigger", False)
    plc.camera.refuses = CallError("bad part id")
    plc.coil("Trigger", True)
    assert plc.value("ErrorCode") == 11
    plc.coil("Trigger", False)
    plc.camera.refuses = None
    plc.coil("Trigger", True)
    assert not plc.bit("MissedAcq")
    assert plc.camera.parts == [None]
    plc.camera.ready, plc.camera.error = False, 1
    assert not plc.bit("TriggerReady")
    assert not plc.bit("Online")


def test_a_part_without_inspection_says_why(plc: Plc) -> None:
    plc.handshake.answer(answer("late", Verdict.REJECT, inspected=False))
    assert plc.registers()[12:20] == [3, 0, 0, 0, 0, 123, 1, 0]


@pytest.mark.parametrize(("job", "bit", "error"), [(5, "JobChanged", 0), (9, "JobFailed", 20), (8, "JobFailed", 21)])
def test_job_change(plc: Plc, job: int, bit: str, error: int) -> None:
    assert not plc.client.write_register(address(HOLDING_REGISTERS, "JobWanted"), job).isError()
    plc.coil("JobChange", True)
    wait_for(lambda: plc.bit(bit))
    assert plc.value("ErrorCode") == error
    assert plc.value("CurrentJob") == (5 if job == 5 else 3)
    plc.coil("JobChange", False)
    assert not plc.bit(bit)


def test_every_function_and_its_limits(plc: Plc) -> None:
    client = plc.client
    assert client.write_coils(0, [True, False, False]).isError() is False
    assert client.read_coils(0, count=size(COILS)).bits[0]
    assert client.read_holding_registers(0, count=size(HOLDING_REGISTERS)).registers[0] == 0
    for refused, code in (
        (client.read_coils(0, count=size(COILS) + 1), 2),
        (client.read_discrete_inputs(size(INPUTS), count=1), 2),
        (client.read_input_registers(1, count=size(INPUT_REGISTERS)), 2),
        (client.read_holding_registers(60_000, count=1), 2),
        (client.write_coil(size(COILS), True), 2),
        (client.write_register(size(HOLDING_REGISTERS), 1), 2),
        (client.write_registers(size(HOLDING_REGISTERS) - 1, [1, 2]), 2),
        (client.read_exception_status(), 1),
        (client.report_device_id(), 1),
    ):
        assert refused.isError()
        assert refused.exception_code == code
    assert reply(struct.pack(">BHH", 3, 0, 0), plc.handshake) == bytes([0x83, 3])
    assert reply(struct.pack(">BHH", 5, 0, 1), plc.handshake) == bytes([0x85, 3])
    assert reply(b"", plc.handshake) == bytes([0x80, 1])


def test_ten_thousand_requests_that_no_plc_sends(plc: Plc) -> None:
    chance = random.Random(1)
    plc.handshake._change_job = lambda job: None  # a job a time would be a thread a time
    for case in range(CASES):
        request = bytes([chance.choice([1, 2, 3, 4, 5, 6, 15, 16, chance.randrange(256)])]) + chance.randbytes(
            chance.choice([0, 1, 3, 4, 4, 4, 5, 6, chance.randrange(253)])
        )
        if case % 2:
            request = request[:1] + struct.pack(">HH", chance.randrange(60), chance.randrange(60)) + request[5:]
        said = reply(request, plc.handshake)
        assert said[0] in (request[0], request[0] | 0x80)
        assert 2 <= len(said) <= 253
        if said[0] & 0x80 and not request[0] & 0x80:
            assert said[1] in (1, 2, 3)
    assert plc.registers()
    assert all(0 <= value < 1 << 16 for value in plc.handshake.holding_registers())


@pytest.mark.budget
@pytest.mark.slow
def test_ten_thousand_broken_frames_on_loopback(plc: Plc) -> None:
    """A connection may be closed for it; the server goes on, and a good client is served all the while."""
    chance = random.Random(2)

    def broken(case: int) -> bytes:
        body = chance.randbytes(chance.randrange(12))
        length = len(body) + 1 if chance.random() < 0.8 else chance.randrange(1 << 16)
        head = struct.pack(">HHHB", case & 0xFFFF, 0 if chance.random() < 0.9 else chance.randrange(1 << 16), length, 1)
        return (head + body)[: None if chance.random() < 0.9 else chance.randrange(1, 8)]

    for start in range(0, CASES, 10):
        with socket.create_connection(plc.server.address, timeout=5) as link, suppress(OSError):
            for case in range(start, start + 10):
                link.sendall(broken(case))
        if start % 500 == 0:
            assert plc.bit("Online")
    assert plc.bit("Online")
    wait_for(lambda: plc.server.status().detail.startswith("1 client"), 20)


def test_clients_are_bounded_and_strangers_refused(plc: Plc) -> None:
    links = [socket.create_connection(plc.server.address, timeout=5) for _ in range(MOST_CLIENTS + 5)]
    wait_for(lambda: plc.server.refused >= 6)  # one place is the client's own
    assert plc.bit("Online")
    for link in links:
        link.close()
    stranger = Plc(allow=["192.0.2.7"])
    try:
        link = socket.create_connection(stranger.server.address, timeout=5)
        link.settimeout(5)
        try:
            link.sendall(bytes(12))
            assert link.recv(10) == b""
        except OSError:
            pass
        assert stranger.server.refused == 1
    finally:
        link.close()
        stranger.server.close()


def test_a_client_that_never_reads_holds_nobody_up(plc: Plc) -> None:
    sloth = socket.create_connection(plc.server.address, timeout=1)
    request = struct.pack(">HHHBBHH", 1, 0, 6, 1, 4, 0, size(INPUT_REGISTERS))
    try:
        for _ in range(50_000):
            sloth.sendall(request)
    except OSError:
        pass
    start = time.monotonic()
    assert plc.bit("Online")
    assert time.monotonic() - start < 5
    sloth.close()


def test_a_server_that_was_closed_is_no_fault_and_one_that_died_is() -> None:
    closed, died = (
        ModbusServer("plc", ModbusOutput(kind="modbus", listen="127.0.0.1:0", camera="top"), Plc().handshake)
        for _ in range(2)
    )
    closed.close()
    assert closed.status().health == "ok"
    died._loop.call_soon_threadsafe(died._loop.stop)
    died._thread.join(10)
    assert died.status().health == "fault"


def test_an_address_in_use_is_one_line(plc: Plc) -> None:
    listen = f"127.0.0.1:{plc.server.address[1]}"
    with pytest.raises(CallError, match="cannot listen"):
        ModbusServer("other", ModbusOutput(kind="modbus", listen=listen, camera="top"), plc.handshake)


def test_it_ends_though_a_request_comes_at_that_very_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.12 asyncio's wait_for returns what came and forgets that its task was cancelled."""
    asked = threading.Event()

    async def forgetful(server: ModbusServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return True

    monkeypatch.setattr(ModbusServer, "_one_request", forgetful)
    camera = Camera()
    config = ModbusOutput(kind="modbus", listen="127.0.0.1:0", camera="top")
    server = ModbusServer("plc", config, Handshake(camera, camera.change_job, buffer=4))
    with socket.create_connection(server.address):
        assert asked.wait(20)
        closing = threading.Thread(target=server.close, daemon=True)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()
