"""Thresholds that come from outside: which scores they are judged by, and when the station asks before it uses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from line_records import inspection

from dskd.runtime.result import Verdict
from dskd.runtime.store import Label, Scored, Store
from dskd.runtime.web.threshold_check import FEWEST, Basis, Limits, doubts

from .conftest import Served

NOW = Limits(1.0, 2.0)
GOOD = [0.1 + k / 100 for k in range(40)]


def scored(score: float, label: Label | None = None, threshold: float = 2.0, verdict: Verdict | None = None) -> Scored:
    judged = verdict or (Verdict.REJECT if score > 2 else Verdict.REVIEW if score > 1 else Verdict.PASS)
    return Scored(1, 0.0, score, threshold, judged, "b1", "onnxruntime-cpu", label and label.value)


def told(then: Limits, *rows: Scored) -> str:
    known = [row for row in rows if row.label in (Label.DEFECT.value, Label.MISSED.value)]
    return "; ".join(doubts(Basis([*rows, *(scored(score) for score in GOOD)], known, 0), NOW, then))


@pytest.mark.parametrize("then", [NOW, Limits(0.4, 0.45), Limits(0.9, 3.9), Limits(1.5, 1.5), Limits(0.2, 3.0)])
def test_sensible_thresholds_raise_no_doubt(then: Limits) -> None:
    assert told(then) == ""


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (Limits(-1e9, -1e9), "no part would pass, because scores are not below 0"),
        (Limits(0.05, 0.05), "none of the last 41 parts would pass"),
        (Limits(0.0, 3.0), "none of the last 41 parts would pass"),
        (Limits(1.0, 20.0), "reject over 20 is far over every score and the present threshold (3)"),
        (Limits(3.5, 3.6), "all of the last 41 parts would pass, also 1 that do not pass now"),
    ],
)
def test_thresholds_that_reject_or_pass_everything_raise_one(then: Limits, words: str) -> None:
    assert words in told(then, scored(3.0))


def test_a_known_defect_that_would_pass_raises_one_however_old_it_is() -> None:
    assert "1 of 1 known defect would pass" in told(Limits(2.5, 2.6), scored(2.4, Label.DEFECT))
    assert told(Limits(2.0, 2.6), scored(2.4, Label.DEFECT)) == ""  # somebody looks at it
    assert told(Limits(1.5, 1.6), scored(0.2, Label.MISSED), scored(1.7)) == ""  # it passes now already
    old = Basis([scored(score) for score in GOOD], [scored(2.4, Label.DEFECT)], 0)
    assert doubts(old, NOW, Limits(2.5, 2.6)) == ["1 of 1 known defect would pass"]


def test_false_alarms_may_pass_and_what_passed_for_its_size_still_does() -> None:
    assert told(Limits(3.0, 3.0), scored(2.5, Label.FALSE_ALARM)) == ""
    assert NOW.verdict_of(scored(5.0, verdict=Verdict.PASS)) is Verdict.PASS


def test_a_station_with_few_parts_or_none_takes_what_is_near() -> None:
    few = Basis([scored(0.5)] * (FEWEST - 1), [], 0)
    assert doubts(few, NOW, Limits(0.1, 0.2)) == []
    assert doubts(Basis([], [], 0), NOW, Limits(0.1, 3.0)) == []
    assert doubts(Basis([], [], 0), NOW, Limits(1.0, 20.0)) != []


def test_known_defects_come_from_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.db")
    ids = store.add([inspection(k) for k in range(4)])
    for record, label in zip(ids, (Label.GOOD, Label.DEFECT, Label.MISSED, Label.FALSE_ALARM), strict=True):
        store.label(record, label, "ann")
    assert [row.id for row in store.scores("top", 9, "known defects")] == [ids[2], ids[1]]
    store.close()


# --------------------------------------------------------------------------------------------------- as a call


@pytest.fixture
def settings(served: Served) -> Iterator[tuple[float, float]]:
    """The thresholds in use, put back afterwards."""
    before = served.station.inspectors["top"].settings
    yield before.review, before.reject
    served.station.inspectors["top"].settings = before


def test_doubtful_thresholds_are_refused_until_confirmed(
    served: Served, client: httpx.Client, settings: tuple[float, float]
) -> None:
    path, wish = "/api/cameras/top/thresholds", {"review": 1e6, "reject": 1e6}
    answer = client.post(path, json=wish, headers=served.bearer)
    assert answer.status_code == 422
    assert "is far over every score" in answer.json()["error"]
    assert answer.json()["error"].endswith("Confirm to use them all the same.")
    assert client.get("/api/cameras/top/scores").json()["scores"][0]["threshold"] == settings[1]
    assert client.post(path, json={**wish, "confirm": True}, headers=served.bearer).json() == wish
    back = {"review": settings[0], "reject": settings[1]}
    assert client.post(path, json=back, headers=served.bearer).json() == back  # as clients of old say it


def test_thresholds_for_another_bundle_are_refused_even_if_confirmed(
    served: Served, client: httpx.Client, settings: tuple[float, float]
) -> None:
    wish = {"review": settings[0], "reject": settings[1], "bundle": "older-0123456789ab", "confirm": True}
    answer = client.post("/api/cameras/top/thresholds", json=wish, headers=served.bearer)
    assert (answer.status_code, "runs bundle" in answer.json()["error"]) == (409, True)
    wish["bundle"] = client.get("/api/state").json()["cameras"][0]["bundle"]
    assert client.post("/api/cameras/top/thresholds", json=wish, headers=served.bearer).status_code == 200


def test_a_body_that_names_a_field_twice_is_refused(served: Served, client: httpx.Client) -> None:
    headers = {**served.bearer, "content-type": "application/json"}
    raw = b'{"review": 0.1, "review": 0.2, "reject": 0.3}'
    answer = client.post("/api/cameras/top/thresholds", content=raw, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "the body names a field twice")


def test_the_preview_holds_scores_of_the_present_bundle_and_backend_alone(served: Served, client: httpx.Client) -> None:
    """Those of others are on another scale: among them a threshold cannot be chosen."""
    foreign = [inspection(k, Verdict.REJECT, score=50.0, bundle="older-0123456789ab") for k in range(3)]
    ids = served.station.store.add(foreign)
    served.station.store.label(ids[0], Label.DEFECT, "ann")
    found = client.get("/api/cameras/top/scores").json()
    assert found["others"] == 3
    bundle = client.get("/api/state").json()["cameras"][0]["bundle"]
    assert {row["bundle"] for row in found["scores"]} == {bundle}
    assert found["defects"] == []
