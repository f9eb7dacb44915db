"""Blocking work beside the event loop, in few threads and with a short queue: a station that hangs must not take the
page along, and a crowd of viewers must not take the station along.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Busy(Exception):
    """The work did not start or did not end in time."""


class Calls:
    """Runs blocking functions. More than ``waiting`` unfinished ones, or one slower than its timeout, raise Busy."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"web-{name}")
        self._most = threads + waiting
        self._unfinished = 0
        self._lock = threading.Lock()

    async def run(self, work: Callable[[], T], timeout: float) -> T:
        """What ``work()`` gives. A call that timed out goes on in its thread; its result is thrown away."""
        with self._lock:
            if self._unfinished >= self._most:
                raise Busy("too many requests at once; try again in a moment")
            self._unfinished += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._finished)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except (TimeoutError, asyncio.TimeoutError) as error:  # two classes before Python 3.11
            if future.done() and not future.cancelled() and isinstance(future.exception(), TimeoutError):
                raise  # the work's own
            raise Busy(f"the station did not answer within {timeout:.0f} seconds; look at its log") from error

    def _finished(self, _: Future[Any]) -> None:
        with self._lock:
            self._unfinished -= 1

    def close(self) -> None:
        """Waits for what runs; what waits is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
