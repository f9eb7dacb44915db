"""A paho client that no broker can hurt: TLS with one clear line, packets and queues bounded, no thread that dies unseen."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dskd.runtime.errors import MissingPart, one_line
from dskd.runtime.sinks.delivery import DeliveryFailed

LARGEST_PACKET = 65_536  # bytes that the broker may send us: commands are small
MOST_HALF_TAKEN = 64  # messages of QoS 2 that the broker began and did not end
Lost = Callable[[str], None]


def paho_module() -> Any:
    """The client module of paho. Raises MissingPart where it is not installed."""
    try:
        import paho.mqtt.client
    except ImportError as error:
        raise MissingPart("sink mqtt: paho-mqtt is not installed; pip install 'dskd-edge[line]'") from error
    return paho.mqtt.client


def bounded_client(paho: Any, name: str, lost: Lost) -> Any:
    """An MQTT 5 client that connects once; ``lost`` is told where what the broker sends ends its thread.

    paho announces the largest packet and does not insist on it, keeps messages that are never released, and lets a
    malformed packet end its thread with an exception.
    """

    class Bounded(paho.Client):  # type: ignore[misc, name-defined]
        def _sock_recv(self, size: int) -> Any:
            if size > LARGEST_PACKET or len(self._in_messages) > MOST_HALF_TAKEN:
                raise ConnectionAbortedError("the broker sends more than was agreed")
            return super()._sock_recv(size)

        def loop_forever(self, *arguments: Any, **options: Any) -> Any:
            try:
                return super().loop_forever(*arguments, **options)
            except Exception as error:  # whatever a parser raises on bytes that are no MQTT
                lost(one_line(f"the broker sent what is no MQTT 5 ({type(error).__name__}: {error})"))
                self._sock_close()
                return paho.MQTT_ERR_PROTOCOL

    return Bounded(paho.CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5, reconnect_on_failure=False)


def use_tls(client: Any, broker: str, ca_file: Path | None) -> None:
    """Trusts what ``ca_file`` or, without one, the system holds. Raises DeliveryFailed where the file is none."""
    try:
        client.tls_set(ca_certs=None if ca_file is None else str(ca_file))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = (
            error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "holds no certificate in PEM"
        )
        raise DeliveryFailed(f"{broker}: ca_file {ca_file}: {why}; name the authority's file", hopeless=True) from error


def connection_failure(broker: str, ca_file: Path | None, error: Exception) -> DeliveryFailed:
    """What a failed connection asks of a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = "the system's authorities" if ca_file is None else str(ca_file)
        why = f"its certificate is not trusted by {trusted} ({error.verify_message})"
        return DeliveryFailed(f"{broker}: {why}; name the broker's authority in ca_file", hopeless=True)
    begun = isinstance(error, ssl.SSLError | ConnectionResetError) or "handshake" in str(error)
    if broker.startswith("mqtts") and begun:  # a broker without TLS hangs up, or waits for more
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return DeliveryFailed(f"{broker}: no TLS connection ({why}); check its port, or write mqtt:// without TLS")
    return DeliveryFailed(f"{broker}: cannot be reached ({error})")
