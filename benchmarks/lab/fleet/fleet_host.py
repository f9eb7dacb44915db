"""What a fleet hangs on, for simulations: a static file host that knows ranges."""

from __future__ import annotations

import http.server
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


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
