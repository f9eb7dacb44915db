"""The page's server: an own thread with an own event loop, on loopback unless the station file says otherwise."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from dataclasses import dataclass
from pathlib import Path

from dskd.runtime.configuration.fields import split_address
from dskd.runtime.errors import CallError, MissingPart
from dskd.runtime.listening import listen_at, written
from dskd.runtime.station.control import StationControl
from dskd.runtime.store import Store
from dskd.runtime.web.addresses import shown_at
from dskd.runtime.web.archive import Archive
from dskd.runtime.web.auth import Authenticator
from dskd.runtime.web.token import load_token

START_SECONDS = 10.0
STOP_SECONDS = 5.0
LONGEST_HEAD = 16 << 10  # bytes of request line and headers
KEEP_ALIVE_SECONDS = 10


@dataclass(frozen=True)
class WebOptions:
    """Where the page listens, where its token lies, and when shifts begin in local time.

    ``public_url``: what browsers see where a proxy stands before the page; ``trusted_proxies``: addresses and networks
    whose word on clients is taken.
    """

    listen: str
    token_file: Path
    shifts: tuple[str, ...] = ()
    public_url: str | None = None
    trusted_proxies: tuple[str, ...] = ()


class WebServer:
    """Serves the page of one station until ``stop``. Sees the station through its control and its store alone."""

    def __init__(
        self, options: WebOptions, control: StationControl, store: Store, archive: Archive | None = None
    ) -> None:
        """Opens the listening socket; who comes before ``start`` waits. Raises DskdError where the address or the token file cannot be used."""
        try:
            import starlette  # noqa: F401
            import uvicorn
        except ImportError as error:
            raise MissingPart(f"the page needs {error.name}; install it with: pip install 'dskd-edge[line]'") from error
        from dskd.runtime.web.app import build
        from dskd.runtime.web.app_state import AppState
        from dskd.runtime.web.connections import WatchedConnection
        from dskd.runtime.web.visitor import Entrance, network_of, origin_of

        try:
            host, port = split_address(options.listen)
        except ValueError as error:
            raise CallError(f"web.listen: {error}") from error
        beyond = not ipaddress.ip_address(host).is_loopback
        self._options = options
        self._socket = listen_at(host, port, "web page", "web.listen")
        try:
            self.address: tuple[str, int] = self._socket.getsockname()[:2]
            door = Authenticator(load_token(options.token_file), viewing_is_free=not beyond)
            cookie = f"dskd-{self.address[1]}"  # browsers keep one jar for all ports of a host
            address = shown_at(host, self.address[1], options.public_url)
            self._state = AppState(control, store, archive, door, cookie, options.shifts, address)
            names = None if beyond else ("localhost", "127.0.0.1", "::1", host)
            origin = "" if options.public_url is None else origin_of(options.public_url)
            proxies = tuple(network_of(text) for text in options.trusted_proxies)
            app, self.endpoints = build(self._state, Entrance(names, origin, proxies))
        except BaseException:
            self._socket.close()
            raise
        config = uvicorn.Config(
            app, http=WatchedConnection, ws="none", lifespan="off", loop="asyncio", log_config=None, log_level="error",
            access_log=False,
            server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=2, h11_max_incomplete_event_size=LONGEST_HEAD,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        return f"http://{written(*self.address)}/"

    @property
    def token_file(self) -> Path:
        """Where the token lies."""
        return self._options.token_file

    def sign_in_link(self) -> str:
        """An address that signs a person in, once and within ten minutes. It is a secret."""
        return self._state.sign_in_link()

    def use_archive(self, archive: Archive) -> None:
        """Shows the pictures that this one keeps; before ``start``."""
        self._state.archive = archive

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stops answering and waits for what is under way; may be called again."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)
            self._server.force_exit = True
            self._thread.join(STOP_SECONDS)
        self._socket.close()
        self._state.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))
