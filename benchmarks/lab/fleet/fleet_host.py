"""What a fleet hangs on, for simulations: a static file host that knows ranges, and mosquitto with its memory on disk."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dskd.runtime.errors import DskdError, MissingPart

PATIENCE = 20.0  # seconds for the broker to answer


class _Handler(http.server.BaseHTTPRequestHandler):
    """GET with ``Range: bytes=N-``."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Sends the file from the asked byte on."""
        file = self.folder / Path(urlsplit(self.path).path).name
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        begin = self.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
        start = int(begin) if begin.isdecimal() else 0
        if start >= len(data) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:])

    def log_message(self, *_: object) -> None:
        """Silent."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class FileHost:
    """A static file host on this machine, over ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.handler = type("Handler", (_Handler,), {"folder": folder})
        self._server: _Server | None = _Server(("127.0.0.1", 0), self.handler)
        self.port = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self._serve()

    def _serve(self) -> None:
        assert self._server
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="file-host", daemon=True).start()

    def restart(self, away: float = 0.0) -> None:
        """Gone for so many seconds, then back at the same address."""
        self.close()
        time.sleep(away)
        self._server = _Server(("127.0.0.1", self.port), self.handler)
        self._serve()

    def close(self) -> None:
        """Ends it."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Broker:
    """mosquitto on this machine, keeping what it holds in ``folder``."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise MissingPart("mosquitto is not installed; sudo apt install mosquitto")
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = folder / "mosquitto.conf"
        user = "user root\n" if os.geteuid() == 0 else ""
        settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n{user}persistence true\n"
            f"persistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\n"
        )
        self.address = f"mqtt://127.0.0.1:{self.port}"
        self._words = [found, "-c", str(settings)]
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise DskdError(f"mosquitto does not answer at port {self.port}")

    def restart(self) -> None:
        """Killed, and started again."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._start()

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

    def close(self) -> None:
        """Ends it."""
        if self._process:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None
