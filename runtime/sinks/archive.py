"""The archive: original, heat layer, overlay and JSON of rejects and of a sample of passes, as long as there is room.

ROOT/2026-11-21/13/134023.512345-top-FRAME-REJECT.png, .heat.png, .overlay.jpg and .json, by the time of capture in UTC.
The name follows from the record, so a picture is found without an index; the JSON is written last, so where it is, all
is. The heat layer has the map's size and transparency; stretched over ``crop`` (in the JSON; null: the whole original)
it gives the heat map at any strength. With ``map: true`` .map.npy holds the anomaly map itself, float32 [H, W] in the
score's unit, for the same place.
"""

from __future__ import annotations

import io
import json
import logging
import random
import re
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dskd.runtime import atomic
from dskd.runtime.bundle.manifest import Positive
from dskd.runtime.configuration.fields import LocalPath
from dskd.runtime.configuration.uri import uri_path
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.overlay import annotate, heat_layer, heat_map
from dskd.runtime.result import Dropped, Frame, Image, Inspection, Result, Verdict
from dskd.runtime.sinks.archive_index import ArchiveIndex
from dskd.runtime.sinks.base import Fields, Sink, SinkConfig, SinkContext, SinkKind, options
from dskd.runtime.sinks.images import file_name
from dskd.runtime.store import Record
from dskd.runtime.wall_clock import WallClock

KEEP = re.compile(r"all|rejects(?: and 1 in ([1-9][0-9]{0,8}) passes)?")
FOLDER = "archive"  # in a station's data folder


_log = logging.getLogger(__name__)


class ArchiveConfig(SinkConfig):
    """Originals, overlays and JSON of rejects and of a sample of passes, as long as there is room."""

    kind: Literal["archive"]
    folder: LocalPath | None = Field(None, description="default: archive in the data folder")
    keep: str = Field(
        "rejects and 1 in 100 passes",
        pattern=f"^({KEEP.pattern})$",
        description="all; rejects; or rejects and 1 in N passes, chosen at random. REVIEW is kept like REJECT",
    )
    original: Literal["png", "jpeg"] = Field("png", description="png keeps every pixel; jpeg is a tenth of its size")
    overlay: bool = Field(True, description="also a picture with heat map and regions")
    heat: bool = Field(True, description="also the heat layer alone, a PNG with transparency to lay over the original")
    map: bool = Field(
        False,
        description="also the anomaly map itself as .map.npy: float32 [height, width] at the network's size, in the score's "
        "unit, so where it is over the record's threshold the part is rejected; 256 KB at 256 x 256",
    )
    quality: int = Field(92, ge=50, le=100, description="of JPEG")
    max_count: Positive | None = Field(None, description="inspections kept at most; the oldest go first")
    max_age_days: float | None = Field(None, gt=0, le=36_500, description="older ones go, hour by hour")
    min_free_gb: float = Field(1.0, ge=0, description="free space below which the oldest go, whatever the count")


