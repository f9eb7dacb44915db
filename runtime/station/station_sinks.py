"""The sinks of a station: those that deliver from the store, and those that write results as they come, in threads."""

from __future__ import annotations

import logging

from dskd.runtime.result import Result
from dskd.runtime.sinks import SINKS, SinkConfig, SinkContext
from dskd.runtime.sinks.archive import Archive
from dskd.runtime.sinks.archive_account import ArchiveAccount
from dskd.runtime.sinks.delivery import Delivery, SinkStatus
from dskd.runtime.sinks.queued import Queued
from dskd.runtime.station.config import StationConfig
from dskd.runtime.station.control import PartStatus, StationControl
from dskd.runtime.store import Store
from dskd.runtime.wall_clock import WallClock

FILES_STOP = 30.0  # seconds to write the pictures that wait
log = logging.getLogger(__name__)


class StationSinks:
    """Made and started with the station, stopped after the recorder. Raises DskdError where one cannot be made."""

    def __init__(self, config: StationConfig, store: Store, control: StationControl, clock: WallClock) -> None:
        self.archive: Archive | None = None
        self.deliveries: list[Delivery] = []
        self._beside: list[Queued] = []
        self._accounts: list[tuple[Queued, ArchiveAccount]] = []
        for gone in store.cursors().keys() - config.sinks.keys():
            log.warning("sink %s is no longer in the station file: what it has not delivered is let go", gone)
            store.forget_sink(gone)
        try:
            for name, sink in config.sinks.items():
                self._open(sink, SinkContext(name, store.identity, config.data, control, clock), store)
        except BaseException:
            self.stop()
            raise

    def _open(self, config: SinkConfig, context: SinkContext, store: Store) -> None:
        kind = SINKS[config.kind]
        if kind.target is not None:
            self.deliveries.append(Delivery(context.name, store, kind.open_target(config, context)))
            return
        opened = kind.open_sink(config, context)
        self._beside.append(Queued(context.name, config.kind, opened))
        if isinstance(opened, Archive):
            self.archive = opened
            self._accounts.append((self._beside[-1], ArchiveAccount(context.name, opened, store)))

    def start(self) -> None:
        """Starts all threads; receivers that are absent are waited for."""
        for _, account in self._accounts:
            account.whole()
        for beside in self._beside:
            beside.start()
        for delivery in self.deliveries:
            delivery.start()

    def offer(self, result: Result) -> None:
        """Shows a result to the sinks that do not read from the store. Never waits."""
        for sink in self._beside:
            sink.offer(result)

    def settle(self) -> None:
        """Once a minute: archives look whether they hold what they should."""
        for beside, account in self._accounts:
            account.settle(beside.status().behind)

    def statuses(self) -> list[SinkStatus]:
        """How each sink is."""
        beside = [sink.status() for sink in self._beside]
        return beside + [delivery.status() for delivery in self.deliveries]

    def stop(self) -> None:
        """Ends all threads; what was not delivered stays in the store."""
        late = [delivery.name for delivery in self.deliveries if not delivery.stop()]
        late += [sink.name for sink in self._beside if not sink.stop(FILES_STOP)]
        for beside, account in self._accounts:
            if beside.name not in late:
                account.whole()
        for name in late:
            log.warning("sink %s did not stop in time", name)


def part_status(sink: SinkStatus) -> PartStatus:
    """A sink's state for the screen."""
    behind = f"; {sink.behind} to go" if sink.behind else ""
    return PartStatus(sink.name, sink.kind, sink.health, f"{sink.detail}{behind}", sink.since)
