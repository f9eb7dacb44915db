"""The size of a camera's pictures outlives a restart: a station that starts with a wrong camera must not take it for right."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import DskdError
from dskd.runtime.station.camera import StationCamera
from dskd.runtime.store import Store

Size = tuple[int, int]  # width, height


def known_size(store: Store, camera: str, source: str) -> Size | None:
    """What the camera gave before, from the same source; None where that is not known."""
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", store.recall(_name(camera, source)) or "")
    return None if found is None else (int(found[1]), int(found[2]))


def keep_sizes(store: Store, cameras: Iterable[StationCamera]) -> None:
    """Keeps what cameras gave that nobody has to name; files may be of any size. A store that refuses is asked again."""
    for camera in cameras:
        source, size = camera.config.source, camera.health.size
        if size is None or camera.config.health.size:
            continue
        with suppress(DskdError):
            if known_size(store, camera.name, source) != size:
                store.remember(_name(camera.name, source), f"{size[0]}x{size[1]}")


def _name(camera: str, source: str) -> str:
    """Another address or other options mean another camera, of which nothing is known."""
    return f"frame size/{camera}/{without_password(source)}"
