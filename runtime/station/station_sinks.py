"""The sinks of a station: the picture archive, and those that deliver from the store."""

from __future__ import annotations

import logging

from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.preprocess import Crop
from dskd.runtime.result import Frame, Inspection
from dskd.runtime.sinks.archive import Archive, ArchiveConfig
from dskd.runtime.sinks.csv import CsvConfig, CsvTarget
from dskd.runtime.sinks.delivery import Delivery, SinkStatus
from dskd.runtime.sinks.mqtt import MqttConfig, MqttTarget
from dskd.runtime.sinks.mqtt_commands import CommandDesk
from dskd.runtime.sinks.webhook import WebhookConfig, WebhookTarget
from dskd.runtime.station.config import StationConfig
from dskd.runtime.station.control import PartStatus, StationControl
from dskd.runtime.store import Store
from dskd.runtime.wall_clock import WallClock

ARCHIVE = "archive"  # folder in the data folder
ARCHIVE_STOP = 30.0  # seconds to write the pictures that wait
log = logging.getLogger(__name__)


class StationSinks:
    """Made and started with the station, stopped after the recorder. Raises DskdError where one cannot be made."""

    def __init__(self, config: StationConfig, store: Store, control: StationControl, clock: WallClock) -> None:
        self.archive: Archive | None = None
        self.deliveries: list[Delivery] = []
        self._desks: list[CommandDesk] = []
        for gone in store.cursors().keys() - config.sinks.keys():
            log.warning("sink %s is no longer in the station file: what it has not delivered is let go", gone)
            store.forget_sink(gone)
        for name, sink in config.sinks.items():
            if isinstance(sink, ArchiveConfig):
                self.archive = Archive(name, sink, config.data / ARCHIVE, clock)
            elif isinstance(sink, MqttConfig):
                desk = CommandDesk(control) if sink.commands else None
                self._desks += [desk] if desk else []
                self.deliveries.append(Delivery(name, store, MqttTarget(sink, store.identity, desk)))
            elif isinstance(sink, WebhookConfig):
                self.deliveries.append(Delivery(name, store, WebhookTarget(sink)))
            elif isinstance(sink, CsvConfig):
                self.deliveries.append(Delivery(name, store, CsvTarget(sink)))
            else:
                raise DskdError(f"sink {name}: is of no known kind")

    def start(self) -> None:
        """Starts all threads; receivers that are absent are waited for."""
        if self.archive is not None:
            self.archive.start()
        for delivery in self.deliveries:
            delivery.start()

    def offer(self, frame: Frame, inspection: Inspection, crop: Crop | None) -> None:
        """Shows the archive an inspection. Never waits."""
        if self.archive is not None and self.archive.wants(inspection.verdict):
            self.archive.offer(frame, inspection, crop)

    def statuses(self) -> list[SinkStatus]:
        """How each sink is."""
        archive = [self.archive.status()] if self.archive else []
        return [*archive, *(delivery.status() for delivery in self.deliveries)]

    def stop(self) -> None:
        """Ends all threads; what was not delivered stays in the store."""
        for desk in self._desks:
            desk.stop()
        late = [delivery.name for delivery in self.deliveries if not delivery.stop()]
        if self.archive is not None and not self.archive.stop(ARCHIVE_STOP):
            late.append(self.archive.name)
        for name in late:
            log.warning("sink %s did not stop in time", name)


def part_status(sink: SinkStatus) -> PartStatus:
    """A sink's state for the screen."""
    behind = f"; {sink.behind} to go" if sink.behind else ""
    return PartStatus(sink.name, sink.kind, sink.health, f"{sink.detail}{behind}", sink.since)
