"""Stored inspections to take away: a CSV, or pictures and labels as a data set to train and evaluate on.

The data set has MVTec's layout: ``dskd train --data FOLDER`` takes ``train/good``, ``dskd evaluate BUNDLE FOLDER`` takes
``test``. Of the parts that people called good every fifth is kept for the test, always the same ones. Where the archive
keeps anomaly maps, ``maps`` holds them under the names of their pictures.
"""

from __future__ import annotations

import csv
import io
import time
import zipfile
import zlib
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from functools import partial

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dskd.runtime.result import Verdict
from dskd.runtime.sinks.csv import safe
from dskd.runtime.sinks.images import file_name
from dskd.runtime.store import Record
from dskd.runtime.store.search import DEFECT_LABELS, GOOD_LABELS
from dskd.runtime.web.answers import PIECE, Blob
from dskd.runtime.web.app_state import AppState
from dskd.runtime.web.archive import Archive
from dskd.runtime.web.endpoint import Call, Endpoint, Refused
from dskd.runtime.web.searching import FIELDS, search_of

MOST_ROWS, MOST_PICTURES = 10_000, 2_000  # the newest; older ones by "until"
AT_ONCE = 2  # data sets under way
PICTURE_SECONDS = 30.0
FOR_TESTS = 5  # every so many-th good part
ALL = ",".join(verdict.value for verdict in Verdict)
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
COLUMNS = (
    "file", "id", "camera", "part", "frame", "time_utc", "verdict", "score", "threshold", "label", "defect", "note",
    "bundle", "backend",
)  # fmt: skip
_GOOD, _DEFECT = ([label.value for label in labels] for labels in (GOOD_LABELS, DEFECT_LABELS))


class Export:
    """What a search finds, as one file."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._running = 0

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        return [
            Endpoint(
                "GET", "/api/export.csv", f"up to {MOST_ROWS} inspections as CSV, newest first", self.table, query=FIELDS
            ),
            Endpoint(
                "GET", "/api/export.zip", f"pictures, labels and CSV of up to {MOST_PICTURES} inspections as a data "
                "set: train/good, test/good, test/DEFECT, unlabelled", self.data_set, query=FIELDS,
            ),
        ]  # fmt: skip

    async def table(self, call: Call) -> Response:
        """One line per inspection."""
        rows = await self._found(call, MOST_ROWS)
        text = await self._state.view(lambda: table([("", row) for row in rows]))
        return Blob(text.encode(), headers=_as_file("parts.csv"), media_type="text/csv; charset=utf-8")

    async def data_set(self, call: Call) -> Response:
        """Read picture by picture while it is sent, so it holds one in memory however many there are."""
        archive = self._state.archive
        if archive is None:
            raise Refused(404, "this station keeps no pictures; add an archive sink to its file")
        if self._running >= AT_ONCE:
            raise Refused(503, "other data sets are being fetched; try again when they are done", {"retry-after": "30"})
        rows = await self._found(call, MOST_PICTURES)
        if not rows:
            raise Refused(404, "no such parts are stored")
        name = f"parts-{time.strftime('%Y%m%d-%H%M%S')}.zip"
        return _Counted(self, self._pieces(rows, archive), name)

    async def _found(self, call: Call, most: int) -> list[Record]:
        search = search_of(call, ALL)
        return await self._state.view(lambda: self._state.store.search(search, most))

    async def _pieces(self, rows: list[Record], archive: Archive) -> AsyncIterator[bytes]:
        holder = _Holder()
        with zipfile.ZipFile(holder, "w") as packed:  # it only ever appends
            told = []
            for row in rows:
                try:
                    data, kind = await self._state.exports.run(partial(archive.original, row), PICTURE_SECONDS)
                    stem = f"{folder_of(row)}/{row.id:08}-{file_name(row.part or row.frame or '')}"
                    place = stem + SUFFIXES.get(kind, "")
                    packed.writestr(_entry(place, row.captured), data)
                    values = await self._state.exports.run(partial(archive.anomaly_map, row), PICTURE_SECONDS)
                    if values is not None:
                        packed.writestr(_entry(f"maps/{stem}.npy", row.captured), values)
                except Refused:  # not kept, or deleted meanwhile
                    place = ""
                told.append((place, row))
                for piece in holder.taken():
                    yield piece
            packed.writestr(_entry("parts.csv", time.time()), table(told))
        for piece in holder.taken():
            yield piece


class _Counted(StreamingResponse):
    """Counts as under way until its end, whichever it is."""

    def __init__(self, export: Export, pieces: AsyncIterator[bytes], name: str) -> None:
        super().__init__(pieces, headers=_as_file(name), media_type="application/zip")
        self._export = export

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._export._running += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._export._running -= 1


class _Holder:
    """What the zip file wrote since the last look."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""

    def taken(self) -> list[bytes]:
        data, self._data = bytes(self._data), bytearray()
        return [data[start : start + PIECE] for start in range(0, len(data), PIECE)]


def folder_of(row: Record) -> str:
    """Where a part's picture belongs in a data set."""
    if row.label in _GOOD:
        return "test/good" if zlib.crc32(row.key.encode()) % FOR_TESTS == 0 else "train/good"
    if row.label in _DEFECT:
        return f"test/{row.defect or 'defect'}"
    return f"unlabelled/{row.verdict.value if row.verdict else 'none'}"


def table(rows: list[tuple[str, Record]]) -> str:
    """One line per inspection with the name of its file; text that a spreadsheet would run is made harmless."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for file, row in rows:
        when = datetime.fromtimestamp(row.captured or 0.0, timezone.utc).isoformat(timespec="milliseconds")
        said = [row.label or "", safe(row.defect), safe(row.note), row.bundle or "", row.backend or ""]
        verdict = row.verdict.value if row.verdict else ""
        names = [safe(row.source), safe(row.part), safe(row.frame)]
        writer.writerow([file, row.id, *names, when, verdict, row.score, row.threshold, *said])
    return text.getvalue()


def _entry(name: str, moment: float | None) -> zipfile.ZipInfo:
    when = time.localtime(moment or 0.0)[:6]
    entry = zipfile.ZipInfo(name, (max(when[0], 1980), *when[1:]))
    entry.external_attr = 0o644 << 16
    return entry


def _as_file(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
