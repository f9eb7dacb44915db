"""The size of a camera's pictures outlives a restart: a station that starts with a wrong camera must not take it for right.

It stands in a file of its own, beside ``recipes.json``: a store that was lost must not take it along.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from dskd.runtime import atomic
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.station.camera import StationCamera

Side = Annotated[int, Field(gt=0, lt=1_000_000)]
Size = tuple[Side, Side]  # width, height
SIZES = TypeAdapter(dict[str, Size])
FILE = "frame_sizes.json"
log = logging.getLogger(__name__)


class FrameSizes:
    """What each camera gave last, by camera and source: another address or other options mean another camera."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def known(self, camera: str, source: str) -> Size | None:
        """What the camera gave before, from the same source; None where that is not known."""
        return self._read().get(_name(camera, source))

    def keep(self, cameras: Iterable[StationCamera]) -> None:
        """Keeps what cameras gave that nobody has to name; files may be of any size. A disk that refuses is tried again."""
        before = self._read()
        given = {_name(c.name, c.config.source): c.health.size for c in cameras if not c.config.health.size}
        now = before | {name: size for name, size in given.items() if size is not None}
        if now != before:
            try:
                atomic.write_text(self._path, json.dumps(now, indent=1))
            except DskdError as error:
                log.info("sizes of pictures are not kept: %s", one_line(str(error)))

    def _read(self) -> dict[str, Size]:
        try:
            return SIZES.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            log.info("%s: cannot be read (%s); sizes are learnt anew", self._path, one_line(str(error)))
            return {}


def _name(camera: str, source: str) -> str:
    return f"{camera} {without_password(source)}"
