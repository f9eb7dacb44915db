"""Triggers that come by themselves: edges on a GPIO line. All others are calls of ``StationControl.trigger``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dskd.runtime.backoff import Backoff
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.station.config import GpioTrigger
from dskd.runtime.station.control import PartStatus
from dskd.runtime.station.outputs.gpio_lines import InputEdges, LineUnusable
from dskd.runtime.status import Health, Status

TICK = 0.5  # seconds
log = logging.getLogger(__name__)


class EdgeTrigger:
    """Calls ``trigger(part, moment)`` for each edge; ``moment`` is seconds since the epoch. A line that is lost is tried again."""

    def __init__(self, camera: str, config: GpioTrigger, trigger: Callable[[str | None, float], str]) -> None:
        self.name, self._config, self._trigger = f"{camera} trigger", config, trigger
        self._stopping = threading.Event()
        self._status: Status[Health] = Status(self.name, "warning", "the line is not held yet", log)
        self._thread = threading.Thread(target=self._run, name=f"trigger-{camera}", daemon=True)

    def start(self) -> None:
        """Starts listening."""
        self._thread.start()

    def status(self) -> PartStatus:
        """Whether the line is held."""
        now = self._status.now
        return PartStatus(self.name, "gpio", now.state, now.detail, now.since)

    def stop(self) -> None:
        """Ends listening and gives the line back."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        backoff = Backoff(first=0.5, most=10.0)
        while not self._stopping.is_set():
            try:
                self._listen()
            except (LineUnusable, OSError) as error:
                self._status.enter("fault", one_line(str(error)))
                self._stopping.wait(backoff.delay())

    def _listen(self) -> None:
        config = self._config
        edges = InputEdges(config.chip, config.line, config.edge == "rising", config.bounce_ms / 1000, "dskd-trigger")
        try:
            self._status.enter("ok", f"line {config.line} of {config.chip} held")
            while not self._stopping.is_set():
                for age in edges.wait(TICK):
                    try:
                        self._trigger(None, time.time() - age)
                    except DskdError as error:
                        log.warning("%s: %s", self.name, one_line(str(error)))
        finally:
            edges.close()
