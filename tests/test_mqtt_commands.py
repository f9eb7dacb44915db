"""Commands that come by MQTT: carried out, answered, refused; a flood of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from broker import Broker, Listener, needs_mosquitto, wait_for
from budget import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from line_records import inspection

from dskd.runtime.errors import DskdError
from dskd.runtime.sinks.delivery import Delivery
from dskd.runtime.sinks.mqtt_commands import CommandQueue
from dskd.runtime.store import Store

pytestmark = needs_mosquitto

Start = Callable[..., Delivery]


class Commanded:
    """Takes commands as a station does."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.go = threading.Event()
        self.go.set()

    def trigger(self, camera: str, part: str | None) -> str:
        self.go.wait(10)
        self.calls.append(("trigger", camera, part))
        if camera == "gone":
            raise DskdError("camera gone: not ready")
        if camera == "broken":
            raise RuntimeError("inside")
        return part or "p1"

    def set_recipe(self, camera: str, recipe: str, who: str) -> None:
        self.calls.append(("recipe", camera, recipe, who))


@pytest.fixture
def commanded() -> Iterator[tuple[Commanded, CommandQueue]]:
    station = Commanded()
    commands = CommandQueue(station)
    yield station, commands
    station.go.set()
    assert commands.stop()


def test_commands_are_carried_out_and_answered(
    broker: Broker, store: Store, start_mqtt: Start, commanded: tuple[Commanded, CommandQueue]
) -> None:
    station, commands = commanded
    listener = Listener(broker.port, "dskd/reply")
    listener.client.publish(
        "dskd/command", b'{"command": "trigger", "camera": "top", "part": "old"}', 1, retain=True
    ).wait_for_publish(20)
    delivery = start_mqtt(broker.port, commands, commands=True)
    wait_for(lambda: delivery.status().health == "ok")
    for command in (
        b'{"command": "trigger", "camera": "top", "part": "A17", "id": "7"}',
        b'{"command": "recipe", "camera": "top", "recipe": "bracket-b"}',
        b'{"command": "trigger", "camera": "gone"}',
        b'{"command": "trigger", "camera": "broken"}',
        b'{"command": "reboot"}',
        b"\xff\x00 no json",
        b"{" * 3000,
        b'{"command": "trigger", "camera": "../../etc", "part": "x"}',
    ):
        listener.client.publish("dskd/command", command, qos=1)
    wait_for(lambda: len(listener.messages) == 8)
    replies = [json.loads(payload) for payload in listener.of("dskd/reply")]
    assert [reply["ok"] for reply in replies] == [True, True, False, False, False, False, False, False]
    assert replies[0] == {"command": "trigger", "camera": "top", "id": "7", "part": "A17", "ok": True}
    assert station.calls[:2] == [("trigger", "top", "A17"), ("recipe", "top", "bracket-b", "mqtt")]
    assert len(station.calls) == 4  # nothing of the retained command, nor of the malformed ones
    listener.client.publish("dskd/command", b"x" * 200_000, qos=1)  # larger than we take: the broker keeps it from us
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().behind == 0)
    assert delivery.status().health == "ok"
    listener.close()


def test_without_commands_configured_nothing_is_taken(
    broker: Broker, store: Store, start_mqtt: Start, commanded: tuple[Commanded, CommandQueue]
) -> None:
    station, commands = commanded
    listener = Listener(broker.port, "dskd/reply")
    delivery = start_mqtt(broker.port, commands)
    wait_for(lambda: delivery.status().health == "ok")
    listener.client.publish("dskd/command", b'{"command": "trigger", "camera": "top"}', qos=1)
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().behind == 0)
    time.sleep(0.2)
    assert station.calls == []
    listener.close()


def test_a_flood_of_commands_is_answered_not_queued_without_end(commanded: tuple[Commanded, CommandQueue]) -> None:
    station, commands = commanded
    station.go.clear()
    replies: list[dict[str, object]] = []
    for _ in range(200):
        commands.take(b'{"command": "trigger", "camera": "top"}', lambda reply: replies.append(json.loads(reply)))
    assert len(replies) >= 180
    assert all("more slowly" in str(reply["error"]) for reply in replies)
    station.go.set()
    wait_for(lambda: len(replies) == 200)
    assert sum(bool(reply["ok"]) for reply in replies) == len(station.calls) <= 17


@settings(max_examples=cases(300))
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | st.builds(
    lambda fields: json.dumps(fields).encode(),
    st.dictionaries(st.sampled_from(["command", "camera", "part", "recipe", "id"]),
                    st.sampled_from(["trigger", "recipe", "top", "", "\0", "a/b", "#"]) | st.none() | st.integers()),
))  # fmt: skip
def test_whatever_comes_as_a_command_is_answered(data: bytes) -> None:
    station = Commanded()
    commands = CommandQueue(station)
    answer = commands._carry_out(data)
    assert answer["ok"] is (len(station.calls) == 1)
    assert commands.stop()
