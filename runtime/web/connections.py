"""Connections that get nowhere are ended: clients that never read, never finish asking, or only hold a place."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 128  # a page uses two or three
STALLED_SECONDS = 15.0
REQUEST_SECONDS = 30.0  # for all of a request, however steadily it trickles in; the longest is a few kilobytes
CHECK_SECONDS = 2.0


class WatchedConnection(H11Protocol):
    """Ends itself when for ``STALLED_SECONDS`` neither a byte came nor one of those waiting went out.

    Also when a request has begun and is not whole after ``REQUEST_SECONDS``.

    An idle keep-alive connection is ended by uvicorn's own timer. What is being worked on here is left alone.
    """

    _moved = 0.0
    _ended = False  # to make room; it is gone in a moment
    _begun: float | None = None  # when the request that is not whole yet began
    _left = 0
    _check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room where there are too many connections; refuses this one where all others are being answered."""
        if len(self.connections) >= MOST_CONNECTIONS and not self._make_room():
            transport.abort()
            return
        super().connection_made(transport)
        self._moved = time.monotonic()
        self._check = self.loop.call_later(CHECK_SECONDS, self._end_if_stalled)

    def _make_room(self) -> bool:
        """Ends the connection that was still longest, of the client that has most of those that are owed no answer."""
        idle = [c for c in self.connections if isinstance(c, WatchedConnection) and not c._answering() and not c._ended]
        if not idle:
            return False
        held = Counter(_host(c) for c in idle)
        victim = min(idle, key=lambda c: (-held[_host(c)], c._moved))
        victim._ended = True
        victim.transport.abort()
        return True

    def data_received(self, data: bytes) -> None:
        """Notes that the client is alive."""
        if self.flow is None:  # refused; what was on its way is not read
            return
        self._moved = time.monotonic()
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # uvicorn's own 400 where none can be sent: to a HEAD, into a begun answer
            self.transport.abort()
            return
        if not self._asking():
            self._begun = None
        elif self._begun is None:
            self._begun = self._moved

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops watching."""
        if self._check is not None:
            self._check.cancel()
        if self.flow is not None:
            super().connection_lost(exc)

    def _end_if_stalled(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting != self._left or (waiting == 0 and self._answering()):
            self._moved = time.monotonic()
        self._left = waiting
        now = time.monotonic()
        if now - self._moved > STALLED_SECONDS or (self._begun is not None and now - self._begun > REQUEST_SECONDS):
            self.transport.abort()
            return
        self._check = self.loop.call_later(CHECK_SECONDS, self._end_if_stalled)

    def _asking(self) -> bool:
        """Whether a part of a request is here and another is not."""
        state = self.conn.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def _answering(self) -> bool:
        """Whether the application has the whole request and owes the answer."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body


def _host(connection: WatchedConnection) -> str:
    return connection.client[0] if connection.client else ""