class Archive(Sink):
    """Writes original, heat layer, overlay and JSON of the inspections that it wants.

    ``folder``: made if it is not there. Raises DskdError where it cannot be and is ``required``; else each write tries.
    ``clock`` says whether there is one to judge age by.
    """

    needs_map = True

    def __init__(
        self, config: ArchiveConfig, folder: Path, clock: WallClock | None = None, required: bool = True
    ) -> None:
        self._config = config
        self._clock = clock or WallClock()
        self._index = ArchiveIndex(folder, required)
        self._counted = False
        self.not_kept = 0  # that it should hold; a station counts them
        self._share = _share_of_passes(config.keep)
        self._chance = random.Random()  # noqa: S311 a sample by counting would meet the same cavity of a mould each time

    def wants(self, result: Result) -> bool:
        """Whether to keep its picture; of passes, a random share. A dropped frame leaves none."""
        if isinstance(result, Dropped):
            return False
        return result[1].verdict is not Verdict.PASS or self._chance.random() < self._share

    def write(self, results: Sequence[Result]) -> None:
        """Makes room and writes the files of each. Raises DskdError or OSError where the disk does not take them."""
        if self._index.made_again() and self._counted:
            _log.warning("archive %s: was gone; it is made again, and begins empty", self._index.folder)
        if not self._counted:  # at the first picture: it takes a while where there are many
            self._index.count()
            self._counted = True
        for result in results:
            if not isinstance(result, Dropped):
                self._keep(*result)

    def summary(self) -> str:
        """How many are kept, and how many could not be."""
        missing = f"; {self.not_kept} were not (not_kept.jsonl)" if self.not_kept else ""
        return f"{self._index.held} inspections kept{missing}"

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._index.folder

    @property
    def made_room(self) -> bool:
        """Whether an inspection was deleted since the start."""
        return self._index.removed > 0

    def surely_wants(self, record: Record) -> bool:
        """Whether the rule keeps its picture, without chance."""
        return record.verdict is not None and (record.verdict is not Verdict.PASS or self._share == 1.0)

    def oldest(self) -> str | None:
        """The oldest inspection that is kept, as DAY/HOUR/NAME."""
        return self._index.oldest()

    def place(self, record: Record) -> str:
        """Where its files lie, or would, as DAY/HOUR/NAME."""
        stem = self._stem_of(record)
        return "" if stem is None else stem.relative_to(self.folder).as_posix()

    def clear(self, record: Record) -> None:
        """Removes the files of one that was not written to its end. Raises OSError."""
        stem = self._stem_of(record)
        if stem is not None:
            self._index.clear(stem)

    def original(self, record: Record) -> Path | None:
        """The picture that was inspected, None where it was not kept or is gone."""
        return self._found(record, ".png") or self._found(record, ".jpg")

    def overlay(self, record: Record) -> Path | None:
        """The picture with heat map and regions."""
        return self._found(record, ".overlay.jpg")

    def heat(self, record: Record) -> Path | None:
        """The heat layer alone."""
        return self._found(record, ".heat.png")

    def anomaly_map(self, record: Record) -> Path | None:
        """The anomaly map itself, for numpy."""
        return self._found(record, ".map.npy")

    def details(self, record: Record) -> Path | None:
        """The JSON."""
        return self._found(record, ".json")

    def _keep(self, frame: Frame, found: Inspection) -> None:
        """Makes room, then writes the files, the JSON last."""
        self._make_room()
        stem = _stem(self._index.folder, found.source, found.frame, found.captured, found.verdict)
        picture = frame.image
        if self._clock.doubt():
            self._index.mistimed(stem.parent, self._clock.likely_now())
        atomic.write_bytes(*self._encoded(stem, picture))
        if self._config.heat and found.anomaly_map is not None:
            layer = heat_layer(found.anomaly_map, found.threshold)
            atomic.write_bytes(stem.with_name(f"{stem.name}.heat.png"), _png(layer))
        if self._config.map and found.anomaly_map is not None:
            atomic.write_bytes(stem.with_name(f"{stem.name}.map.npy"), _npy(found.anomaly_map))
        if self._config.overlay:
            atomic.write_bytes(stem.with_name(f"{stem.name}.overlay.jpg"), _jpeg(_drawn(picture, found), 85))
        fields = {**found.as_dict(), "crop": found.covers}
        atomic.write_text(stem.with_name(f"{stem.name}.json"), json.dumps(fields, allow_nan=False))
        self._index.held += 1

    def _make_room(self) -> None:
        config, index = self._config, self._index
        while config.max_count is not None and index.held >= config.max_count and index.remove_oldest():
            pass
        now = self._clock.safe_now()
        if now is not None:
            self._index.date_mistimed(now)
        if config.max_age_days is not None and now is not None:
            until = datetime.fromtimestamp(now, timezone.utc) - timedelta(days=config.max_age_days, hours=1)
            while (oldest := index.oldest_hour()) is not None and oldest < until and index.remove_oldest():
                pass
        least = config.min_free_gb * 1e9
        while (free := shutil.disk_usage(index.folder).free) < least and index.remove_oldest():
            pass
        if free < least:
            raise DskdError(
                f"archive {index.folder}: {free / 1e9:.2f} GB free is under min_free_gb {config.min_free_gb:g} with "
                "nothing left to delete here; make room on the disk"
            )

    def _encoded(self, stem: Path, picture: Image) -> tuple[Path, bytes]:
        if self._config.original == "jpeg":
            return stem.with_name(f"{stem.name}.jpg"), _jpeg(picture, self._config.quality)
        return stem.with_name(f"{stem.name}.png"), _png(picture)

    def _found(self, record: Record, suffix: str) -> Path | None:
        stem = self._stem_of(record)
        path = None if stem is None else stem.with_name(f"{stem.name}{suffix}")
        return path if path is not None and path.is_file() else None

    def _stem_of(self, record: Record) -> Path | None:
        if record.captured is None or record.verdict is None or record.frame is None:
            return None
        return _stem(self._index.folder, record.source, record.frame, record.captured, record.verdict)


def _share_of_passes(keep: str) -> float:
    match = KEEP.fullmatch(keep)
    assert match is not None
    return 1.0 if keep == "all" else 1 / int(match.group(1)) if match.group(1) else 0.0


def _stem(folder: Path, source: str, frame: str, captured: float, verdict: Verdict) -> Path:
    """Where an inspection lies, without suffix: under 200 bytes, so that every file system takes it."""
    moment = datetime.fromtimestamp(captured, timezone.utc)
    name = f"{moment:%H%M%S.%f}-{file_name(source)[:48]}-{file_name(frame)[:96]}-{verdict.value}"
    return folder / f"{moment:%Y-%m-%d}" / f"{moment:%H}" / name


def _drawn(picture: Image, found: Inspection) -> Image:
    if found.anomaly_map is not None:
        crop = found.covers or (0, 0, picture.shape[1], picture.shape[0])
        picture = heat_map(picture, found.anomaly_map, found.threshold, crop)
    return annotate(picture, found.verdict, found.score, found.threshold, found.regions, found.found)


def _jpeg(picture: Image, quality: int) -> bytes:
    return _encode(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _png(picture: Image) -> bytes:
    return _encode(picture, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _npy(anomaly_map: NDArray[np.float32]) -> bytes:
    held = io.BytesIO()
    np.save(held, anomaly_map.astype(np.float32, copy=False), allow_pickle=False)
    return held.getvalue()


def _encode(picture: Image, kind: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(kind, picture, options)
    if not done:
        raise DskdError(f"archive: a picture of shape {list(picture.shape)} cannot be encoded")
    return data.tobytes()


def _fields(uri: str) -> Fields:
    address, _, settings = uri.partition("?")
    return {"folder": uri_path(address), **options(settings)}


def _opened(config: ArchiveConfig, context: SinkContext) -> Archive:
    folder = config.folder or (context.data and context.data / FOLDER)
    if folder is None:
        raise CallError("sink archive://: names no folder; write archive://FOLDER")
    return Archive(config, folder, context.clock, required=context.data is None)  # no picture store stops a line


KIND = SinkKind(ArchiveConfig, "archive://FOLDER?keep=all", _fields, sink=_opened)
