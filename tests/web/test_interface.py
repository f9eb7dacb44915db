"""The page's interface: what each route gives, and what it makes of calls that are wrong."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from dskd.runtime.web.guard import LARGEST_BODY

from .conftest import Served, wait_for_pictures


def picture(answer: httpx.Response) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_the_page_and_its_files(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in ("app.js", "base.css", "icon.svg"):
        assert f"/static/{name}" in page.text
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        assert client.get(f"/static/{name}", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_nothing_comes_from_elsewhere_and_no_script_stands_in_the_page(client: httpx.Client) -> None:
    folder = Path(__file__).parents[2] / "runtime" / "web" / "static"
    found = {
        link
        for file in folder.iterdir()
        for link in re.findall(r"(?:https?:)?//[a-z0-9.-]+[.][a-z]+", file.read_text())
    }
    assert found == {"http://www.w3.org"}  # the name of SVG, which nobody fetches
    page = client.get("/").text
    assert "<script>" not in page
    assert "style=" not in page
    assert " on" + "click=" not in page
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_every_answer_carries_the_security_headers(served: Served, client: httpx.Client) -> None:
    for path in ("/", "/api/state", "/healthz", "/nowhere", f"/api/inspections/{served.rejected}/original"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_state_tells_all_that_the_page_shows(served: Served, client: httpx.Client) -> None:
    state = client.get("/api/state").json()
    camera = state["cameras"][0]
    assert state["name"] == "line-3"
    assert camera["last"]["verdict"] in ("PASS", "REVIEW", "REJECT")
    assert camera["last"]["age_s"] >= 0
    assert camera["captured"] == camera["inspected"] + camera["dropped"]
    assert state["newest"] >= served.rejected
    assert state["person"] is None


def test_a_dropped_part_takes_the_place_of_the_last_verdict(served: Served, client: httpx.Client) -> None:
    served.station.step("top", served.good)
    assert fresh(client)["missed"] is None
    served.station.drop("top", "the picture is black")
    missed = fresh(client)["missed"]
    assert (missed["verdict"], missed["reason"]) == ("REJECT", "the picture is black")
    served.station.step("top", served.good)
    assert fresh(client)["missed"] is None


def fresh(client: httpx.Client) -> dict:
    time.sleep(0.15)  # viewers share one look at the station
    return client.get("/api/state").json()["cameras"][0]


def test_live_picture_heat_map_and_verdict_belong_together(served: Served, client: httpx.Client) -> None:
    served.station.step("top", served.bad)
    live = client.get("/api/cameras/top/live?heat=1&width=400").json()
    assert live["inspection"]["verdict"] == "REJECT"
    assert live["picture"].startswith("data:image/jpeg;base64,")
    assert live["heat"].startswith("data:image/png;base64,")
    assert live["size"] == [256, 192]
    assert live["crop"] == [0, 0, 256, 192]
    assert client.get(f"/api/cameras/top/live?after={live['key']}").status_code == 204
    assert client.get("/api/cameras/top/live").json()["heat"] is None
    assert client.get("/api/cameras/nobody/live").status_code == 404


def test_stored_inspections_by_verdict_and_page(served: Served, client: httpx.Client) -> None:
    for _ in range(3):
        served.station.step("top", served.bad)
    rows = client.get("/api/inspections?verdict=REJECT&limit=2").json()["inspections"]
    assert [row["verdict"] for row in rows] == ["REJECT", "REJECT"]
    older = client.get(f"/api/inspections?verdict=REJECT&limit=50&before={rows[-1]['id']}").json()["inspections"]
    assert served.rejected in [row["id"] for row in older]
    assert all(row["id"] < rows[-1]["id"] for row in older)
    assert client.get("/api/inspections?camera=other").json()["inspections"] == []


def test_pictures_of_a_stored_inspection(served: Served, client: httpx.Client) -> None:
    base = f"/api/inspections/{served.rejected}"
    row = client.get(base).json()
    assert (row["picture"], row["heat"], row["crop"]) == (True, True, None)
    original = picture(client.get(f"{base}/original"))
    assert (original == cv2.imread(str(served.bad))).all()
    heat = client.get(f"{base}/heat")
    layer = cv2.imdecode(np.frombuffer(heat.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert heat.headers["content-type"] == "image/png"
    assert layer.shape == (64, 96, 4)  # the map's size
    assert layer[..., 3].max() > 0  # something is seen of it: this part was rejected
    thumbnail = picture(client.get(f"{base}/thumbnail"))
    assert thumbnail.shape[1] <= 320


def test_a_picture_that_is_gone_is_said(served: Served, client: httpx.Client) -> None:
    record = served.station.step("top", served.bad)
    wait_for_pictures(served.station, served.station.pictures.status().delivered + 1)
    deadline = time.monotonic() + 20
    path = None
    while path is None and time.monotonic() < deadline:
        found = served.station.store.record(record)
        assert found is not None
        path = served.station.archive.original(found)
    assert path is not None
    path.unlink()
    assert client.get(f"/api/inspections/{record}").json()["picture"] is False
    for kind in ("original", "thumbnail"):
        assert client.get(f"/api/inspections/{record}/{kind}").status_code == 404


def test_counts_scores_audit(served: Served, client: httpx.Client) -> None:
    counts = client.get("/api/counts", params={"since": time.time() - 3600}).json()["counts"]
    assert counts["REJECT"] >= 1
    scores = client.get("/api/cameras/top/scores?last=5").json()["scores"]
    assert 1 <= len(scores) <= 5
    assert {"id", "score", "threshold", "verdict", "label"} <= set(scores[0])
    assert "entries" in client.get("/api/audit").json()


def test_health_follows_the_station(served: Served, client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    served.station.lost["top"] = "no frame for 10 seconds"
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["parts"]["camera top"]) == (503, "fault")
    served.station.lost.clear()


def test_the_interface_describes_every_route(served: Served, client: httpx.Client) -> None:
    document = client.get("/api").json()
    assert document["openapi"].startswith("3.1")
    for endpoint in served.server.endpoints:
        if endpoint.path == "/api":
            continue
        operation = document["paths"][endpoint.path][endpoint.method.lower()]
        assert operation["summary"]
        assert ("security" in operation) == endpoint.changes


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/cameras/top/thresholds", {"review": 2.0, "reject": 1.0}),
        ("/api/cameras/top/thresholds", {"review": 2.0}),
        ("/api/cameras/top/thresholds", {"review": True, "reject": 3}),
        ("/api/cameras/top/thresholds", {"review": "NaN", "reject": 3}),
        ("/api/cameras/top/thresholds", {"review": 1, "reject": 2, "more": 3}),
        ("/api/cameras/top/thresholds", {"review": -1e300, "reject": 1e300}),
        ("/api/cameras/top/trigger", {"part": "../../etc/passwd"}),
        ("/api/cameras/top/trigger", {"part": "a" * 65}),
        ("/api/cameras/top/trigger", []),
        ("/api/inspections/1/label", {"found": "perhaps"}),
    ],
)
def test_wrong_bodies_are_refused_in_one_sentence(
    served: Served, client: httpx.Client, path: str, body: object
) -> None:
    before = served.station.inspectors["top"].settings
    answer = client.post(path, json=body, headers=served.bearer)
    assert answer.status_code == 400
    assert len(answer.json()["error"].splitlines()) == 1
    assert served.station.inspectors["top"].settings == before


@pytest.mark.parametrize(
    "raw", [b"{", b"\xff\xfe", b"[" * 12000, b'{"review": NaN, "reject": 1}', b"9" * 10000, b"null"]
)
def test_bodies_that_are_no_json(served: Served, client: httpx.Client, raw: bytes) -> None:
    headers = {**served.bearer, "content-type": "application/json"}
    assert client.post("/api/cameras/top/thresholds", content=raw, headers=headers).status_code == 400


def test_oversized_bodies(served: Served, client: httpx.Client) -> None:
    headers = {**served.bearer, "content-type": "application/json"}
    large = json.dumps({"part": "x" * LARGEST_BODY}).encode()
    assert client.post("/api/cameras/top/trigger", content=large, headers=headers).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    chunked = client.post("/api/cameras/top/trigger", content=pieces(), headers=headers)
    assert chunked.status_code == 413
    assert client.get("/api/state").status_code == 200


TRICKS = [
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2f..%2ftoken", "/static//etc/passwd", "/static/app.js%00",
    "/static/%c0%ae%c0%ae/token", "/../../etc/passwd", "/api/inspections/../../token", "/api/inspections/..%2f1/original",
    "/api/inspections/1%00/original", "/api/inspections/-1/original", "/api/inspections/1e3/original",
    "/api/inspections/99999999999999999999999/original", "/api/inspections/%D9%A3/original", "/api/inspections/0/thumbnail",
    "/api/inspections/" + "9" * 5000 + "/original", "/api/cameras/..%2f..%2fetc/live", "/api/cameras/%00/live",
    "/api/cameras/" + "a" * 4000 + "/scores", "//evil.example/", "/API/STATE", "/api/state/", "/token",
]  # fmt: skip


@pytest.mark.parametrize("path", TRICKS)
def test_path_tricks_lead_nowhere(served: Served, path: str) -> None:
    with served.client() as client:
        request = client.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = client.send(request)
    assert answer.status_code in (400, 404), (path, answer.status_code)
    assert served.token not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/api/inspections?limit=0", "/api/inspections?limit=1e9", "/api/inspections?limit=9999999999999999999999",
        "/api/inspections?before=-1", "/api/inspections?before=x", "/api/inspections?verdict=MAYBE",
        "/api/counts?since=nan", "/api/counts?since=inf", "/api/counts?since=1e400", "/api/counts?since=yesterday",
        "/api/cameras/top/scores?last=100000", "/api/cameras/top/live?width=-5", "/api/audit?before=9223372036854775808",
    ],
)  # fmt: skip
def test_wrong_queries_are_refused(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 400


def test_wrong_methods(client: httpx.Client) -> None:
    assert client.post("/api/state", json={}).status_code == 405
    assert client.get("/api/cameras/top/trigger").status_code == 405
    assert client.request("TRACE", "/").status_code == 405
