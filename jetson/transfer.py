"""One GET at a time over a connection that a slow server cannot hold: time limits on the whole and a lowest rate.

A socket's own timeout is per wait, so a byte now and then would satisfy it for ever. Proxies of the environment are not
used: nothing is contacted that is not named.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit

PATIENCE = 20.0  # seconds a server may be silent
ANSWER = 60.0  # seconds for connecting, greeting and the head of the answer, and for a small file in all
WINDOW, LOWEST = 60.0, 60 << 10  # seconds, and bytes that must come in them: 1 kB/s


class Transfer:
    """A connection under watch. ``why`` says why it was cut, empty while it was not."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls, self.why = tls, ""
        self._connection: http.client.HTTPConnection | None = None
        self._handle: socket.socket | None = None  # the connection's own, whatever wraps it
        self._timer: threading.Timer | None = None
        self._came = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def ask(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """The head of the answer; its body follows by ``read``. Raises OSError and HTTPException."""
        self.end()
        parts = urlsplit(url)
        secure, host = parts.scheme == "https", parts.hostname or ""
        self._watch(ANSWER, f"no answer within {ANSWER:g} s")
        link = socket.create_connection((host, parts.port or (443 if secure else 80)), PATIENCE)
        with self._lock:
            self._handle = socket.socket(fileno=os.dup(link.fileno()))
        self._refuse_cut(link)
        connection = http.client.HTTPConnection(host, parts.port or (443 if secure else 80), timeout=PATIENCE)
        connection.sock = self._tls.wrap_socket(link, server_hostname=host) if secure else link
        self._connection = connection
        named = parts.netloc.rpartition("@")[2]
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Host": named, "User-Agent": "dskd", **headers})
        return connection.getresponse()

    def came(self, number: int) -> None:
        """Says that so much of a body came: from the first on, ``LOWEST`` bytes must come in each ``WINDOW``."""
        self._came += number
        if self._came >= LOWEST or self._timer is None or self._timer.interval == ANSWER:
            self._came = 0
            self._watch(WINDOW, f"under {LOWEST >> 10} KB in {WINDOW:g} s")

    def cut(self, why: str) -> None:
        """Ends the connection; whoever waits for it goes on at once."""
        self.why = self.why or why
        if (handle := self._handle) is not None:
            with suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Closes the connection."""
        if self._timer is not None:
            self._timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def _watch(self, seconds: float, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self.cut, (why,))
        self._timer.name, self._timer.daemon = "transfer deadline", True
        self._timer.start()

    def _refuse_cut(self, link: socket.socket) -> None:
        if self.why:  # between connecting and here
            link.close()
            raise OSError(self.why)
