"""What a shift lead asks: parts by verdict over time, where on the part defects lie, and how scores move."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from starlette.responses import Response

from dskd.runtime.result import Verdict
from dskd.runtime.store import Record, Scored, Search
from dskd.runtime.web.answers import as_json
from dskd.runtime.web.app_state import AppState
from dskd.runtime.web.endpoint import Call, Endpoint
from dskd.runtime.web.threshold_check import basis

MOST_HOURS = 24 * 35
MOST_PARTS = 2_000  # rejects whose places are counted, and scores that are drawn
POINTS = 48  # of the score's line
BAND = (0.05, 0.95)  # quantiles of the reference
SIDE = 3  # cells of a part, each way


class Trend:
    """One route."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        return [
            Endpoint(
                "GET", "/api/cameras/{camera}/trend", "parts by verdict per quarter of an hour, where rejects had "
                "their worst region, and medians of passes beside the band of the reference; "
                "'quality' has moment, brightness, contrast and sharpness of a picture a minute", self.trend,
                query={"hours": f"1 to {MOST_HOURS}, to look back"},
            )
        ]  # fmt: skip

    async def trend(self, call: Call) -> Response:
        """Everything that the page draws."""
        name, hours = call.path("camera"), call.whole("hours", 24, 1, MOST_HOURS) or 24

        def look() -> dict[str, object]:
            camera, store = self._state.camera(name), self._state.store
            until = time.time() + 1
            since = until - 3600 * hours
            counts = [c for c in store.counts(since - since % 900, until) if c.source == name]
            rejects = store.search(Search((Verdict.REJECT,), name, since=since), MOST_PARTS)
            recent = [row for row in basis(store, camera, MOST_PARTS).recent if row.captured >= since]
            found = self._state.control.reference(name)
            cut = [] if found is None else [score for score in found[0] if score <= camera.review]
            return {
                "since": since,
                "until": until,
                "quarters": [[c.start, c.outcome, c.number] for c in counts],
                "places": places(rejects, self._size(name)),
                "rejects": len(rejects),
                "scores": medians(recent),
                "review": camera.review,
                "reject": camera.reject,
                "band": [float(value) for value in np.quantile(cut, BAND)] if cut else None,
                "reference": None if found is None else found[1],
                "quality": [list(one) for one in self._state.control.quality(name) if one.at >= since],
            }

        return as_json(await self._state.view(look))

    def _size(self, camera: str) -> tuple[int, int] | None:
        live = self._state.control.live(camera)
        return None if live is None else (live.image.shape[1], live.image.shape[0])


def places(rejects: Sequence[Record], size: tuple[int, int] | None) -> list[list[int]]:
    """[row, column, rejects] of the cells of a part, most first; nothing where the picture's size is not known."""
    if size is None:
        return []
    cells: Counter[tuple[int, int]] = Counter()
    for record in rejects:
        if record.regions:
            x, y, width, height = record.regions[0].box
            column, row = (x + width / 2) / size[0], (y + height / 2) / size[1]
            cells[_cell(row), _cell(column)] += 1
    return [[*cell, number] for cell, number in cells.most_common()]


def medians(rows: Sequence[Scored]) -> list[list[float]]:
    """[moment, median of the passes' scores, passes] of up to ``POINTS`` groups alike in size, oldest first."""
    passes = sorted((row.captured, row.score) for row in rows if row.verdict is Verdict.PASS)
    if not passes:
        return []
    groups = np.array_split(np.asarray(passes), min(POINTS, max(1, len(passes) // 5)))
    return [[float(group[-1, 0]), float(np.median(group[:, 1])), len(group)] for group in groups]


def _cell(share: float) -> int:
    return min(SIDE - 1, max(0, int(SIDE * share)))
