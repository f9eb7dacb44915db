"""The device's line to the broker: status with a last will, inventory, and announcements of updates."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

from jetson.fleet_config import BrokerConfig
from jetson.signing import LARGEST_ENVELOPE
from runtime.errors import MissingPart
from runtime.fields import reveal
from runtime.sinks.mqtt import split_broker

KEEPALIVE = 15  # seconds; after one and a half of it the broker says offline
LARGEST_PACKET = LARGEST_ENVELOPE + 1024
FAREWELL = 2.0  # seconds for the broker to take the last status


class FleetLink:
    """Connects in the background and again after every loss; what was told last is told again then.

    Status and inventory are kept by the broker, so only the newest counts and nothing has to be queued.
    """

    def __init__(
        self, config: BrokerConfig, device: str, product: str, wake: threading.Event, say: Callable[[str], None]
    ) -> None:
        try:
            from paho.mqtt import client as paho_client
        except ImportError as error:
            raise MissingPart("paho-mqtt is not installed; pip install 'dskd-edge[fleet]'") from error
        paho: Any = paho_client
        self._base = f"{config.topic}/device/{device}"
        self._update_topic = f"{config.topic}/update/{product}"
        self._wake, self._lock, self._say = wake, threading.Lock(), say
        self._trouble = ""
        self._announced: bytes | None = None
        self._told: dict[str, bytes] = {}
        tls, self._host, self._port = split_broker(config.address)
        self._client: Any = paho.Client(paho.CallbackAPIVersion.VERSION2, f"dskd-{device}", protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(1, 60)
        if config.user is not None:
            self._client.username_pw_set(
                reveal(config.user), None if config.password is None else reveal(config.password)
            )
        if tls:
            self._client.tls_set(ca_certs=None if config.ca_file is None else str(config.ca_file))
        self._limits = paho.Properties(paho.PacketTypes.CONNECT)
        self._limits.MaximumPacketSize = LARGEST_PACKET
        self._client.will_set(f"{self._base}/status", b"offline", qos=1, retain=True)
        self._client.on_connect, self._client.on_message = self._on_connect, self._on_message
        self._client.on_connect_fail = lambda *_: self._in_trouble(f"cannot be reached ({sys.exc_info()[1]})")

    def start(self) -> None:
        """Begins to connect; a broker that is away is no error."""
        self._client.connect_async(self._host, self._port, KEEPALIVE, properties=self._limits)
        self._client.loop_start()

    def tell(self, what: str, fields: dict[str, object]) -> None:
        """Publishes ``inventory`` or ``event``, now or once connected."""
        data = json.dumps(fields).encode()
        with self._lock:
            self._told[what] = data
        if self._client.is_connected():
            self._client.publish(f"{self._base}/{what}", data, qos=1, retain=True)

    def announced(self) -> bytes | None:
        """The newest announcement since the last call; a claim like any other until its signature was checked."""
        with self._lock:
            found, self._announced = self._announced, None
        return found

    def close(self) -> None:
        """Says offline where connected, and ends."""
        if self._client.is_connected():
            with contextlib.suppress(RuntimeError, ValueError):
                self._client.publish(f"{self._base}/status", b"offline", qos=1, retain=True).wait_for_publish(FAREWELL)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._in_trouble(f"refuses ({reason}); see user and password of broker: in fleet.yaml")
            return
        self._trouble = ""
        client.subscribe(self._update_topic, qos=1)
        client.publish(f"{self._base}/status", b"online", qos=1, retain=True)
        with self._lock:
            told = dict(self._told)
        for what, data in told.items():
            client.publish(f"{self._base}/{what}", data, qos=1, retain=True)

    def _in_trouble(self, what: str) -> None:
        """Says once what keeps us from the broker; it is tried again for ever."""
        if what != self._trouble:
            self._trouble = what
            self._say(f"the broker at {self._host}:{self._port} {what}")

    def _on_message(self, _client: object, _data: object, message: Any) -> None:
        if 0 < len(message.payload) <= LARGEST_ENVELOPE:
            with self._lock:
                self._announced = bytes(message.payload)
            self._wake.set()
