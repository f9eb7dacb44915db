"""A thread that captures from one camera, opens it anew when it is lost, and accounts for every frame."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from dskd.runtime.backoff import Backoff
from dskd.runtime.capture.frame_health import FrameHealth
from dskd.runtime.capture.frame_queue import Counts, FrameQueue, Listener, Policy
from dskd.runtime.capture.sources.base import Source, SourceEnded, SourceLost
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Dropped, Frame
from dskd.runtime.status import Status

State = Literal["opening", "running", "lost", "ended", "stopped"]

PATIENCE = 3.0  # seconds without a frame that is due before the camera counts as lost
MOST_PENDING = 16  # triggers that wait for their frame; more means that the camera cannot keep pace
_FIRST_FRAME = 10.0  # seconds: a stream can be decoded from its next key frame on, and some send one every few seconds
_LONGEST_PAUSE = 5.0  # seconds between two attempts: a station waits for its camera, and one port bears that
_POLL = 0.2  # seconds of one read: bounds how long a stop takes
_STEADY = 5.0  # seconds a camera must run before its next loss counts as a first one
_HANGS = 60.0  # seconds without a sign of life; opening and closing a dead camera take some
_JOIN = 15.0  # seconds; longer than any source takes to give up opening


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptureStatus:
    """One capture at one moment. ``since`` (seconds since the epoch) is when ``state`` began.

    ``fault`` is why the newest frame was not sound, empty where it was; ``live`` is whether a camera made it, which will
    make the next one soon, or a file, which may be the last for long. ``unasked`` frames of a triggered camera that
    runs freely belong to no part; they are in no other count. A part that was triggered and whose frame never came
    counts as captured and dropped.
    """

    state: State
    detail: str
    since: float
    fault: str
    counts: Counts
    unasked: int
    pending: int
    reconnects: int
    live: bool = True


@dataclass(frozen=True)
class CaptureSettings:
    """How one camera is captured.

    ``policy``: ``latest`` keeps the newest frame alone, ``every`` up to ``depth`` and drops what comes beyond. Frames of
    parts are always kept like ``every``, and sources that can wait (files) are read no faster than frames are taken.
    ``triggered``: only frames that a part asked for by ``trigger`` are handed out.
    ``patience``: seconds; None where frames come at any time (a camera whose input line starts the exposure).
    ``reopens``: a lost camera is opened anew; otherwise its loss is the end, and ``failure`` says why.
    """

    policy: Policy = "latest"
    depth: int = 16
    triggered: bool = False
    patience: float | None = PATIENCE
    reopens: bool = True


class Capture:
    """Captures from the camera ``name``.

    ``make_source``: called for each connection; a lost source is closed and never used again. ``listener`` hears from the
    capture thread whenever ``take`` has something new.
    """

    def __init__(
        self,
        name: str,
        make_source: Callable[[], Source],
        settings: CaptureSettings,
        *,
        health: FrameHealth | None = None,
        listener: Listener | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.name, self.settings = name, settings
        self._make_source, self._health = make_source, health
        self._backoff = backoff or Backoff(most=_LONGEST_PAUSE)
        self._queue = FrameQueue(settings.policy, settings.depth, listener)
        self._changed = threading.Condition()  # guards what follows
        self._pending: deque[tuple[str, float]] = deque()  # part and when it was triggered, by the monotonic clock
        self._asked = False  # the device was told to give one frame and has not yet
        self._status: Status[State] = Status(
            f"camera {name}", "opening", "not started", log if settings.reopens else None
        )
        self._fault, self._live = "", True
        self._reconnects = self._unasked = 0
        self._stopping = False
        self._beat = time.monotonic()
        self.failure: Exception | None = None  # what the camera was lost by last
        self._thread = threading.Thread(target=self._run, name=f"capture {name}", daemon=True)

    def start(self) -> None:
        """Starts the thread; returns at once. A camera that is absent is waited for."""
        self._thread.start()

    def take(self, timeout: float = 0.0) -> Frame | Dropped | None:
        """The next frame to inspect or the record of a dropped one; None where none came in ``timeout`` seconds.

        Its ``source`` is the camera's name. What was captured before ``stop`` can still be taken after it.
        """
        return self._queue.take(timeout)

    def trigger(self, part: str) -> None:
        """Asks for the frame of ``part``: that frame, or a Dropped, comes out of ``take`` with this part.

        Raises DskdError, and nothing will come, where the camera is not running or too many parts wait.
        """
        with self._changed:
            if not self.settings.triggered:
                raise DskdError(f"camera {self.name}: runs freely; give it a trigger in the station file")
            now = self._status.now
            if now.state != "running":
                raise DskdError(f"camera {self.name}: not ready ({now.state}: {now.detail})")
            if len(self._pending) >= MOST_PENDING:
                raise DskdError(f"camera {self.name}: busy, {MOST_PENDING} parts wait for their frame; trigger slower")
            self._pending.append((part, time.monotonic()))
            self._changed.notify_all()

    def status(self) -> CaptureStatus:
        """The present state and counts."""
        counts = self._queue.counts()
        with self._changed:
            now = self._status.now
            return CaptureStatus(
                now.state,
                now.detail,
                now.since,
                self._fault,
                counts,
                self._unasked,
                len(self._pending),
                self._reconnects,
                self._live,
            )

    @property
    def alive(self) -> bool:
        """Whether the thread does its work: it waits, captures, or has ended as it should. A driver may hang for ever."""
        if self._thread.ident is None or self._status.now.state in ("ended", "stopped"):
            return True
        return self._thread.is_alive() and time.monotonic() - self._beat < _HANGS

    def stop(self) -> bool:
        """Stops capturing and closes the camera; whether that was done in time. May be called again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._queue.close()
        if self._thread.ident is not None:
            self._thread.join(_JOIN)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------------------------------- the capture thread

    def _run(self) -> None:
        while not self._stopping:
            started = self._beat = time.monotonic()
            try:
                self._connection()
            except SourceEnded as ended:
                self._enter("ended", str(ended))
                self._give_up_parts(Reason.ENDED, "the source gave all it had")
                return
            except Exception as error:  # a camera's library may raise anything; this thread must outlive it
                self._lose(error)
            if self.failure is not None and not self.settings.reopens:
                return
            if time.monotonic() - started > _STEADY:
                self._backoff.reset()
            delay = self._backoff.delay()
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, delay)
        self._enter("stopped", "stopped")
        self._give_up_parts(Reason.STOPPED, "the station stops")

    def _connection(self) -> None:
        """Opens the source and captures from it until it is lost or ``stop`` is called."""
        self._asked = False
        source = self._make_source()
        try:
            source.open()
            session = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}{time.time_ns() // 1_000_000 % 1000:03}"
            asks = self.settings.triggered and source.triggerable
            if asks or not source.live or self.settings.patience is None:
                self._enter("running", f"{source.uri} is ready")  # its first frame may be long in coming
            last, patience = time.monotonic(), self.settings.patience or 0.0
            if not asks:
                patience = max(_FIRST_FRAME, patience)
            while not self._stopping:
                captured = self._read(source, asks)
                now = self._beat = time.monotonic()
                if captured is not None:
                    frame_id = f"{session}-{captured.id}" if source.live else captured.id  # numbers start anew
                    self._accept(replace(captured, source=self.name, id=frame_id), source, asks)
                    last, patience = now, self.settings.patience or 0.0
                elif not (self._asked if asks else source.live):
                    last = now  # none is due
                elif self.settings.patience is not None and now - last > patience:
                    raise SourceLost(f"source {source.uri}: no frame for {patience:g} seconds; check the camera")
        except SourceEnded:
            raise
        except Exception as error:
            self._lose(error)  # before closing: that may take seconds, and parts wait
        finally:
            self._close(source)

    def _close(self, source: Source) -> None:
        try:
            source.close()
        except Exception:
            if self._status.now.state != "lost":  # what it was lost by tells more
                raise

    def _lose(self, error: Exception) -> None:
        self.failure = error
        reason = one_line(str(error) if isinstance(error, DskdError) else f"{type(error).__name__}: {error}")
        self._enter("lost", reason)
        self._give_up_parts(Reason.CAMERA_LOST, reason)

    def _read(self, source: Source, asks: bool) -> Frame | Dropped | None:
        """One read, after asking the device for the frame of the next part."""
        if not source.live and not self._queue.wait_for_room(_POLL):
            return None
        if not asks:
            return source.read(_POLL)
        with self._changed:
            waiting = self._changed.wait_for(lambda: self._stopping or self._pending, 0 if self._asked else _POLL)
        if waiting and not self._asked and not self._stopping:
            source.trigger()
            self._asked = True
        return source.read(_POLL if self._asked else 0.0)

    def _accept(self, captured: Frame | Dropped, source: Source, asks: bool) -> None:
        """Judges the frame's health, gives it its part and hands it on."""
        fault = self._fault_of(captured, source.live)
        self._enter("running", f"{source.uri} delivers")
        with self._changed:
            self._fault, self._live = "" if fault is None else str(fault), source.live
            part = self._part_of(captured, asks) if self.settings.triggered else None
            if self.settings.triggered and part is None and not asks:
                self._unasked += 1
                return
        if self.settings.triggered and part is None and fault is None:
            fault = NotInspected(Reason.UNASKED, "no part asked for this frame")
        if isinstance(captured, Dropped):
            self._queue.put(replace(captured, part=part))
        elif fault is not None:
            self._queue.put(replace(captured.dropped(fault.reason, fault.detail), part=part))
        else:
            self._queue.put(replace(captured, part=part), replaceable=source.live)

    def _fault_of(self, captured: Frame | Dropped, live: bool) -> NotInspected | None:
        if isinstance(captured, Dropped):
            return NotInspected(captured.reason, captured.detail)
        return None if self._health is None else self._health.fault(captured.image, live)

    def _part_of(self, captured: Frame | Dropped, asks: bool) -> str | None:
        """The part that waits longest, if this frame was exposed after its trigger. Called with the lock held."""
        if asks:
            asked, self._asked = self._asked, False
            return self._pending.popleft()[0] if asked and self._pending else None
        exposed = time.monotonic() - (time.time() - captured.captured)  # the wall clock may be set at any time
        return self._pending.popleft()[0] if self._pending and self._pending[0][1] <= exposed else None

    def _give_up_parts(self, reason: Reason, detail: str) -> None:
        """Every part that still waits for its frame gets a Dropped instead."""
        with self._changed:
            parts = [part for part, _ in self._pending]
            self._pending.clear()
        for part in parts:
            self._queue.put(Dropped(self.name, f"no-frame-{part}", time.time(), reason, detail, part))

    def _enter(self, state: State, detail: str) -> None:
        before = self._status.now.state
        if self._status.enter(state, detail):
            with self._changed:
                self._reconnects += (before, state) == ("lost", "running")
