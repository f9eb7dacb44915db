"""A real mosquitto on loopback, and a client that listens to it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from dskd.benchmarks.lab.station.drill import free_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed (apt-get install mosquitto)")


class Broker:
    """Keeps its port over restarts. ``users`` are name and password; without, everybody may connect."""

    def __init__(self, folder: Path, users: dict[str, str] | None = None, extra: str = "", port: int = 0) -> None:
        self.port, self._folder = port or free_port(), folder
        access = "allow_anonymous true"
        if users:
            file = folder / "passwords"
            file.touch(mode=0o600)
            for user, password in users.items():
                subprocess.run(["mosquitto_passwd", "-b", file, user, password], check=True)
            access = f"allow_anonymous false\npassword_file {file}"
        lines = [f"listener {self.port} 127.0.0.1", access, "persistence false", "user root", extra]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        assert MOSQUITTO
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", self._folder / "mosquitto.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None, "mosquitto does not start"
            time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


class Listener:
    """Collects all messages of a broker, over its restarts too."""

    def __init__(self, port: int, topics: str = "#", user: str | None = None, password: str | None = None) -> None:
        self.messages: list[mqtt.MQTTMessage] = []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        if user:
            self.client.username_pw_set(user, password)
        self.client.reconnect_delay_set(0.05, 0.1)  # type: ignore[arg-type]
        self.client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
        self.subscribed = 0
        self.client.on_subscribe = self._count
        self.client.on_message = lambda _client, _userdata, message: self.messages.append(message)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        wait_for(lambda: self.subscribed > 0)

    def _count(self, *_: object) -> None:
        self.subscribed += 1

    def of(self, topic: str) -> list[bytes]:
        return [bytes(message.payload) for message in self.messages if message.topic == topic]

    def ids(self, topic: str = "dskd/inspection/top") -> list[int]:
        return [int(json.loads(payload)["id"]) for payload in self.of(topic)]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def wait_for(moment: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not moment():  # type: ignore[operator]
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
