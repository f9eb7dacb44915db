"""A sink beside the line: it writes in a thread of its own, and what comes faster than that is dropped and counted."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.result import Dropped, Result
from dskd.runtime.sinks.base import Sink
from dskd.runtime.sinks.delivery import SinkStatus
from dskd.runtime.status import Health, Status

MOST_WAITING = 64  # results in the queue
MOST_BYTES = 256 << 20  # of pictures in the queue: seven of twelve megapixels
_log = logging.getLogger(__name__)


class Queued:
    """Gives ``sink`` what it wants, one result at a time. Never waited for."""

    def __init__(self, name: str, kind: str, sink: Sink) -> None:
        self.name, self.kind, self.sink = name, kind, sink
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[Result] = deque()
        self._bytes = self._written = self._dropped = 0
        self._stopping = False
        self._status: Status[Health] = Status(f"sink {name}", "ok", "starting", _log)
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def offer(self, result: Result) -> bool:
        """Takes a result that the sink wants. Never waits.

        False where there was no room: then it is dropped and counted.
        """
        if not self.sink.wants(result):
            return True
        size = _bytes(result)
        with self._changed:
            room = len(self._waiting) < MOST_WAITING and self._bytes + size <= MOST_BYTES and not self._stopping
            if room:
                self._waiting.append(result)
                self._bytes += size
                self._changed.notify_all()
            else:
                self._dropped += 1
        return room

    def stop(self, timeout: float = 10.0) -> bool:
        """Writes what waits, closes the sink and ends; whether it did in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is None:
            self._attempt(self.sink.close)
        else:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def status(self) -> SinkStatus:
        """The present state."""
        with self._changed:
            now = self._status.now
            return SinkStatus(
                self.name, self.kind, now.state, now.detail, now.since, self._written, self._dropped,
                len(self._waiting), self._last_error,
            )  # fmt: skip

    # --------------------------------------------------------------------------------------------- the sink's thread

    def _run(self) -> None:
        self._attempt(lambda: self.sink.write([]))
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    break
                result = self._waiting[0]  # counted as waiting until it is written
            done = self._attempt(lambda result=result: self.sink.write([result]))  # type: ignore[misc]
            with self._changed:
                self._waiting.popleft()
                self._bytes -= _bytes(result)
                self._written += done
                self._dropped += not done
        self._attempt(self.sink.close)

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Whether ``work`` went well. The thread outlives whatever it raises."""
        try:
            work()
        except Exception as error:
            known = isinstance(error, DskdError | OSError)
            self._last_error = one_line(str(error) if known else f"{type(error).__name__}: {error}")
            self._status.enter("warning", self._last_error)
            return False
        self._status.enter("ok", self.sink.summary())
        return True


def _bytes(result: Result) -> int:
    """What it holds in memory: the map of a tiled frame is larger than the frame."""
    if isinstance(result, Dropped):
        return 0
    held = result[1].anomaly_map
    return result[0].image.nbytes + (0 if held is None else held.nbytes)
