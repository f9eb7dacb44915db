"""Routes that show the past: stored inspections and their pictures, counts, scores, the audit log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict

from starlette.responses import Response

from dskd.runtime.station.threshold_change import ThresholdChange
from dskd.runtime.store import Audited, Record, Scored
from dskd.runtime.web.answers import Blob, as_json
from dskd.runtime.web.app_state import AppState
from dskd.runtime.web.archive import Archive
from dskd.runtime.web.endpoint import MOST_ID, Call, Endpoint, Handler, Refused
from dskd.runtime.web.searching import FIELDS, search_of
from dskd.runtime.web.threshold_check import basis

MOST_ROWS = 200
MOST_SCORES = 5000
LONG_AGO = 10 * 366 * 86400.0
_ABOUT = re.compile(r"record (\d{1,18}):")
PAGING = {"before": "the id of the last one, to page on", "limit": f"1 to {MOST_ROWS}"}


class History:
    """Looks things up by record id; no path or file name ever comes from a request."""

    def __init__(self, state: AppState) -> None:
        self._state, self._store = state, state.store

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        one = "/api/inspections/{id}"
        which = {**FIELDS, **PAGING}
        return [
            Endpoint("GET", "/api/inspections", "stored inspections in that order, newest first by itself", self.inspections, query=which),
            Endpoint("GET", one, "one stored inspection", self.inspection),
            Endpoint("GET", f"{one}/thumbnail", "its picture, small", self._picture(Archive.thumbnail)),
            Endpoint("GET", f"{one}/original", "its picture as it was inspected", self._picture(Archive.original)),
            Endpoint("GET", f"{one}/heat", "its heat layer, to lay over 'crop'", self._picture(Archive.heat)),
            Endpoint(
                "GET", "/api/counts", "parts by verdict", self.counts,
                query={"since": "seconds since the epoch", "camera": "one camera's only"},
            ),
            Endpoint(
                "GET", "/api/cameras/{camera}/scores", "scores of the last parts by the present bundle and backend, "
                "newest first, with labels; 'defects' are all known ones, 'others' counts last parts left out",
                self.scores, query={"last": f"1 to {MOST_SCORES}"},
            ),
            Endpoint("GET", "/api/defects", "kinds of defect that people named, the most frequent first", self.kinds),
            Endpoint("GET", "/api/audit", "who changed what, newest first", self.audit, query=PAGING),
        ]  # fmt: skip

    async def inspections(self, call: Call) -> Response:
        """A page of inspections."""
        limit, before = call.whole("limit", 24, 1, MOST_ROWS), call.whole("before", None, 0, MOST_ID)
        search = search_of(call, "REVIEW,REJECT")
        rows = await self._state.view(lambda: self._store.search(search, limit or 24, before))
        return as_json({"inspections": [_row(row) for row in rows]})

    async def inspection(self, call: Call) -> Response:
        """One inspection; says which pictures were kept."""
        number, archive = call.record_id(), self._state.archive

        def look() -> dict[str, object]:
            record = self._record(number)
            nothing: dict[str, object] = {"picture": False, "heat": False, "crop": None}
            return {**_row(record), **(nothing if archive is None else archive.layers(record))}

        return as_json(await self._state.view(look))

    def _picture(self, take: Callable[[Archive, Record], tuple[bytes, str]]) -> Handler:
        async def handler(call: Call) -> Response:
            number, archive = call.record_id(), self._state.archive
            if archive is None:
                raise Refused(404, "this station keeps no pictures; add an archive sink to its file")
            kept = archive
            data, kind = await self._state.view(lambda: take(kept, self._record(number)))
            return Blob(data, headers={"cache-control": "private, max-age=3600, immutable"}, media_type=kind)

        return handler

    async def counts(self, call: Call) -> Response:
        """Counts of whole quarters of an hour."""
        until = time.time() + 1
        since = max(call.number("since", until - 86400), until - LONG_AGO)
        camera = call.query.get("camera") or None
        totals = await self._state.view(lambda: self._store.totals(since, until, camera))
        return as_json({"since": since, "counts": totals})

    async def scores(self, call: Call) -> Response:
        """What the preview of a threshold rests on: one judged value per part, of one bundle."""
        camera, last = call.path("camera"), call.whole("last", 500, 1, MOST_SCORES) or 500

        def look() -> dict[str, object]:
            found = basis(self._store, self._state.camera(camera), last)
            return {"scores": _scored(found.recent), "defects": _scored(found.defects), "others": found.others}

        return as_json(await self._state.view(look))

    async def audit(self, call: Call) -> Response:
        """A page of the audit log."""
        limit, before = call.whole("limit", 50, 1, MOST_ROWS), call.whole("before", None, 0, MOST_ID)
        rows = await self._state.view(lambda: self._store.audit_log(limit or 50, before))
        return as_json({"entries": [_entry(row) for row in rows]})

    async def kinds(self, _: Call) -> Response:
        """For the field in which somebody names one."""
        return as_json({"kinds": await self._state.view(self._store.kinds_of_defect)})

    def _record(self, number: int) -> Record:
        record = self._store.record(number)
        if record is None or record.kind != "inspection":
            raise Refused(404, "there is no such inspection; it may have been deleted to make room")
        return record


def _scored(rows: list[Scored]) -> list[dict[str, object]]:
    return [{**asdict(row), "verdict": row.verdict.value} for row in rows]


def _row(record: Record) -> dict[str, object]:
    said = {} if record.label is None else {"defect": record.defect, "note": record.note}
    return {**record.as_dict(), "label": record.label, **said}


def _entry(row: Audited) -> dict[str, object]:
    """An entry; "record" is what a label is about, "change" what a change of thresholds was from and to."""
    fields: dict[str, object] = asdict(row)
    if found := _ABOUT.match(row.detail):
        fields["record"] = int(found.group(1))
    if row.action == "thresholds" and (change := ThresholdChange.parse(row.detail)):
        old, new = ({"review": pair[0], "reject": pair[1]} for pair in (change.old, change.new))
        fields["change"] = {"cameras": change.cameras.split(", "), "bundle": change.bundle, "from": old, "to": new}
    return fields
