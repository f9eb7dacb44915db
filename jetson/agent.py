"""The agent: takes updates, watches a new bundle at the line, confirms or rolls back, and tells the fleet."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Protocol

from dskd.jetson.download import Fetcher, NoRoom, NotFetched
from dskd.jetson.engine_builder import NotNow, builder
from dskd.jetson.fleet_config import FleetConfig
from dskd.jetson.fleet_link import FleetLink
from dskd.jetson.inventory import inventory
from dskd.jetson.live_check import judge
from dskd.jetson.signing import Refused
from dskd.jetson.slots import Slots
from dskd.jetson.update import Updater
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.store import StoreError, StoreReader

ALIVE = 5  # parts inspected since the last start: the bundle on trial did not kill the station
WATCH = 5.0  # seconds between two looks at a bundle on trial


class Link(Protocol):
    """What the agent needs of a broker."""

    def tell(self, what: str, fields: dict[str, object]) -> None:
        """Publishes."""
        ...

    def announced(self) -> bytes | None:
        """The newest announcement since the last call."""
        ...


class Agent:
    """One device's agent. ``step`` does what is due and says how long to wait."""

    def __init__(
        self, config: FleetConfig, slots: Slots, link: Link | None, say: Callable[[str], None] | None = None
    ) -> None:
        self.config, self.slots, self.link = config, slots, link
        self.stopping = threading.Event()
        self.say = say or say_to_log
        fetcher = Fetcher(config.source, config.source_ca_file, pause=self._pause)
        self.updater = Updater(slots, fetcher, builder(config.engine, config.build), self._cursor, self._switched)
        self._last = ""
        self._due = 0.0
        self._lived: int | None = None  # parts that the bundle on trial had inspected when it was last found alive
        self._raw: bytes | None = None

    def step(self, now: float) -> float:
        """Looks at what is on trial, then at what is new; returns the seconds until the next look."""
        announced = self.link.announced() if self.link else None
        if announced is not None:
            self._raw = announced
        if self._watch():
            if now >= self._due:  # whatever is announced: anybody may do that, and an old statement is a true one
                self._update(None)
                self._due = now + self.config.every_s
            if self._raw is not None and self._free():
                raw, self._raw = self._raw, None
                self._update(raw)
        if self.link:
            self.link.tell("inventory", inventory(self.config.device, self.slots))
        watching = self.slots.read().trial is not None
        return min(WATCH, self.config.every_s) if watching else self.config.every_s

    def _pause(self, seconds: float) -> None:
        self.stopping.wait(seconds)

    def stop(self) -> None:
        """Ends ``step`` soon, also while it fetches. May be called from a signal handler."""
        self.stopping.set()
        self.updater.fetcher.cut()

    def _free(self) -> bool:
        return not self.stopping.is_set() and self.slots.read().trial is None

    def _update(self, raw: bytes | None) -> None:
        """Takes what ``raw`` announces, None for what the source has."""
        try:
            outcome = self.updater.run(raw)
            self._tell(outcome.action, outcome.detail)
        except Refused as error:
            self._tell("refused", str(error))
        except (NotFetched, NoRoom, NotNow) as error:
            self._tell("waiting", str(error))
        except DskdError as error:
            self._tell("failed", str(error))
        except OSError as error:
            self._tell("failed", f"{error}; check the disk, the path and its rights")

    def _watch(self) -> bool:
        """Judges the bundle on trial. Whether the way is free for another."""
        trial = self.slots.read().trial
        if trial is None:
            return True
        if self.config.store is None:
            self._tell("on trial", f"version {trial.version} waits for: dskd jetson slots confirm")
            return False
        try:
            judgement = judge(self.config.store, trial, self.config.live)
        except StoreError as error:
            self._tell("on trial", str(error))
            return False
        if judgement.verdict == "wait":
            if self._lived is None:
                self._lived = judgement.inspected  # what it inspected before this start of the device says nothing
            if judgement.inspected >= self._lived + ALIVE:
                self._lived = judgement.inspected
                self.slots.alive()
            return False
        self._lived = None
        if judgement.verdict == "good":
            self.slots.confirm()
            self._tell("confirmed", f"version {trial.version}: {judgement.detail}")
        else:
            self.slots.roll_back(f"at the line: {judgement.detail}")
            self._switched()
            self._tell("rolled back", f"version {trial.version}: {judgement.detail}")
        return True

    def _tell(self, what: str, detail: str) -> None:
        """Says a thing once, however often it is found."""
        text = f"{what}: {one_line(detail)}"
        if text != self._last:
            self._last = text
            self.say(text)
            if self.link:
                self.link.tell("event", {"device": self.config.device, "event": what, "detail": one_line(detail)})

    def _cursor(self) -> int:
        """The store's newest record; a store that is not there yet begins at 0."""
        if self.config.store is None or not self.config.store.exists():
            return 0
        reader = StoreReader(self.config.store)
        try:
            return reader.newest()
        finally:
            reader.close()

    def _switched(self) -> None:
        """Systemd watches the file and restarts the station."""
        try:
            self.config.switched.write_text("")
        except OSError as error:
            self.say(f"{self.config.switched}: cannot be touched ({error.strerror}); restart the station by hand")


def say_to_log(text: str) -> None:
    """A line for the journal."""
    print(text, file=sys.stderr, flush=True)


def open_link(config: FleetConfig, wake: threading.Event, say: Callable[[str], None] = say_to_log) -> FleetLink | None:
    """The line to the broker, where one is configured."""
    if config.broker is None:
        return None
    link = FleetLink(config.broker, config.device, config.product, wake, say)
    link.start()
    return link
