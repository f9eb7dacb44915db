"""Pictures of stored inspections, found by record, never by a name from a request."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Protocol

import cv2
import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from dskd.runtime.bundle.loading import read_regular
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.result import Image
from dskd.runtime.station.control import Live, StationControl
from dskd.runtime.store import Record
from dskd.runtime.web.endpoint import Refused
from dskd.runtime.web.live import WIDTHS, encode_jpeg, picture_fields, shrink

THUMBNAIL = 320  # pixels across
DARK, BRIGHT, AIR = (10, 10, 10), (77, 90, 255), 5  # BGR, and pixels between defect and line
MOST_THUMBNAILS = 256  # some 15 KB each
LARGEST_DETAILS = 8 << 20  # bytes; ten thousand regions have one
LARGEST_FILE = 64 << 20  # bytes; a 12 megapixel PNG has 25
GONE = "the picture was not kept, or deleted to make room"
KINDS = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


class Kept(Protocol):
    """Where the files of a record lie; None where they were not kept or are gone."""

    def original(self, record: Record) -> Path | None:
        """The picture that was inspected."""
        ...

    def heat(self, record: Record) -> Path | None:
        """The heat layer alone."""
        ...

    def anomaly_map(self, record: Record) -> Path | None:
        """The anomaly map itself, for numpy."""
        ...

    def details(self, record: Record) -> Path | None:
        """The JSON."""
        ...


class Archive:
    """Reads what the archive sink wrote."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._thumbnails: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def original(self, record: Record) -> tuple[bytes, str]:
        """The file's bytes and its media type. Raises Refused where it is gone."""
        return _read(self._kept.original(record))

    def heat(self, record: Record) -> tuple[bytes, str]:
        """The heat layer as PNG, to lay over what ``crop`` says of the original."""
        return _read(self._kept.heat(record))

    def anomaly_map(self, record: Record) -> bytes | None:
        """The file that ``numpy.load`` takes; None where none was kept."""
        path = self._kept.anomaly_map(record)
        with suppress(Refused):
            return _read(path)[0]
        return None

    def layers(self, record: Record) -> dict[str, object]:
        """Which pictures are there, which part of the original [x, y, width, height] the heat layer covers, and where the
        part was found.
        """
        details, path = _Details(), self._kept.details(record)
        if path is not None:
            with suppress(OSError, ValidationError):  # retention was faster, or a disk forgot
                details = _Details.model_validate_json(read_regular(path, LARGEST_DETAILS))
        heat = path is not None and self._kept.heat(record) is not None
        found = {} if details.found is None else {"found": details.found.model_dump()}
        return {"picture": self._kept.original(record) is not None, "heat": heat, "crop": details.crop, **found}

    def thumbnail(self, record: Record) -> tuple[bytes, str]:
        """A small JPEG of the original with its regions."""
        with self._lock:
            known = self._thumbnails.get(record.id)
        if known is None:
            path = self._kept.original(record)
            image = None if path is None else cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise Refused(404, GONE)
            known = encode_jpeg(_marked(np.asarray(image, np.uint8), record), 80)
            with self._lock:
                self._thumbnails[record.id] = known
                if len(self._thumbnails) > MOST_THUMBNAILS:
                    self._thumbnails.popitem(last=False)
        return known, "image/jpeg"

    def judged_again(self, record: Record, control: StationControl) -> dict[str, object]:
        """What the camera's present recipe says of the original, with picture and heat map."""
        path = self._kept.original(record)
        if path is None:
            raise Refused(404, GONE)
        image = read_image(path)
        found = control.rejudge(image, record.source)
        return picture_fields(Live(image, found, found.covers), WIDTHS[-1], heat=True)


class _Found(BaseModel):
    """Where a fixture found the part; see ``Found``."""

    corners: Annotated[list[tuple[FiniteFloat, FiniteFloat]], Field(min_length=4, max_length=4)]
    angle: FiniteFloat
    likeness: FiniteFloat


class _Details(BaseModel):
    """The fields of the JSON that the page needs."""

    crop: tuple[NonNegativeInt, NonNegativeInt, PositiveInt, PositiveInt] | None = None
    found: _Found | None = None


def _marked(image: Image, record: Record) -> Image:
    """A small copy with the regions that decided, so that the defect is seen without opening the picture."""
    small = np.ascontiguousarray(shrink(image, THUMBNAIL))
    scale = small.shape[1] / image.shape[1]
    for region in record.regions:
        x, y, width, height = (round(scale * side) for side in region.box)
        for colour, thickness in ((DARK, 5), (BRIGHT, 2)):
            cv2.rectangle(small, (x - AIR, y - AIR), (x + width + AIR, y + height + AIR), colour, thickness)
    return small


def _read(path: Path | None) -> tuple[bytes, str]:
    if path is None:
        raise Refused(404, GONE)
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:  # retention was faster
        raise Refused(404, GONE) from error
    if len(data) > LARGEST_FILE:
        raise Refused(404, "the picture is too large to show")
    return data, KINDS.get(path.suffix.lower(), "application/octet-stream")
