"""Routes that change something. Each needs the token and names who asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator
from starlette.responses import Response

from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.errors import one_line
from dskd.runtime.result import Verdict
from dskd.runtime.station.control import CameraStatus
from dskd.runtime.store import Label, Record
from dskd.runtime.web.answers import as_json
from dskd.runtime.web.app_state import AppState
from dskd.runtime.web.endpoint import Call, Endpoint, Refused
from dskd.runtime.web.threshold_check import Limits, basis, doubts

Kind = Annotated[str, Field(max_length=40, pattern=r"^(\w([\w -]*\w)?)?$")]
Score = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
PartName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.:-]+$")]


class Thresholds(Strict):
    """Over ``review`` a person looks, over ``reject`` the part goes out."""

    review: Score
    reject: Score
    bundle: Annotated[str, Field(max_length=300)] | None = Field(
        None, description="id of the bundle that they are meant for; refused where the camera runs another one by now"
    )
    confirm: bool = Field(False, description="use them although the last parts speak against them")


class Recipe(Strict):
    """The recipe's name in the station file."""

    recipe: Annotated[str, Field(min_length=1, max_length=200)]


class Trigger(Strict):
    """The part's name; the station gives one where there is none."""

    part: PartName | None = None


class Look(Strict):
    """What a person found on the part: nothing wrong, or a defect, and which kind; null takes the label away."""

    found: Literal["good", "defect"] | None
    defect: Kind = Field(
        "", description="kind of defect: letters, digits, blanks, - and _; a folder's name in an export"
    )
    note: Annotated[str, Field(max_length=400)] = ""

    @field_validator("defect")
    @classmethod
    def _no_class_of_good_parts(cls, name: str) -> str:
        if name.lower() in ("good", "ok"):
            raise ValueError(f"{name} is what good parts are called; name the kind of defect")
        return name


class Empty(Strict):
    """Nothing."""


class Changes:
    """Thresholds, recipe, trigger, labels, judging again."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        camera, one = "/api/cameras/{camera}", "/api/inspections/{id}"
        return [
            Endpoint(
                "POST", f"{camera}/thresholds", "thresholds from the next part on; 422 where the last parts or known "
                "defects speak against them and 'confirm' is not true", self.thresholds, True, body=Thresholds,
            ),
            Endpoint("POST", f"{camera}/recipe", "another recipe from the next part on", self.recipe, True, body=Recipe),
            Endpoint("POST", "/api/clock", "the clock is right although it jumped", self.clock, True, body=Empty),
            Endpoint("POST", f"{camera}/trigger", "inspects one part now", self.trigger, True, body=Trigger),
            Endpoint("POST", f"{one}/label", "what a person found on the part", self.label, True, body=Look),
            Endpoint(
                "POST", f"{one}/rejudge", "what the present recipe says of the stored picture; nothing is stored",
                self.rejudge, True, body=Empty,
            ),
        ]  # fmt: skip

    async def thresholds(self, call: Call) -> Response:
        """Changes both at once."""
        name, wish, control = call.path("camera"), call.body, self._state.control

        def work() -> None:
            camera = self._state.camera(name)
            wanted = wish.bundle or camera.bundle
            if not wish.confirm and wanted == camera.bundle and wish.review <= wish.reject:
                self._ask(camera, Limits(wish.review, wish.reject))
            control.set_thresholds(name, wish.review, wish.reject, call.who, wanted)

        await self._state.change(work)
        return as_json({"review": wish.review, "reject": wish.reject})

    async def recipe(self, call: Call) -> Response:
        """Answers once the recipe is in use."""
        camera, wish, control = call.path("camera"), call.body, self._state.control

        def work() -> None:
            if wish.recipe not in control.status().recipes:
                raise Refused(404, "there is no such recipe in the station file")
            self._state.camera(camera)
            control.set_recipe(camera, wish.recipe, call.who)

        await self._state.change(work)
        return as_json({"recipe": wish.recipe})

    async def clock(self, call: Call) -> Response:
        """Deletion by age goes on."""
        await self._state.change(lambda: self._state.control.accept_clock(call.who))
        return as_json({"clock": "accepted"})

    async def trigger(self, call: Call) -> Response:
        """Gives the part's name."""
        camera, wish = call.path("camera"), call.body

        def work() -> str:
            self._state.camera(camera)
            return self._state.control.trigger(camera, wish.part)

        return as_json({"part": await self._state.change(work)}, 202)

    async def label(self, call: Call) -> Response:
        """Kept with the record; thresholds and drift are judged by it."""
        number, look = call.record_id(), call.body
        defect = look.defect if look.found == "defect" else ""

        def work() -> str | None:
            record = self._inspection(number)
            label = None if look.found is None else _label(look.found, record.verdict)
            self._state.store.label(number, label, call.who, defect, one_line(look.note))
            return None if label is None else label.value

        return as_json({"label": await self._state.change(work)})

    async def rejudge(self, call: Call) -> Response:
        """Picture, heat map and verdict as for a live one."""
        number, archive = call.record_id(), self._state.archive
        if archive is None:
            raise Refused(404, "this station keeps no pictures; add an archive sink to its file")
        kept = archive

        def work() -> dict[str, object]:
            record = self._inspection(number)
            self._state.camera(record.source)
            return kept.judged_again(record, self._state.control)

        return as_json(await self._state.change(work))

    def _ask(self, camera: CameraStatus, then: Limits) -> None:
        told = doubts(basis(self._state.store, camera), Limits(camera.review, camera.reject), then)
        if told:
            raise Refused(422, f"With these thresholds {'; '.join(told)}. Confirm to use them all the same.")

    def _inspection(self, number: int) -> Record:
        record = self._state.store.record(number)
        if record is None or record.kind != "inspection":
            raise Refused(404, "there is no such inspection; it may have been deleted to make room")
        return record


def _label(found: str, verdict: Verdict | None) -> Label:
    """The same look at the part means different things after different verdicts."""
    if found == "good":
        return Label.FALSE_ALARM if verdict is Verdict.REJECT else Label.GOOD
    return Label.MISSED if verdict is Verdict.PASS else Label.DEFECT
