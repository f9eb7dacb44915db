"""Routes that show the present: state of the station, live picture, health."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict

from starlette.responses import Response

from dskd.runtime.station.control import CameraStatus, PartStatus, StationStatus, health_fields
from dskd.runtime.store import Record
from dskd.runtime.web.answers import as_json
from dskd.runtime.web.app_state import AppState
from dskd.runtime.web.endpoint import Call, Endpoint, Refused
from dskd.runtime.web.live import key_of

SHARED_SECONDS = 0.1  # all viewers within it get one look at the station
FRESH_SECONDS = 5.0  # a verdict older than this is shown as past, not as live
LOOK_BACK = 100  # newest records among which a camera's last one is looked for


class StatusRoutes:
    """The state, looked up at most ten times a second however many watch."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._made = -1e9
        self._fields: dict[str, object] = {}
        self._newest = -1
        self._last: dict[str, Record] = {}

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        return [
            Endpoint("GET", "/healthz", "200 where the station works, 503 where it does not", self.health, open=True),
            Endpoint("GET", "/api/state", "everything that the page shows but pictures and lists", self.state),
            Endpoint(
                "GET", "/api/cameras/{camera}/live", "the newest picture with what was decided; 204 where it is the "
                "one that 'after' names, 404 before the first", self.live,
                query={"after": "key of the last picture", "width": "pixels that are needed", "heat": "1 for the map"},
            ),
        ]  # fmt: skip

    async def health(self, _: Call) -> Response:
        """For watchdogs and load balancers; tells no more than the health of each part."""
        status = await self._state.view(self._state.control.status)
        return as_json(health_fields(status), 503 if status.health == "fault" else 200)

    async def state(self, call: Call) -> Response:
        """Shared by all viewers, but for who signed in."""
        fields = await self._state.view(self._shared)
        person = call.person
        return as_json({**fields, "person": None if person is None else person.name})

    async def live(self, call: Call) -> Response:
        """One picture."""
        width = call.whole("width", 960, 1, 100_000) or 960
        after, heat = call.query.get("after"), call.query.get("heat") == "1"
        name = call.path("camera")

        def draw() -> dict[str, object] | None:
            self._state.camera(name)
            live = self._state.control.live(name)
            if live is None:
                raise Refused(404, "no picture yet")
            if after == key_of(live.inspection):
                return None
            return self._state.live.draw(name, live, width, heat)

        fields = await self._state.view(draw)
        return Response(status_code=204) if fields is None else as_json(fields)

    def _shared(self) -> dict[str, object]:
        with self._lock:
            if time.monotonic() - self._made > SHARED_SECONDS:
                self._fields = self._look()
                self._made = time.monotonic()
            return self._fields

    def _look(self) -> dict[str, object]:
        status, store = self._state.control.status(), self._state.store
        newest = store.newest()
        if newest != self._newest:
            for record in store.after(newest - LOOK_BACK, LOOK_BACK):
                self._last[record.source] = record
            self._newest = newest
        return {
            "name": status.name,
            "health": status.health,
            "started": status.started,
            "now": status.now,
            "utc_offset_s": time.localtime(status.now).tm_gmtoff,
            "fresh_s": FRESH_SECONDS,
            "newest": newest,
            "recipes": list(status.recipes),
            "shifts": list(self._state.shifts),
            "pictures": self._state.archive is not None,
            "cameras": [self._camera(camera, status) for camera in status.cameras],
            "parts": [_part(part) for part in status.parts],
        }

    def _camera(self, camera: CameraStatus, status: StationStatus) -> dict[str, object]:
        fields = asdict(camera)
        fields.pop("status")
        live = self._state.control.live(camera.status.name)
        found = None if live is None else live.inspection
        last = None
        if found is not None:
            last = {**found.as_dict(), "key": key_of(found), "age_s": max(0.0, status.now - found.captured)}
        record = self._last.get(camera.status.name)
        missed = None if record is None else _missed(record, status.now, 0.0 if found is None else found.captured)
        return {**_part(camera.status), **fields, "last": last, "missed": missed}


def _part(part: PartStatus) -> dict[str, object]:
    return asdict(part)


def _missed(record: Record, now: float, since: float) -> dict[str, object] | None:
    """A newest record that no inspection stands behind: a dropped frame or a fail-safe answer."""
    if record.kind == "inspection" or record.inspection is not None:
        return None
    at = record.answered or record.captured or 0.0
    if at < since:
        return None
    verdict = None if record.verdict is None else record.verdict.value
    return {
        "reason": record.reason,
        "part": record.part,
        "verdict": verdict,
        "at": at,
        "age_s": max(0.0, now - at),
    }
