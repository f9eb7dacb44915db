"""Drills of what stands behind a network: a broker that is down, a browser that never reads."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dskd.benchmarks.lab.station.broker import Broker
from dskd.benchmarks.lab.station.drill import Drill, Fault, count, free_port, scratch, wait_until
from dskd.runtime.errors import DskdError

FPS = 5.0
IDLE_READERS = 4


class Subscriber:
    """Counts what reaches the far side of a broker."""

    def __init__(self, port: int, topic: str) -> None:
        import paho.mqtt.client
        from paho.mqtt.enums import CallbackAPIVersion

        mqtt: Any = paho.mqtt.client
        self.keys: list[str] = []
        self._lock = threading.Lock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "drill-reader", protocol=mqtt.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{topic}/inspection/#", qos=1)
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)
        session = mqtt.Properties(mqtt.PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600  # the broker keeps what comes while this reader is away
        self._client.connect_async("127.0.0.1", port, 10, clean_start=False, properties=session)
        self._client.loop_start()

    def _take(self, client: object, data: object, message: object) -> None:
        payload: bytes = message.payload  # type: ignore[attr-defined]
        with self._lock:
            self.keys.append(json.loads(payload)["key"])

    def stop(self) -> None:
        """Ends it."""
        self._client.disconnect()
        self._client.loop_stop()


def broker_down(bundle: Path, outage: float) -> Fault:
    """The MQTT broker is killed and comes back; what was inspected meanwhile is delivered from the store."""
    with scratch() as folder:
        broker = Broker(folder)
        broker.start()
        reader = Subscriber(broker.port, "drill")
        sinks = {"mes": {"kind": "mqtt", "broker": f"mqtt://127.0.0.1:{broker.port}", "topic": "drill"}}
        try:
            with Drill(folder, bundle, f"test://pattern?size=320x240&fps={FPS:g}", sinks=sinks) as drill:
                wait_until(lambda: reader.keys, "a first delivery")
                broker.kill()
                detected = wait_until(lambda: drill.part("mes").health != "ok", "detection")
                time.sleep(outage)
                before = len(reader.keys)
                broker.start()
                recovered = wait_until(lambda: drill.part("mes").health == "ok", "reconnection")
                recovered += wait_until(lambda: len(reader.keys) > before, "delivery")
                sinks_status = drill.station.sinks
                assert sinks_status is not None
                drill.settle()
                wait_until(lambda: not sinks_status.deliveries[0].status().behind, "catching up")
                fault = drill.account("broker down", detected, recovered)
            stored = count(folder / "data" / "store.db", "inspections")
            with suppress(DskdError):
                wait_until(lambda: len(set(reader.keys)) >= stored, "delivery to the reader", 15)
            unique = len(set(reader.keys))
            duplicates = len(reader.keys) - unique
            return Fault(**{**fault.as_dict(), "lost": fault.lost + stored - unique, "duplicates": duplicates})  # type: ignore[arg-type]
        finally:
            reader.stop()
            broker.kill()


def idle_reader(bundle: Path, outage: float) -> Fault:
    """Browsers that ask and never read. Detected: the server ends them. Recovered: the page answers somebody else."""
    from dskd.runtime.web.page import make_page, start_page

    port = free_port()
    web = {"listen": f"127.0.0.1:{port}"}
    with scratch() as folder, Drill(folder, bundle, f"test://pattern?size=320x240&fps={FPS:g}", web=web) as drill:
        page = make_page(drill.station)
        if page is None:
            raise DskdError("drill: there is no page")
        start_page(page, drill.station)
        try:
            idle = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(IDLE_READERS)]
            for link in idle:
                link.setblocking(False)
            seen = drill.camera().inspected
            detected = wait_until(lambda: not any(map(flood, idle)), "ending of idle readers")
            recovered = wait_until(lambda: answers(port), "an answer of the page")
            if drill.camera().inspected <= seen:
                raise DskdError("drill: inspection stood still behind a browser")
            return drill.account("web client that never reads", detected, recovered)
        finally:
            for link in idle:
                link.close()
            page.stop()


def flood(link: socket.socket) -> bool:
    """Asks again; whether the connection still stands."""
    try:
        link.send(b"GET /static/app.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def answers(port: int) -> bool:
    """Whether the page answers a client that reads."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as link:
            link.settimeout(2)
            link.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return link.recv(12).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
