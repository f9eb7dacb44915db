"""MQTT over TLS, and brokers that mean harm: the sink says what is wrong, goes on, and holds no more than it should."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from broker import Broker, Listener, needs_mosquitto, wait_for
from budget import cases
from certificates import Authority
from line_records import inspection

from dskd.runtime.backoff import Backoff
from dskd.runtime.sinks.delivery import Delivery
from dskd.runtime.sinks.mqtt import MqttConfig, MqttTarget
from dskd.runtime.sinks.mqtt_client import LARGEST_PACKET, bounded_client, paho_module
from dskd.runtime.sinks.mqtt_commands import CommandQueue
from dskd.runtime.store import Store

CASES = cases(10_000)
CONNACK = bytes([0x20, 3, 0, 0, 0])

Start = Callable[..., Delivery]


class Station:
    """Takes whatever command is one."""

    def trigger(self, camera: str, part: str | None) -> str:
        return part or "p1"

    def set_recipe(self, camera: str, recipe: str, who: str) -> None:
        pass


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Starts deliveries that take commands, and stops them at the end."""
    running: list[tuple[Delivery, CommandQueue]] = []

    def begin(port: int, scheme: str = "mqtt", **options: object) -> Delivery:
        fields = {
            "kind": "mqtt",
            "broker": f"{scheme}://127.0.0.1:{port}",
            "topic": "dskd",
            "commands": True,
            **options,
        }
        config, commands = MqttConfig.model_validate(fields), CommandQueue(Station())
        delivery = Delivery("mes", store, MqttTarget(config, store.identity, commands), Backoff(first=0.01, most=0.02))
        running.append((delivery, commands))
        delivery.start()
        return delivery

    yield begin
    for delivery, commands in running:
        assert delivery.stop()
        assert commands.stop()


# ----------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[Broker, Authority]]:
    authority = Authority(tmp_path, "plant")
    certificate, key = authority.issue("127.0.0.1")
    broker = Broker(tmp_path, {"line": "right horse"}, f"certfile {certificate}\nkeyfile {key}")
    broker.start()
    yield broker, authority
    broker.kill()


