"""MQTT 5: records to a broker with QoS 1; a record counts as delivered when the broker has acknowledged it.

paho's own queue is in memory only, so nothing is left to it: a lost connection is given up, and what was not
acknowledged is read from the store again on the next one.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from dskd.runtime.configuration.fields import LocalPath, Seconds, Secret, Text, reveal
from dskd.runtime.errors import CallError
from dskd.runtime.result import Verdict
from dskd.runtime.sinks.base import Fields, SinkConfig, SinkContext, SinkKind, options
from dskd.runtime.sinks.delivery import LARGEST_PAYLOAD, DeliveryFailed, Done, payload
from dskd.runtime.sinks.mqtt_client import LARGEST_PACKET, bounded_client, connection_failure, paho_module, use_tls
from dskd.runtime.sinks.mqtt_commands import CommandQueue
from dskd.runtime.store import Record

PORTS = {"mqtt": 1883, "mqtts": 8883}
OVERHEAD = 1024  # bytes of a packet beside its payload, at most: header, topic and properties
ON_THE_WAY = 20  # records that wait for the broker's acknowledgement at once
CONNECT_PATIENCE = 5.0  # seconds
MOST_REPLIES = 32  # to commands, that wait for the broker's acknowledgement; more are not sent
FAREWELL = 1.0  # seconds for the broker to take the last status
_REFUSED_FOR_GOOD = {0x90, 0x95, 0x99}  # topic name invalid, packet too large, payload format invalid
_UNSPECIFIED = 0x80  # also what paho says where the connection just ended
_HOPELESS = {0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x9D}  # version, client id, password, rights, ban, method, moved


class MqttConfig(SinkConfig):
    """Results to a broker, MQTT 5, at least once, from the store. Receivers tell repetitions by ``key``.

    Topics: TOPIC/inspection/CAMERA, TOPIC/dropped/CAMERA, TOPIC/answer/CAMERA, and TOPIC/status, which is kept by the
    broker as ``online`` or ``offline`` (last will).
    """

    kind: Literal["mqtt"]
    broker: Text = Field(description="mqtt://HOST[:1883], or mqtts://HOST[:8883] with TLS")
    topic: Text = Field(description="what all topics begin with", pattern=r"^[^+#\x00/$][^+#\x00]*$", max_length=200)
    user: Secret | None = Field(None, description="as ${NAME}")
    password: Secret | None = Field(None, description="as ${NAME}; readable on the way unless the broker is mqtts://")
    ca_file: LocalPath | None = Field(None, description="certificates to trust (default: the system's)")
    client_id: Text | None = Field(None, max_length=64, description="default: dskd- and the store's identity")
    keepalive_s: int = Field(15, ge=2, le=3600, description="after one and a half of it the broker says offline")
    acknowledge_s: Seconds = Field(10, description="how long the broker may take to acknowledge")
    expiry_s: int = Field(
        7 * 86400, ge=0, lt=1 << 32, description="how long the broker keeps a message for an absent reader; 0: no end"
    )
    on: list[Verdict] = Field(list(Verdict), description="verdicts told; dropped frames are told always")
    commands: bool = Field(False, description="take triggers and recipe changes from TOPIC/command")

    @field_validator("broker")
    @classmethod
    def _is_a_broker(cls, text: str) -> str:
        split_broker(text)
        return text


def split_broker(text: str) -> tuple[bool, str, int]:
    """Whether TLS is used, host and port. Raises ValueError for what is no broker's address."""
    parts = urlsplit(text)
    if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("is no mqtt://HOST:PORT or mqtts://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise ValueError("user and password do not belong in the address; give user: ${NAME} and password: ${NAME}")
    return parts.scheme == "mqtts", parts.hostname, parts.port or PORTS[parts.scheme]


class MqttTarget:
    """A broker. ``commands`` takes the commands that come from it, where the configuration allows them."""

    kind = "mqtt"

    def __init__(self, config: MqttConfig, identity: str, commands: CommandQueue | None = None) -> None:
        self._paho = paho_module()
        self._config, self._commands = config, commands if config.commands else None
        self._tls, self._host, self._port = split_broker(config.broker)
        self._name = config.client_id or f"dskd-{identity}"
        self._client: Any = None
        self._stopping = False
        self._window = ON_THE_WAY  # or fewer, where the broker says so
        self._largest = LARGEST_PAYLOAD  # or fewer bytes: a broker ends the connection over a packet that is too large
        self._changed = threading.Condition()  # guards what paho's thread tells
        self._connected: Any = None  # the broker's answer to our connecting, None before it
        self._lost = ""
        self._acknowledged: dict[int, Any] = {}
        self._replies: set[int] = set()

    def open(self) -> None:
        """Connects and says that we are online."""
        paho = self._paho
        self._connected, self._lost = None, ""
        self._acknowledged, self._replies = {}, set()
        self._client = client = bounded_client(paho, self._name, self._fall)
        client.connect_timeout = CONNECT_PATIENCE
        client.max_inflight_messages_set(ON_THE_WAY)
        if self._config.user is not None or self._config.password is not None:
            client.username_pw_set(_secret(self._config.user), _secret(self._config.password))
        if self._tls:
            use_tls(client, self._config.broker, self._config.ca_file)
        client.will_set(f"{self._config.topic}/status", "offline", qos=1, retain=True)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish, client.on_message = self._on_publish, self._on_message
        try:
            limits = self._properties("CONNECT")
            limits.MaximumPacketSize = LARGEST_PACKET
            client.connect(self._host, self._port, self._config.keepalive_s, clean_start=True, properties=limits)
        except (OSError, ValueError) as error:
            raise connection_failure(self._config.broker, self._config.ca_file, error) from error
        client.loop_start()
        self._await_connection()
        if self._commands is not None:
            options = paho.SubscribeOptions(qos=2, retainHandling=2)  # a command kept from last week is no command
            client.subscribe(f"{self._config.topic}/command", options=options)
        self._await(self._publish("status", b"online", retain=True), self._config.acknowledge_s)

    def wants(self, record: Record) -> bool:
        """By verdict."""
        return record.verdict is None or record.verdict in self._config.on

    def deliver(self, records: Sequence[Record], done: Done) -> None:
        """Publishes as many records at once as the broker takes, and waits for their acknowledgements in order."""
        for start in range(0, len(records), self._window):
            sent = [(record, self._send(record)) for record in records[start : start + self._window]]
            for record, message in sent:
                code = self._await(message, self._config.acknowledge_s)
                if not code.is_failure:
                    done(record)
                elif code.value in _REFUSED_FOR_GOOD:
                    done(record, refused=str(code))
                else:
                    raise self._refusal(code)

    def check(self) -> None:
        """Raises where paho's thread saw the connection go."""
        with self._changed:
            if self._lost:
                raise DeliveryFailed(f"{self._config.broker}: connection lost ({self._lost})")

    def interrupt(self) -> None:
        """Ends all waits, and takes no more commands."""
        if self._commands is not None:
            self._commands.stop()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def close(self) -> None:
        """Says offline where the connection still stands, and disconnects."""
        client, self._client = self._client, None
        if client is None:
            return
        if client.is_connected() and not self._lost:
            message = client.publish(f"{self._config.topic}/status", b"offline", qos=1, retain=True).mid
            with self._changed:
                self._changed.wait_for(lambda: message in self._acknowledged or bool(self._lost), FAREWELL)
        client.disconnect()
        client.loop_stop()

    # ------------------------------------------------------------------------------------------------ on the way out

    def _send(self, record: Record) -> int:
        return self._publish(f"{record.kind}/{topic_level(record.source)}", payload(record, self._largest))

    def _publish(self, topic: str, data: bytes, retain: bool = False) -> int:
        properties = self._properties("PUBLISH")
        if self._config.expiry_s and not retain:
            properties.MessageExpiryInterval = self._config.expiry_s
        if not retain:
            properties.PayloadFormatIndicator, properties.ContentType = 1, "application/json"
        name = f"{self._config.topic}/{topic}"
        return int(self._client.publish(name, data, qos=1, retain=retain, properties=properties).mid)

    def _properties(self, packet: str) -> Any:
        return self._paho.Properties(getattr(self._paho.PacketTypes, packet))

    def _await(self, message: int, patience: float) -> Any:
        """The broker's answer to a message. ``on_publish`` brings it; paho's own wait raises once a connection broke."""
        with self._changed:
            self._changed.wait_for(lambda: message in self._acknowledged or self._lost or self._stopping, patience)
            if message in self._acknowledged:
                return self._acknowledged.pop(message)
            if self._stopping:
                raise DeliveryFailed(f"{self._config.broker}: stopped")
            why = f"connection lost ({self._lost})" if self._lost else f"acknowledged nothing for {patience:g} s"
            raise DeliveryFailed(f"{self._config.broker}: {why}")

    def _await_connection(self) -> None:
        end = time.monotonic() + CONNECT_PATIENCE
        with self._changed:
            done = lambda: self._connected is not None or self._lost or self._stopping  # noqa: E731
            self._changed.wait_for(done, max(end - time.monotonic(), 0))
            answer = self._connected
        if answer is None:
            raise DeliveryFailed(f"{self._config.broker}: {self._lost or 'speaks no MQTT 5, or is too busy to answer'}")
        if answer.is_failure:
            raise self._refusal(answer)

    def _refusal(self, code: Any) -> DeliveryFailed:
        mend = "; check user, password and the broker's access rules" if code.value in (0x86, 0x87) else ""
        return DeliveryFailed(f"{self._config.broker}: refuses us ({code}){mend}", hopeless=code.value in _HOPELESS)

    # -------------------------------------------------------------------------------------------- from paho's thread

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, code: Any, properties: Any) -> None:
        most = getattr(properties, "ReceiveMaximum", ON_THE_WAY) or ON_THE_WAY
        packet = getattr(properties, "MaximumPacketSize", 0) or 2 * LARGEST_PAYLOAD
        with self._changed:
            self._window = min(ON_THE_WAY, most)
            self._largest = min(LARGEST_PAYLOAD, packet - OVERHEAD)
            self._connected = code
            self._changed.notify_all()

    def _on_disconnect(self, _client: Any, _userdata: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._fall("the broker went away" if code.value == _UNSPECIFIED else str(code))

    def _fall(self, why: str) -> None:
        with self._changed:
            self._lost = self._lost or why
            self._changed.notify_all()

    def _on_publish(self, _client: Any, _userdata: Any, message: int, code: Any, _properties: Any) -> None:
        with self._changed:
            if message in self._replies:
                self._replies.discard(message)
            else:
                self._acknowledged[message] = code
            self._changed.notify_all()

    def _on_message(self, client: Any, _userdata: Any, message: Any) -> None:
        if self._commands is not None and not message.retain:
            self._commands.take(message.payload, lambda reply: self._reply(client, reply))

    def _reply(self, client: Any, reply: bytes) -> None:
        """From paho's thread or the command queue's. A broker that acknowledges nothing must not fill the memory."""
        if len(self._replies) >= MOST_REPLIES:
            return
        message = int(client.publish(f"{self._config.topic}/reply", reply, qos=1).mid)
        with self._changed:  # not around the publishing: paho's thread holds its own lock when it tells of messages
            if self._acknowledged.pop(message, None) is None:
                self._replies.add(message)


def topic_level(name: str) -> str:
    """A camera's name, or a source's address, as one level of a topic."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-")[:128] or "camera"


def _secret(text: str | None) -> str | None:
    return None if text is None else reveal(text)


def _fields(uri: str) -> Fields:
    address, _, settings = uri.partition("?")
    parts = urlsplit(address)
    return {"broker": f"{parts.scheme}://{parts.netloc}", "topic": parts.path.strip("/") or "dskd", **options(settings)}


def _opened(config: MqttConfig, context: SinkContext) -> MqttTarget:
    if config.commands and context.station is None:
        raise CallError(f"sink {context.name}: commands are for a station; dskd runtime takes none")
    commands = CommandQueue(context.station) if config.commands and context.station else None
    return MqttTarget(config, context.identity, commands)


KIND = SinkKind(MqttConfig, "mqtt://HOST/TOPIC?user=${NAME}&password=${NAME}", _fields, target=_opened)
