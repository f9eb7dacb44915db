"""The live picture: drawn when somebody asks, once for all who look, at the size they need.

Viewers ask again and again; nothing is pushed. So a viewer who is slow or never reads costs one small answer, and
nobody's picture waits in a queue and grows old.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from dataclasses import dataclass

import cv2
import numpy as np

from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.overlay import heat_layer
from dskd.runtime.result import Image, Inspection
from dskd.runtime.station.control import Live

WIDTHS = (480, 960, 1600)  # pixels of a phone, of a screen, of a 4K screen
QUALITY = 85


@dataclass(frozen=True)
class Shown:
    """A picture as it goes to the page."""

    key: str
    width: int
    heat: bool
    fields: dict[str, object]


class LivePictures:
    """Draws the newest picture of each camera and keeps one drawing per camera, size and kind."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, int, bool], Shown] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def draw(self, camera: str, live: Live, width: int, heat: bool) -> dict[str, object]:
        """Picture, heat layer and what was decided of one frame, as JSON fields.

        ``picture`` and ``heat`` are data URLs; ``heat`` covers ``crop``, is clear where nothing is, and None where it
        was not asked for or the inspection needed no map. Cameras come from the station alone, so they are few.
        """
        width = next((w for w in WIDTHS if w >= width), WIDTHS[-1])
        key, place = key_of(live.inspection), (camera, width, heat)
        with self._lock:
            lock = self._locks.setdefault(camera, threading.Lock())
        with lock:  # the second viewer waits and takes what the first had drawn
            shown = self._shown.get(place)
            if shown is None or shown.key != key:
                shown = self._shown[place] = Shown(key, width, heat, picture_fields(live, width, heat))
        return shown.fields


def key_of(inspection: Inspection) -> str:
    """Tells one frame from another."""
    words = repr((inspection.source, inspection.frame, inspection.captured))
    return hashlib.sha256(words.encode(errors="backslashreplace")).hexdigest()[:16]


def picture_fields(live: Live, width: int, heat: bool) -> dict[str, object]:
    """One drawing, see ``LivePictures.draw``."""
    height, across = live.image.shape[:2]
    crop = live.crop or (0, 0, across, height)
    layer, found = None, live.inspection
    if heat and found.anomaly_map is not None:
        layer = _data_url(encode_png(heat_layer(found.anomaly_map, found.threshold)), "png")
    return {
        "key": key_of(found),
        "inspection": found.as_dict(),
        "size": [across, height],
        "crop": list(crop),
        "picture": _data_url(encode_jpeg(shrink(live.image, width)), "jpeg"),
        "heat": layer,
    }


def shrink(image: Image, width: int) -> Image:
    """At most ``width`` pixels wide, never larger than it was."""
    height, across = image.shape[:2]
    if across <= width:
        return image
    size = (width, max(1, round(height * width / across)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_jpeg(image: Image, quality: int = QUALITY) -> bytes:
    """uint8 BGR [H, W, 3] as JPEG bytes."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise DskdError(f"cannot encode a picture of shape {list(image.shape)} as JPEG")
    return data.tobytes()


def encode_png(image: Image) -> bytes:
    """uint8 BGRA [H, W, 4] as PNG bytes, quickly."""
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise DskdError(f"cannot encode a picture of shape {list(image.shape)} as PNG")
    return data.tobytes()


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