@needs_mosquitto
def test_records_go_over_tls_with_user_and_password(
    secured: tuple[Broker, Authority], store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, authority = secured
    monkeypatch.setenv("MES_PASSWORD", "right horse")
    monkeypatch.setenv("MES_USER", "line")
    who = {"user": "${MES_USER}", "password": "${MES_PASSWORD}"}
    delivery = start(broker.port, "mqtts", ca_file=str(authority.file), **who)
    store.add([inspection(1), inspection(2)])
    wait_for(lambda: delivery.status().delivered == 2)
    assert delivery.status().health == "ok"


@needs_mosquitto
@pytest.mark.parametrize("case", ["other authority", "other host", "system", "no file", "no certificate", "no TLS"])
def test_a_connection_that_cannot_be_trusted_is_one_clear_line(
    case: str, secured: tuple[Broker, Authority], tmp_path: Path, store: Store, start: Start
) -> None:
    broker, authority = secured
    ca_file: str | None = str(authority.file)
    words = "ca_file"
    if case == "other authority":
        ca_file, words = str(Authority(tmp_path, "other").file), "is not trusted by"
    elif case == "other host":
        broker.kill()
        certificate, key = authority.issue("192.0.2.1", "elsewhere")
        broker = Broker(tmp_path, extra=f"certfile {certificate}\nkeyfile {key}").start()
        words = "IP address mismatch"
    elif case == "system":
        ca_file, words = None, "the system's authorities"
    elif case == "no file":
        ca_file, words = str(tmp_path / "absent.pem"), "absent.pem"
    elif case == "no certificate":
        (tmp_path / "text.pem").write_text("no certificate")
        ca_file, words = str(tmp_path / "text.pem"), "holds no certificate in PEM"
    else:
        broker.kill()
        broker, words = Broker(tmp_path).start(), "no TLS connection"
    delivery = start(broker.port, "mqtts", **({} if ca_file is None else {"ca_file": ca_file}))
    store.add([inspection(1)])
    wait_for(lambda: words in delivery.status().detail)
    status = delivery.status()
    assert status.health == ("warning" if case == "no TLS" else "fault")
    assert "\n" not in status.detail
    assert (status.delivered, status.behind) == (0, 1)
    broker.kill()


@needs_mosquitto
def test_a_broker_with_tls_says_nothing_in_the_clear(
    secured: tuple[Broker, Authority], store: Store, start: Start
) -> None:
    delivery = start(secured[0].port, "mqtt")
    wait_for(lambda: delivery.status().last_error)
    assert delivery.status().health == "warning"


# ------------------------------------------------------------------------------------------------------------- hostile


class HostileBroker:
    """Takes connections, reads what comes, answers CONNECT as a broker does, then sends ``harm(case)``."""

    def __init__(self, harm: Callable[[int], bytes], per_connection: int = 10) -> None:
        self.cases = 0
        self._harm, self._each = harm, per_connection
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with link, suppress(OSError):
                link.settimeout(0.5)
                link.recv(4096)
                if self.cases % 3:  # else the harm comes in place of the CONNACK
                    link.sendall(CONNACK)
                for _ in range(self._each):
                    case, self.cases = self.cases, self.cases + 1
                    link.sendall(self._harm(case))
                link.shutdown(socket.SHUT_WR)
                while link.recv(4096):
                    pass


def length(number: int) -> bytes:
    """A variable byte integer."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (128 if number else 0))
        if not number:
            return bytes(out)


def packet(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + length(len(body)) + body


def memory() -> float:
    """Resident MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def malformed(case: int) -> bytes:
    """A packet that is none: random, cut, of a wrong length, with broken properties, topics, numbers."""
    chance = random.Random(case)
    topic = b"dskd/command"
    whole = packet(0x30 | chance.choice([0, 2, 4, 6]), struct.pack(">H", len(topic)) + topic + chance.randbytes(20))
    match chance.randrange(8):
        case 0:
            return chance.randbytes(chance.randrange(1, 60))
        case 1:
            return whole[: chance.randrange(1, len(whole))]
        case 2:
            return bytes([chance.randrange(256)]) + length(chance.randrange(1 << 28)) + chance.randbytes(30)
        case 3:
            return bytes([chance.randrange(256), 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])
        case 4:
            return packet(chance.choice([0x20, 0x40, 0x50, 0x62, 0x90, 0xB0, 0xD0, 0xE0, 0xF0]), chance.randbytes(9))
        case 5:
            return packet(0x30, struct.pack(">H", chance.randrange(1 << 16)) + chance.randbytes(40))
        case 6:
            return packet(0x32, struct.pack(">H", 12) + topic + struct.pack(">H", case & 0xFFFF) + chance.randbytes(30))
        case _:
            return bytes(b ^ (chance.random() < 0.1) * chance.randrange(256) for b in whole)


@pytest.mark.budget
@needs_mosquitto
@pytest.mark.slow
def test_malformed_packets_do_no_harm(tmp_path: Path, store: Store, start: Start) -> None:
    """The sink survives every one, holds no more afterwards, and delivers to a sound broker at the same address."""
    hostile = HostileBroker(malformed)
    store.add([inspection(1)])
    delivery = start(hostile.port, acknowledge_s=0.2)
    wait_for(lambda: hostile.cases >= CASES // 10, 120)
    before, threads, handles = memory(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    wait_for(lambda: hostile.cases >= CASES, 60 + CASES / 10)
    assert memory() - before < 30
    assert threading.active_count() <= threads + 2
    assert len(os.listdir("/proc/self/fd")) <= handles + 6
    assert "\n" not in delivery.status().detail
    hostile.close()
    broker = Broker(tmp_path, port=hostile.port).start()
    store.add([inspection(2)])
    wait_for(lambda: delivery.status().delivered >= 1, 60)
    assert delivery.status().health == "ok"
    broker.kill()


def test_an_exception_in_the_clients_thread_is_seen() -> None:
    """Paho's older versions let a malformed packet raise there, and the connection would only look alive."""
    told: list[str] = []
    hostile = HostileBroker(lambda case: b"", per_connection=1)
    hostile.cases = 1  # a CONNACK comes first
    client = bounded_client(paho_module(), "x", told.append)
    client.on_connect = lambda *_: 1 / 0
    client.connect("127.0.0.1", hostile.port)
    client.loop_start()
    wait_for(lambda: told)
    assert "ZeroDivisionError" in told[0]
    client.loop_stop()
    hostile.close()


def test_a_packet_larger_than_agreed_is_not_taken_in(store: Store, start: Start) -> None:
    """Nobody needs 200 MB to say a command: the connection ends before they are read."""
    sent: list[int] = []

    def flood(case: int) -> bytes:
        sent.append(case)
        return packet(0x30, bytes(LARGEST_PACKET + 1))[:5] + length(200 << 20)[1:] + bytes(1 << 20)

    hostile = HostileBroker(flood, per_connection=200)
    before = memory()
    delivery = start(hostile.port)
    wait_for(lambda: len(sent) >= 250, 60)
    wait_for(lambda: delivery.status().last_error)
    assert memory() - before < 50
    hostile.close()


def test_messages_that_are_never_released_are_bounded(store: Store, start: Start) -> None:
    """QoS 2 begun and never ended."""
    topic = b"dskd/command"

    def begun(case: int) -> bytes:
        number = case % 65_535 + 1
        return packet(0x34, struct.pack(">H", len(topic)) + topic + struct.pack(">H", number) + b"\0" + bytes(60_000))

    hostile = HostileBroker(begun, per_connection=2000)
    before = memory()
    delivery = start(hostile.port)
    wait_for(lambda: hostile.cases >= 1500, 60)
    wait_for(lambda: delivery.status().last_error)
    assert memory() - before < 50
    hostile.close()


@pytest.mark.budget
@needs_mosquitto
@pytest.mark.slow
def test_malformed_commands_are_answered_and_do_no_harm(tmp_path: Path, store: Store, start: Start) -> None:
    """Payloads on the trigger's topic that no program of a line sends, through a real broker."""
    broker = Broker(tmp_path).start()
    delivery = start(broker.port)
    wait_for(lambda: delivery.status().health == "ok")
    listener = Listener(broker.port, "dskd/reply")
    before = memory()
    chance = random.Random(3)
    kinds = [b'{"command": "trigger", "camera": "top", "part": "', b'{"command":', b"[" * 2000, b"\xff\xfe", b""]
    for case in range(CASES):
        data = chance.choice(kinds) + chance.randbytes(chance.randrange(200)) + chance.choice([b'"}', b"}", b""])
        listener.client.publish("dskd/command", data, qos=0)
        if case % 200 == 0:
            time.sleep(0.05)
    listener.client.publish("dskd/command", b'{"command": "trigger", "camera": "top", "id": "last"}', qos=2)
    wait_for(lambda: listener.messages, 30)
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().delivered == 1, 60)
    assert delivery.status().health == "ok"
    assert memory() - before < 60
    listener.close()
    broker.kill()
