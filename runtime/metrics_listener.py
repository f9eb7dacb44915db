"""A small HTTP listener for metrics and health: few clients, short patience, nothing else.

It has a thread and places of its own, so whatever happens to the operator's page, a watchdog is answered here. Where all
places are taken, the client that is here longest makes room.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

from dskd.runtime.listening import listen_at

MOST_CLIENTS = 8  # at once; a scraper is one
PATIENCE = 10.0  # seconds for a request and its answer in all
PATH, HEALTH = "/metrics", "/healthz"

_log = logging.getLogger(__name__)


class MetricsListener:
    """Listens from its construction on, serves ``page()`` at ``/metrics`` from ``start`` until ``stop``.

    ``health``: what ``/healthz`` answers, as JSON, and whether all works.
    """

    def __init__(
        self, host: str, port: int, page: Callable[[], bytes], content_type: str,
        health: Callable[[], tuple[bytes, bool]] | None = None,
    ) -> None:  # fmt: skip
        self._server = _Server(host, port, page, content_type, health)
        self.host, self.port = str(self._server.server_address[0]), int(self._server.server_address[1])
        if not ip_address(self.host).is_loopback:
            _log.warning("metrics: %s:%d can be read by the network, without a password", self.host, self.port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Ends all connections and frees the address."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join(5)
        self._server.end_overdue(0)
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that never reads is cut, not waited for
    allow_reuse_address = True

    def __init__(
        self, host: str, port: int, page: Callable[[], bytes], content_type: str,
        health: Callable[[], tuple[bytes, bool]] | None,
    ) -> None:  # fmt: skip
        self.page, self.content_type, self.health = page, content_type, health
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = listen_at(host, port, "metrics", "metrics.listen")
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def verify_request(self, request: object, client_address: object) -> bool:
        """Makes room for one more client."""
        assert isinstance(request, socket.socket)
        with self._lock:
            if len(self._open) >= MOST_CLIENTS:
                longest = min(self._open, key=lambda client: self._open[client])
                del self._open[longest]
                with suppress(OSError):
                    longest.shutdown(socket.SHUT_RDWR)
            self._open[request] = time.monotonic()
        return True

    def shutdown_request(self, request: object) -> None:
        """Called for every request at its end."""
        assert isinstance(request, socket.socket)
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second."""
        self.end_overdue(PATIENCE)

    def end_overdue(self, patience: float) -> None:
        """Cuts clients that are here for longer; their threads end by that."""
        now = time.monotonic()
        with self._lock:
            overdue = [client for client, since in self._open.items() if now - since >= patience]
        for client in overdue:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is none to tell of."""
        _log.debug("metrics: a client went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server_version, sys_version = "dskd", ""
    server: _Server

    def do_GET(self) -> None:
        """The page, or 404."""
        path, health, works = self.path.partition("?")[0], self.server.health, True
        if path != PATH and not (path == HEALTH and health is not None):
            self.send_error(404, "only /metrics and /healthz are here")
            return
        try:
            if path == PATH or health is None:
                data, content_type = self.server.page(), self.server.content_type
            else:
                (data, works), content_type = health(), "application/json"
        except Exception:  # the listener must outlive whatever the station raises
            _log.exception("metrics: the page cannot be made")
            self.send_error(500, "see the log")
            return
        self.send_response(200 if works else 503)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
        """Scrapes are no news."""
