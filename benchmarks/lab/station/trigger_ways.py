"""Who triggers a station's parts: a PLC by Modbus, a program by HTTP, a line control by MQTT.

Each numbers its parts, remembers which triggers were acknowledged to it, and goes on after whatever fails.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dskd.benchmarks.lab.station.onlookers import Onlooker
from dskd.benchmarks.lab.station.plc import Plc, bit, part_of

PATIENCE = 3.0  # seconds for an acknowledgement
CAMERA = "top"


class Acknowledged:
    """Parts whose trigger was acknowledged, and when by the monotonic clock."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, part: str) -> None:
        """From any thread."""
        with self._lock:
            self._parts.setdefault(part, time.monotonic())

    def all(self) -> dict[str, float]:
        """A copy."""
        with self._lock:
            return dict(self._parts)


class ModbusWay:
    """A PLC that triggers, and takes every result that is there."""

    name = "Modbus"

    def __init__(self, port: int) -> None:
        self.acknowledged, self.told = Acknowledged(), list[str]()
        self._port, self._numbers = port, itertools.count(1)
        self._plc: Plc | None = None

    def look(self) -> None:
        """One part. Raises OSError where the station does not answer."""
        try:
            plc = self._plc = self._plc or self._connected()
            self._trigger(plc)
            self._take(plc)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hangs up."""
        if self._plc is not None:
            self._plc.close()
        self._plc = None

    def _connected(self) -> Plc:
        plc = Plc(self._port)
        plc.coil("TriggerEnable", True)
        plc.coil("Trigger", False)  # a connection that was lost may have left it set
        return plc

    def _trigger(self, plc: Plc) -> None:
        part = f"modbus-{next(self._numbers)}"
        plc.text("PartWanted", part)
        plc.coil("Trigger", True)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            registers = plc.registers()
            if bit(registers, "TriggerAck"):
                self.acknowledged.add(part)
                break
            if bit(registers, "MissedAcq"):
                break
            time.sleep(0.005)
        plc.coil("Trigger", False)

    def _take(self, plc: Plc) -> None:
        while bit(registers := plc.registers(), "ResultsValid"):
            self.told.append(part_of(registers))
            plc.coil("ResultsAck", True)
            plc.coil("ResultsAck", False)


class HttpWay:
    """A program that posts triggers to the page, through a proxy where ``host`` is the name that it answers to."""

    name = "HTTP"

    def __init__(self, port: int, token: Path) -> None:
        self.acknowledged = Acknowledged()
        self._port, self._token, self._numbers = port, token, itertools.count(1)

    def look(self) -> None:
        """One part. Raises OSError or HTTPException where the station does not answer."""
        part = f"http-{next(self._numbers)}"
        link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            headers = {"Authorization": f"Bearer {self._token.read_text().strip()}", "Content-Type": "application/json"}
            link.request("POST", f"/api/cameras/{CAMERA}/trigger", json.dumps({"part": part}), headers)
            answer = link.getresponse()
            answer.read()
            if answer.status == 202:
                self.acknowledged.add(part)
        finally:
            link.close()

    def close(self) -> None:
        """Holds nothing."""


class MqttWay:
    """A line control that sends commands to ``topic`` and listens for the replies."""

    name = "MQTT"

    def __init__(self, port: int, topic: str) -> None:
        from paho.mqtt import client as paho_client

        paho: Any = paho_client
        self.acknowledged = Acknowledged()
        self._topic, self._numbers = topic, itertools.count(1)
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, "line-control", protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{topic}/reply", qos=1)
        self._client.on_message = self._heard
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async("127.0.0.1", port, 10)
        self._client.loop_start()

    def look(self) -> None:
        """One part; its acknowledgement comes when it comes."""
        if self._client.is_connected():
            part = f"mqtt-{next(self._numbers)}"
            command = {"command": "trigger", "camera": CAMERA, "part": part, "id": part}
            self._client.publish(f"{self._topic}/command", json.dumps(command).encode(), qos=1)

    def close(self) -> None:
        """Ends it."""
        self._client.disconnect()
        self._client.loop_stop()

    def _heard(self, client: object, data: object, message: Any) -> None:
        with suppress(ValueError, KeyError):
            reply = json.loads(message.payload)
            if reply["ok"] and reply["command"] == "trigger":
                self.acknowledged.add(reply["part"])


Way = ModbusWay | HttpWay | MqttWay


class TriggerWays:
    """All three at once, each in a thread, ``period`` seconds between two parts of each."""

    def __init__(self, ways: list[Way], period: float) -> None:
        self.ways = ways
        self._onlookers = [Onlooker(way.name, period, _whole(way)) for way in ways]

    def acknowledged(self) -> dict[str, dict[str, float]]:
        """By way: the parts, and when they were acknowledged."""
        return {way.name: way.acknowledged.all() for way in self.ways}

    def stop(self) -> None:
        """Ends the threads, then the connections."""
        for onlooker in self._onlookers:
            onlooker.stop()
        for way in self.ways:
            way.close()


def _whole(way: Way) -> Callable[[], None]:
    return way.look
