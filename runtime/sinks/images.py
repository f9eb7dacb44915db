"""An overlay picture per inspection: PASS, REVIEW and REJECT each in a folder of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import Field

from dskd.runtime.capture.image_files import is_image_name, write_image
from dskd.runtime.configuration.fields import LocalPath
from dskd.runtime.configuration.uri import uri_path
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.overlay import annotate, heat_map, side_by_side
from dskd.runtime.result import Dropped, Frame, Inspection, Result, Verdict
from dskd.runtime.sinks.base import Fields, Sink, SinkConfig, SinkContext, SinkKind, options

_OPTIONS = re.compile(r"\?((?:names|beside)=[^/&=?]*(?:&(?:names|beside)=[^/&=?]*)*)$")
MOST_NAMES = 100_000  # that are remembered, in some ten megabytes; after them all carry their time
LONGEST_NAME = 180  # with time and suffix under the 255 bytes of most file systems


class ImagesConfig(SinkConfig):
    """An overlay picture of every inspection, without limit: for a line that runs all day, archive has one."""

    kind: Literal["images"]
    folder: LocalPath = Field(description="folder; PASS, REVIEW and REJECT are folders in it")
    names: Literal["input", "time"] = Field(
        "input",
        description="input: after the picture's file, so that another run replaces it, with the time where a run meets a "
        "name twice; time: time and frame",
    )
    beside: bool = Field(False, description="the picture as it was taken to the left of the overlay")


class ImagesSink(Sink):
    """Writes ``FOLDER/VERDICT/NAME.png``: NAME is the input's where it is a file, else ``TIME-frame``."""

    needs_map = True

    def __init__(self, config: ImagesConfig, required: bool = True) -> None:
        self._config, self._folder = config, Path(config.folder)
        self._names = set[str]()  # of this run
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not required:  # a station inspects all the same, and each write tries
                return
            raise DskdError(f"sink {self._folder}: cannot be made ({error.strerror}); name another folder") from error

    def write(self, results: Sequence[Result]) -> None:
        """Draws and writes an overlay of each inspection. A frame that was dropped leaves no picture."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for result in results:
            if not isinstance(result, Dropped):
                self._write(*result)

    def _write(self, frame: Frame, found: Inspection) -> None:
        image = frame.image
        if found.anomaly_map is not None:
            box = found.covers or (0, 0, image.shape[1], image.shape[0])
            image = heat_map(image, found.anomaly_map, found.threshold, box)
        picture = annotate(image, found.verdict, found.score, found.threshold, found.regions, found.found)
        if self._config.beside:
            picture = side_by_side(frame.image, picture)
        name = f"{file_name(frame.id)}.png"
        # a camera's frame numbers begin again, and a folder may give a name twice, or a.png and a.jpg
        if (
            self._config.names == "time"
            or not is_image_name(frame.id)
            or name in self._names
            or len(self._names) >= MOST_NAMES
        ):
            taken = datetime.fromtimestamp(frame.captured, timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
            name = f"{taken}-{name}"
        else:
            self._names.add(name)
            for other in set(Verdict) - {found.verdict}:  # of a run before
                (self._folder / other.value / name).unlink(missing_ok=True)
        write_image(self._folder / found.verdict.value / name, picture)


def file_name(frame_id: str) -> str:
    """A frame id as a plain file name: ``crack/003.png`` becomes ``crack-003``."""
    stem = frame_id[: frame_id.rfind(".")] if is_image_name(frame_id) else frame_id
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip(".-")[:LONGEST_NAME] or "frame"


def _opened(config: ImagesConfig, context: SinkContext) -> ImagesSink:
    return ImagesSink(config, required=context.data is None)


def _fields(uri: str) -> Fields:
    found = _OPTIONS.search(uri)  # a folder's name may hold a question mark
    return (
        {"folder": uri_path(uri)} if found is None else {"folder": uri_path(uri[: found.start()]), **options(found[1])}
    )


KIND = SinkKind(ImagesConfig, "images://FOLDER?beside=true", _fields, sink=_opened)
