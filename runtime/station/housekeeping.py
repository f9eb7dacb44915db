"""What a station does beside the line: deletes old records, checks the store, keeps the clock, watches the disk."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dskd.runtime import atomic
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.station.config import StoreConfig
from dskd.runtime.station.control import PartStatus
from dskd.runtime.status import Health
from dskd.runtime.store import Store
from dskd.runtime.wall_clock import CLOCK, WallClock

CLOCK_FILE = "clock.json"  # beside the store, which may be lost
LARGEST_CLOCK_FILE = 4096  # characters; ours has some hundred
LEAST_FREE_BYTES = 200 << 20  # below it the station warns: the store needs some to go on
EVERY = 60.0  # seconds between deletions
FIRST_CHECK, CHECK_EVERY = 60.0, 86400.0  # seconds after the start, and between looks through the whole store
log = logging.getLogger(__name__)


def kept_clock(store: Store, data: Path) -> str | None:
    """What an earlier start knew of the clock: from the store or, where that was lost, from the file beside it."""
    noted = store.recall(CLOCK)
    if noted is None:
        with suppress(OSError, UnicodeDecodeError), (data / CLOCK_FILE).open() as file:
            return file.read(LARGEST_CLOCK_FILE)
    return noted


class Housekeeping:
    """Two threads that never hold up the line, and what they know of clock and disk."""

    def __init__(self, store: Store, limits: StoreConfig, data: Path, clock: WallClock) -> None:
        self._store, self._limits, self._data, self._clock = store, limits, data, clock
        self._chores: tuple[Callable[[], None], ...] = ()
        self._began = time.time()
        self._logged_doubt = ""
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, name="housekeeping", daemon=True),
            threading.Thread(target=self._check_store, name="store-check", daemon=True),
        ]

    def start(self, *chores: Callable[[], None]) -> None:
        """Begins; before it nothing is deleted. ``chores`` are what else is due once a minute."""
        self._chores = chores
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends both threads and keeps the clock a last time; the store is still open then."""
        self._stopped.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self.keep_clock()

    def keep_clock(self) -> None:
        """Logs whether the clock is believed when that changes, and stores what is known of it."""
        doubt = self._clock.doubt()
        if doubt != self._logged_doubt:
            log.log(logging.WARNING if doubt else logging.INFO, "clock: %s", doubt or "believed again")
            self._logged_doubt = doubt
        try:
            self._store.remember(CLOCK, self._clock.as_kept())
        except DskdError as error:
            log.warning("clock: cannot be kept: %s", one_line(str(error)))
        try:
            atomic.write_text(self._data / CLOCK_FILE, self._clock.as_kept(ids=False))
        except DskdError as error:
            log.info("clock: cannot be kept beside the store: %s", one_line(str(error)))

    def accept_clock(self, who: str) -> None:
        """A person says that the clock is right although it jumped: what is old by it may be deleted again."""
        doubt = self._clock.doubt()
        self._clock.accept()
        self._store.audit(who, "clock", f"accepted: {doubt or 'was believed already'}")
        self.keep_clock()

    def clock_status(self) -> PartStatus:
        """Whether the clock goes evenly, and what to do where it does not."""
        doubt = self._clock.doubt()
        if not doubt:
            return PartStatus("clock", "clock", "ok", "goes evenly", self._began)
        asked = (
            "nothing is deleted by age until then; set it (sudo timedatectl set-ntp true), or where it is right now, "
            "say so on this page or start once with --accept-clock"
        )
        return PartStatus("clock", "clock", "warning", f"{doubt}; {asked}", self._clock.since)

    def disk_status(self) -> PartStatus:
        """Free space where the station keeps its data."""
        try:
            usage = shutil.disk_usage(self._data)
        except OSError as error:
            return PartStatus("disk", "disk", "fault", f"{self._data}: {error.strerror}", self._began)
        text = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free"
        health: Health = "ok" if usage.free > LEAST_FREE_BYTES else "fault"
        return PartStatus("disk", "disk", health, text, self._began)

    def _keep(self) -> None:
        while not self._stopped.wait(EVERY):
            self._delete_old()
            self.keep_clock()
            for chore in self._chores:
                chore()

    def _delete_old(self) -> None:
        """The store must not fill the disk in a year."""
        now, days = self._clock.safe_now(), self._limits.max_age_days
        before = None if days is None or now is None else now - 86400 * days
        try:
            self._store.prune(self._limits.max_count, before, self._clock.spans())
        except DskdError as error:
            log.warning("old records stay: %s", one_line(str(error)))
        else:
            if before is not None:
                self._clock.forget(before)

    def _check_store(self) -> None:
        """Looks for damage while the line runs; what is found is repaired by the next write."""
        pause = FIRST_CHECK
        while not self._stopped.wait(pause):
            pause = CHECK_EVERY
            try:
                self._store.check(self._stopped)
            except DskdError as error:
                log.warning("%s", one_line(str(error)))
