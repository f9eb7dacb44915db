"""The Modbus TCP server of one camera: few clients, small frames, time limits everywhere."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dskd.runtime.configuration.fields import Address, Name, Place, split_address
from dskd.runtime.errors import CallError
from dskd.runtime.listening import why_not
from dskd.runtime.result import Answer
from dskd.runtime.station.control import PartStatus
from dskd.runtime.station.outputs.base import OutputConfig, OutputContext, OutputKind
from dskd.runtime.station.outputs.handshake import Handshake
from dskd.runtime.station.outputs.modbus_protocol import DEVICE_FAILURE, HEADER, LARGEST_PDU, reply
from dskd.runtime.status import Health

MOST_CLIENTS = 16
IDLE = 120.0  # seconds without a request after which a client is taken for dead
FRAME = 5.0  # seconds for the rest of a request once it has begun, and for a reply to be taken
START = 5.0  # seconds
log = logging.getLogger(__name__)


def _client(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is no IP address") from None


Client = Annotated[str, AfterValidator(_client)]


class ModbusOutput(OutputConfig):
    """A Modbus TCP server with handshake bits and results of one camera."""

    kind: Literal["modbus"]
    listen: Address = Field("127.0.0.1:1502", description="address and port")
    camera: Name = Field(description="whose results it gives")
    allow: list[Client] = Field([], description="client addresses; needed as soon as it listens beyond loopback")
    buffer: int = Field(64, ge=1, le=1024, description="results that wait for the PLC's acknowledgement")

    @model_validator(mode="after")
    def _guarded(self) -> ModbusOutput:
        host = ip_address(split_address(self.listen)[0])
        if not host.is_loopback and not self.allow:
            raise ValueError(
                f"{self.listen} is open to the network, and Modbus knows no password; name the clients in allow"
            )
        return self

    def cameras_named(self) -> Iterator[tuple[Place, str]]:
        """The one it serves."""
        yield ("camera",), self.camera

    def claims(self) -> Iterator[tuple[str, object]]:
        """The address."""
        yield "listen", self.listen


class ModbusServer:
    """Serves ``handshake``. Raises CallError where the address cannot be used."""

    def __init__(self, name: str, config: ModbusOutput, handshake: Handshake) -> None:
        self.name, self.camera, self._handshake = name, config.camera, handshake
        self._allowed = frozenset(config.allow)
        self._host, self._port = split_address(config.listen)
        self._tasks: dict[asyncio.Task[None], float] = {}  # when each asked last, 0 before its first request
        self._since, self.refused = time.time(), 0
        self._closing = self._closed = False
        self._loop = asyncio.new_event_loop()
        try:
            self._server = self._loop.run_until_complete(
                asyncio.start_server(self._serve, self._host, self._port, limit=4 * LARGEST_PDU, backlog=MOST_CLIENTS)
            )
        except OSError as error:
            self._loop.close()
            raise CallError(
                f"output {name}: cannot listen on {config.listen} ({why_not(error, self._host, self._port)}); name another"
            ) from error
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        self._thread = threading.Thread(target=self._run, name=f"modbus-{name}", daemon=True)
        self._thread.start()

    def hears(self, camera: str) -> bool:
        """Its own camera alone."""
        return camera == self.camera

    def answer(self, answer: Answer) -> None:
        """Takes an answer of its camera."""
        self._handshake.answer(answer)

    def status(self) -> PartStatus:
        """How many clients there are, and whether results wait for them."""
        waiting, clients = self._handshake.waiting, len(self._tasks)
        if self._closed:  # the station stops, and health is asked until its end
            return PartStatus(self.name, "modbus", "ok", "stopped", self._since)
        if not self._thread.is_alive():
            return PartStatus(self.name, "modbus", "fault", "its thread died; start the station again", self._since)
        health: Health = "warning" if not clients or self._handshake.overrun else "ok"
        text = f"{clients} client(s) at {self.address[0]}:{self.address[1]}, {waiting} result(s) not acknowledged"
        return PartStatus(self.name, "modbus", health, text, self._since)

    def drain(self, timeout: float) -> None:
        """Gives the PLC time to fetch what waits."""
        end = time.monotonic() + timeout
        while self._handshake.waiting and self._tasks and time.monotonic() < end:
            time.sleep(0.01)

    def close(self) -> None:
        """Ends all connections."""
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._closing = True
            self._server.close()
            for task in self._tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        task = asyncio.current_task()
        assert task is not None
        try:
            if peer is None or not self._welcome(peer[0]):
                self.refused += 1
                return
            self._make_room()
            self._tasks[task] = 0.0
            while await self._one_request(reader, writer):
                if self._closing or task not in self._tasks:
                    return  # before Python 3.12 wait_for forgets that it was cancelled where a request comes just then
                self._tasks[task] = time.monotonic()
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, TimeoutError, asyncio.CancelledError):
            pass  # a client that went away or fell silent in the middle of a request, or the station stops
        finally:
            self._tasks.pop(task, None)
            writer.transport.abort()

    def _make_room(self) -> None:
        """Ends the newest client that never asked, else the one that was silent longest: a PLC asks all the time."""
        if len(self._tasks) >= MOST_CLIENTS:
            never = [task for task, asked in self._tasks.items() if not asked]
            idle = never[-1] if never else min(self._tasks, key=lambda task: self._tasks[task])
            del self._tasks[idle]
            idle.cancel()
            self.refused += 1

    def _welcome(self, peer: str) -> bool:
        client = ip_address(peer.partition("%")[0])
        mapped = getattr(client, "ipv4_mapped", None) or client
        return str(mapped) in self._allowed if self._allowed else mapped.is_loopback

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; false where the stream is no Modbus TCP and must be closed."""
        first = await asyncio.wait_for(reader.readexactly(1), IDLE)
        head = first + await asyncio.wait_for(reader.readexactly(HEADER.size - 1), FRAME)
        transaction, protocol, length, unit = HEADER.unpack(head)
        if protocol != 0 or not 2 <= length <= LARGEST_PDU + 1:
            return False
        request = await asyncio.wait_for(reader.readexactly(length - 1), FRAME)
        try:
            answer = reply(request, self._handshake)
        except Exception:  # a fault of ours: the PLC hears of it, and the server goes on
            log.exception("modbus: unexpected")
            answer = bytes([request[0] | 0x80, DEVICE_FAILURE])
        writer.write(HEADER.pack(transaction, 0, len(answer) + 1, unit) + answer)
        await asyncio.wait_for(writer.drain(), FRAME)
        return True


def _opened(config: ModbusOutput, context: OutputContext) -> ModbusServer:
    def change_job(job: int) -> None:
        context.set_job(config.camera, job, f"modbus {context.name}")

    return ModbusServer(context.name, config, Handshake(context.cameras[config.camera], change_job, config.buffer))


KIND = OutputKind(ModbusOutput, _opened)
