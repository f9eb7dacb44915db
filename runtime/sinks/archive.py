"""The archive: original, heat layer, overlay and JSON of rejects and of a sample of passes, as long as there is room.

ROOT/2026-11-21/13/134023.512345-top-FRAME-REJECT.png, .heat.png, .overlay.jpg and .json, by the time of capture in UTC.
The name follows from the record, so a picture is found without an index; the JSON is written last, so where it is, all
is. The heat layer has the map's size and transparency; stretched over ``crop`` (in the JSON; null: the whole original)
it gives the heat map at any strength.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

import cv2
from pydantic import Field

from dskd.runtime import atomic
from dskd.runtime.bundle.manifest import Positive
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.inspection.overlay import annotate, heat_layer, heat_map
from dskd.runtime.result import Frame, Image, Inspection, Verdict
from dskd.runtime.sinks.archive_shelf import Shelf
from dskd.runtime.sinks.delivery import SinkStatus
from dskd.runtime.sinks.images import file_name
from dskd.runtime.status import Health, Status
from dskd.runtime.store import Record
from dskd.runtime.wall_clock import WallClock

KEEP = re.compile(r"all|rejects(?: and 1 in ([1-9][0-9]{0,8}) passes)?")
MOST_WAITING = 64  # pictures in the queue
MOST_BYTES = 256 << 20  # of pictures in the queue: seven of twelve megapixels
Crop = tuple[int, int, int, int]

_log = logging.getLogger(__name__)


class ArchiveConfig(Strict):
    """Originals, overlays and JSON in the data folder."""

    kind: Literal["archive"]
    keep: str = Field(
        "rejects and 1 in 100 passes",
        pattern=f"^({KEEP.pattern})$",
        description="all; rejects; or rejects and 1 in N passes, chosen at random. REVIEW is kept like REJECT",
    )
    original: Literal["png", "jpeg"] = Field("png", description="png keeps every pixel; jpeg is a tenth of its size")
    overlay: bool = Field(True, description="also a picture with heat map and regions")
    heat: bool = Field(True, description="also the heat layer alone, a PNG with transparency to lay over the original")
    quality: int = Field(92, ge=50, le=100, description="of JPEG")
    max_count: Positive | None = Field(None, description="inspections kept at most; the oldest go first")
    max_age_days: float | None = Field(None, gt=0, le=36_500, description="older ones go, hour by hour")
    min_free_gb: float = Field(1.0, ge=0, description="free space below which the oldest go, whatever the count")


@dataclass(frozen=True)
class _Item:
    frame: Frame
    inspection: Inspection
    crop: Crop | None

    @property
    def bytes(self) -> int:
        """What it holds in memory: the map of a tiled frame is larger than the frame."""
        held = self.inspection.anomaly_map
        return self.frame.image.nbytes + (0 if held is None else held.nbytes)


class Archive:
    """Writes in a thread of its own; what comes faster than the disk takes it is dropped and counted, never waited for.

    ``folder``: made if it is not there. Raises DskdError where it cannot be. ``clock`` says whether there is one to
    judge age by.
    """

    kind = "archive"

    def __init__(self, name: str, config: ArchiveConfig, folder: Path, clock: WallClock | None = None) -> None:
        self.name, self._config = name, config
        self._clock = clock or WallClock()
        self._shelf = Shelf(folder)
        self._share = _share_of_passes(config.keep)
        self._chance = random.Random()  # noqa: S311 a sample by counting would meet the same cavity of a mould each time
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[_Item] = deque()
        self._bytes = self._written = self._dropped = 0
        self._stopping = False
        self._status: Status[Health] = Status(f"sink {name}", "ok", "starting", _log)
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wants(self, verdict: Verdict) -> bool:
        """Whether to keep a picture of this verdict; of passes, a random share. Ask once per inspection."""
        return verdict is not Verdict.PASS or self._chance.random() < self._share

    def offer(self, frame: Frame, inspection: Inspection, crop: Crop | None) -> bool:
        """Takes an inspection that ``wants`` chose. Never waits.

        ``crop`` is the part of the frame that the map covers, None for all. False where there was no room: then the
        picture is dropped and counted.
        """
        item = _Item(frame, inspection, crop)
        with self._changed:
            room = len(self._waiting) < MOST_WAITING and self._bytes + item.bytes <= MOST_BYTES and not self._stopping
            if room:
                self._waiting.append(item)
                self._bytes += item.bytes
                self._changed.notify_all()
            else:
                self._dropped += 1
        return room

    def original(self, record: Record) -> Path | None:
        """The picture that was inspected, None where it was not kept or is gone."""
        return self._found(record, ".png") or self._found(record, ".jpg")

    def overlay(self, record: Record) -> Path | None:
        """The picture with heat map and regions."""
        return self._found(record, ".overlay.jpg")

    def heat(self, record: Record) -> Path | None:
        """The heat layer alone."""
        return self._found(record, ".heat.png")

    def details(self, record: Record) -> Path | None:
        """The JSON."""
        return self._found(record, ".json")

    def stop(self, timeout: float = 10.0) -> bool:
        """Writes what waits and ends; whether it did in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
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

    # ------------------------------------------------------------------------------------------ the archive's thread

    def _run(self) -> None:
        self._attempt(self._shelf.count)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                item = self._waiting[0]  # counted as waiting until it is written
            done = self._attempt(lambda item=item: self._keep(item))  # type: ignore[misc]
            with self._changed:
                self._waiting.popleft()
                self._bytes -= item.bytes
                self._written += done
                self._dropped += not done

    def _attempt(self, work: object) -> bool:
        """Whether ``work`` went well. The thread outlives whatever it raises."""
        try:
            work()  # type: ignore[operator]
        except Exception as error:
            known = isinstance(error, DskdError | OSError)
            reason = one_line(str(error) if known else f"{type(error).__name__}: {error}")
            self._last_error = reason
            self._status.enter("warning", reason)
            return False
        self._status.enter("ok", f"{self._shelf.held} inspections kept")
        return True

    def _keep(self, item: _Item) -> None:
        """Makes room, then writes the files, the JSON last."""
        self._make_room()
        found = item.inspection
        stem = _stem(self._shelf.folder, found.source, found.frame, found.captured, found.verdict)
        picture = item.frame.image
        if self._clock.doubt():
            self._shelf.mistimed(stem.parent, self._clock.likely_now())
        atomic.write_bytes(*self._encoded(stem, picture))
        if self._config.heat and found.anomaly_map is not None:
            layer = heat_layer(found.anomaly_map, found.threshold)
            atomic.write_bytes(stem.with_name(f"{stem.name}.heat.png"), _png(layer))
        if self._config.overlay:
            atomic.write_bytes(stem.with_name(f"{stem.name}.overlay.jpg"), _jpeg(self._drawn(item), 85))
        fields = {**found.as_dict(), "crop": item.crop}
        atomic.write_text(stem.with_name(f"{stem.name}.json"), json.dumps(fields, allow_nan=False))
        self._shelf.held += 1

    def _make_room(self) -> None:
        config, shelf = self._config, self._shelf
        while config.max_count is not None and shelf.held >= config.max_count and shelf.remove_oldest():
            pass
        now = self._clock.safe_now()
        if now is not None:
            self._shelf.date_mistimed(now)
        if config.max_age_days is not None and now is not None:
            until = datetime.fromtimestamp(now, timezone.utc) - timedelta(days=config.max_age_days, hours=1)
            while (oldest := shelf.oldest_hour()) is not None and oldest < until and shelf.remove_oldest():
                pass
        least = config.min_free_gb * 1e9
        while (free := shutil.disk_usage(shelf.folder).free) < least and shelf.remove_oldest():
            pass
        if free < least:
            raise DskdError(
                f"archive {shelf.folder}: {free / 1e9:.2f} GB free is under min_free_gb {config.min_free_gb:g} with "
                "nothing left to delete here; make room on the disk"
            )

    def _encoded(self, stem: Path, picture: Image) -> tuple[Path, bytes]:
        if self._config.original == "jpeg":
            return stem.with_name(f"{stem.name}.jpg"), _jpeg(picture, self._config.quality)
        return stem.with_name(f"{stem.name}.png"), _png(picture)

    def _drawn(self, item: _Item) -> Image:
        picture, found = item.frame.image, item.inspection
        if found.anomaly_map is not None:
            crop = item.crop or (0, 0, picture.shape[1], picture.shape[0])
            picture = heat_map(picture, found.anomaly_map, found.threshold, crop)
        return annotate(picture, found.verdict, found.score, found.threshold, found.regions, found.found)

    def _found(self, record: Record, suffix: str) -> Path | None:
        if record.captured is None or record.verdict is None or record.frame is None:
            return None
        stem = _stem(self._shelf.folder, record.source, record.frame, record.captured, record.verdict)
        path = stem.with_name(f"{stem.name}{suffix}")
        return path if path.is_file() else None


def _share_of_passes(keep: str) -> float:
    match = KEEP.fullmatch(keep)
    assert match is not None
    return 1.0 if keep == "all" else 1 / int(match.group(1)) if match.group(1) else 0.0


def _stem(folder: Path, source: str, frame: str, captured: float, verdict: Verdict) -> Path:
    """Where an inspection lies, without suffix: under 200 bytes, so that every file system takes it."""
    moment = datetime.fromtimestamp(captured, timezone.utc)
    name = f"{moment:%H%M%S.%f}-{file_name(source)[:48]}-{file_name(frame)[:96]}-{verdict.value}"
    return folder / f"{moment:%Y-%m-%d}" / f"{moment:%H}" / name


def _jpeg(picture: Image, quality: int) -> bytes:
    return _encode(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _png(picture: Image) -> bytes:
    return _encode(picture, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _encode(picture: Image, kind: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(kind, picture, options)
    if not done:
        raise DskdError(f"archive: a picture of shape {list(picture.shape)} cannot be encoded")
    return data.tobytes()
