"""The device's line to the broker: status with a last will, inventory, and announcements of updates."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

from dskd.jetson.fleet_config import BrokerConfig
from dskd.jetson.signing import LARGEST_ENVELOPE
from dskd.runtime.backoff import Backoff
from dskd.runtime.configuration.fields import reveal
from dskd.runtime.errors import DskdError
from dskd.runtime.sinks.mqtt import split_broker
from dskd.runtime.sinks.mqtt_client import LARGEST_PACKET, bounded_client, connection_failure, paho_module, use_tls

KEEPALIVE = 15  # seconds; after one and a half of it the broker says offline
CONNECT_PATIENCE = 5.0  # seconds
FAREWELL = 2.0  # seconds for the broker to take the last status


class FleetLink:
    """Connects in the background and again after every loss; what was told last is told again then.

    Status and inventory are kept by the broker, so only the newest counts and nothing has to be queued. ``say`` is told
    once of each trouble. Raises CallError where a secret is not set, MissingPart without paho.
    """

    def __init__(
        self, config: BrokerConfig, device: str, product: str, wake: threading.Event, say: Callable[[str], None]
    ) -> None:
        self._paho = paho_module()
        self._config, self._name, self._wake, self._say = config, f"dskd-{device}", wake, say
        self._base = f"{config.topic}/device/{device}"
        self._update_topic = f"{config.topic}/update/{product}"
        self._tls, self._host, self._port = split_broker(config.address)
        self._user, self._password = (None if text is None else reveal(text) for text in (config.user, config.password))
        self._lock = threading.Lock()  # guards what was told and announced
        self._announced: bytes | None = None
        self._told: dict[str, bytes] = {}
        self._trouble = self._end = (
            ""  # what was said last; what the end of this connection means, where it is not said
        )
        self._client: Any = None  # the present connection's
        self._backoff, self._ended = Backoff(most=60.0), threading.Event()
        self._thread = threading.Thread(target=self._stay_connected, name="fleet-link", daemon=True)

    def start(self) -> None:
        """Begins to connect; a broker that is away is no error."""
        self._thread.start()

    def tell(self, what: str, fields: dict[str, object]) -> None:
        """Publishes ``inventory`` or ``event``, now or once connected."""
        data = json.dumps(fields).encode()
        with self._lock:
            self._told[what] = data
        if self.connected:
            self._client.publish(f"{self._base}/{what}", data, qos=1, retain=True)

    def announced(self) -> bytes | None:
        """The newest announcement since the last call; a claim like any other until its signature was checked."""
        with self._lock:
            found, self._announced = self._announced, None
        return found

    @property
    def connected(self) -> bool:
        """Whether the broker has us."""
        return self._client is not None and bool(self._client.is_connected())

    def close(self) -> None:
        """Says offline where connected, and ends."""
        self._ended.set()
        if self.connected:
            with contextlib.suppress(RuntimeError, ValueError):
                self._client.publish(f"{self._base}/status", b"offline", qos=1, retain=True).wait_for_publish(FAREWELL)
        if self._client is not None:
            self._client.disconnect()
        self._thread.join(CONNECT_PATIENCE + FAREWELL)

    def _stay_connected(self) -> None:
        while not self._ended.is_set():
            try:
                self._client = self._new_client()
                self._client.connect(self._host, self._port, KEEPALIVE, properties=self._limits())
                self._end = "hangs up without an answer"
                self._client.loop_forever()  # until the connection is lost
                if self._end:
                    self._in_trouble(f"{self._config.address}: {self._end}")
            except (OSError, ValueError) as error:
                self._in_trouble(str(connection_failure(self._config.address, self._config.ca_file, error)))
            except DskdError as error:
                self._in_trouble(str(error))
            self._ended.wait(self._backoff.delay())

    def _new_client(self) -> Any:
        client = bounded_client(self._paho, self._name, self._refused)
        client.connect_timeout = CONNECT_PATIENCE
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        if self._tls:
            use_tls(client, self._config.address, self._config.ca_file)
        client.will_set(f"{self._base}/status", b"offline", qos=1, retain=True)
        client.on_connect, client.on_message = self._on_connect, self._on_message
        return client

    def _limits(self) -> Any:
        limits = self._paho.Properties(self._paho.PacketTypes.CONNECT)
        limits.MaximumPacketSize = LARGEST_PACKET
        return limits

    def _on_connect(self, client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._refused(f"refuses us ({reason}); see user and password of broker: in fleet.yaml")
            return
        self._trouble, self._end = "", "the connection is lost"
        self._backoff.reset()
        client.subscribe(self._update_topic, qos=1)
        client.publish(f"{self._base}/status", b"online", qos=1, retain=True)
        with self._lock:
            told = dict(self._told)
        for what, data in told.items():
            client.publish(f"{self._base}/{what}", data, qos=1, retain=True)

    def _refused(self, why: str) -> None:
        self._end = ""
        self._in_trouble(f"{self._config.address}: {why}")

    def _in_trouble(self, what: str) -> None:
        if what != self._trouble and not self._ended.is_set():
            self._trouble = what
            self._say(f"broker {what}")

    def _on_message(self, _client: object, _data: object, message: Any) -> None:
        if 0 < len(message.payload) <= LARGEST_ENVELOPE:
            with self._lock:
                self._announced = bytes(message.payload)
            self._wake.set()
