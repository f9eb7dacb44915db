"""mosquitto on loopback: it keeps its port and what it holds over kills."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from dskd.benchmarks.lab.station.drill import free_port, listens, wait_until
from dskd.runtime.errors import MissingPart

PATIENCE = 20.0  # seconds for the broker to answer


class Broker:
    """A broker that keeps its memory in ``folder``. Raises MissingPart where mosquitto is not installed."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise MissingPart("mosquitto is not installed; apt-get install mosquitto")
        self.port = free_port()
        self.address = f"mqtt://127.0.0.1:{self.port}"
        file = folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "user root",  # else it gives up its rights to this folder; no root, no effect
            f"persistence true\npersistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1",
            "max_queued_messages 0",  # what waits for a reader is counted here, not the broker's to drop
            f"log_dest file {folder}/broker.log\nlog_type error\nlog_type warning\nlog_type notice",
            "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        ]
        file.write_text("\n".join(lines) + "\n")
        self._command = [program, "-c", str(file)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        wait_until(lambda: listens(self.port), "the broker's start", PATIENCE)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Killed, and started again."""
        self.kill()
        self.start()

    def announce(self, topic: str, data: bytes) -> None:
        """Publishes what the broker keeps."""
        client = self._client()
        try:
            client.publish(topic, data, qos=1, retain=True).wait_for_publish(PATIENCE)
        finally:
            client.disconnect()
            client.loop_stop()

    def retained(self, topic: str, number: int) -> dict[str, bytes]:
        """What the broker keeps under ``topic``: waits for ``number`` of them, at most ``PATIENCE``."""
        found: dict[str, bytes] = {}
        client = self._client()
        client.on_message = lambda _client, _data, message: found.__setitem__(message.topic, message.payload)
        client.subscribe(topic, qos=1)
        end = time.monotonic() + PATIENCE
        while len(found) < number and time.monotonic() < end:
            time.sleep(0.05)
        client.disconnect()
        client.loop_stop()
        return found

    def _client(self) -> Any:
        from paho.mqtt import client as paho_client

        paho: Any = paho_client
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        return client
