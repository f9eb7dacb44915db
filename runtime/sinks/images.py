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
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.overlay import annotate, heat_map
from dskd.runtime.result import Dropped, Frame, Inspection, Result
from dskd.runtime.sinks.base import Sink, SinkConfig, SinkContext, SinkKind, path_as

LONGEST_NAME = 180  # with time and suffix under the 255 bytes of most file systems


class ImagesConfig(SinkConfig):
    """An overlay picture of every inspection, without limit: for a line that runs all day, archive has one."""

    kind: Literal["images"]
    folder: LocalPath = Field(description="folder; PASS, REVIEW and REJECT are folders in it")


class ImagesSink(Sink):
    """Writes ``FOLDER/VERDICT/TIME-frame.png``; the time keeps pictures of different runs apart."""

    needs_map = True

    def __init__(self, folder: Path, required: bool = True) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not required:  # a station inspects all the same, and each write tries
                return
            raise DskdError(f"sink {folder}: cannot be made ({error.strerror}); name another folder") from error

    def write(self, results: Sequence[Result]) -> None:
        """Draws and writes an overlay of each inspection. A frame that was dropped leaves no picture."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for result in results:
            if not isinstance(result, Dropped):
                self._write(*result)

    def _write(self, frame: Frame, inspection: Inspection) -> None:
        image = frame.image
        if inspection.anomaly_map is not None:
            box = inspection.covers or (0, 0, image.shape[1], image.shape[0])
            image = heat_map(image, inspection.anomaly_map, inspection.threshold, box)
        found = inspection
        picture = annotate(image, found.verdict, found.score, found.threshold, found.regions, found.found)
        taken = datetime.fromtimestamp(frame.captured, timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
        write_image(self._folder / inspection.verdict.value / f"{taken}-{file_name(frame.id)}.png", picture)


def file_name(frame_id: str) -> str:
    """A frame id as a plain file name: ``crack/003.png`` becomes ``crack-003``."""
    stem = frame_id[: frame_id.rfind(".")] if is_image_name(frame_id) else frame_id
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip(".-")[:LONGEST_NAME] or "frame"


def _opened(config: ImagesConfig, context: SinkContext) -> ImagesSink:
    return ImagesSink(config.folder, required=context.data is None)


KIND = SinkKind(ImagesConfig, "images://FOLDER", path_as("folder"), sink=_opened)
