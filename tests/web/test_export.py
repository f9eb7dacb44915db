"""Labels and what is taken away: a search's parts as CSV, and as a data set to train and evaluate on."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from dskd.benchmarks.evaluate import labelled_pictures
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.result import Region, Verdict
from dskd.runtime.store import Record
from dskd.runtime.store.search import Label
from dskd.runtime.web.export import folder_of
from dskd.runtime.web.trend import medians, places
from dskd.train.data import find_images

from .conftest import Served, serve, wait_for_pictures


@pytest.fixture(scope="module")
def shop(bundle: Bundle, small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Twelve parts called good, one scratch, one defect without a kind, one part that nobody looked at."""
    page = serve(bundle, small_set / "test", tmp_path_factory.mktemp("shop"))
    store = page.station.store
    for _ in range(12):
        store.label(page.station.step("top", page.good), Label.GOOD, "ann")
    store.label(page.rejected, Label.DEFECT, "ann", "deep scratch", "=1+1 from the press")
    store.label(page.station.step("top", page.bad), Label.DEFECT, "ann")
    wait_for_pictures(page.station, 15)
    yield page
    page.server.stop()
    page.station.close()


@pytest.fixture
def calls(shop: Served) -> Iterator[httpx.Client]:
    with shop.client() as made:
        yield made


def test_labelled_parts_are_a_data_set_to_train_and_evaluate_on(
    shop: Served, calls: httpx.Client, tmp_path: Path
) -> None:
    answer = calls.get("/api/export.zip")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"].startswith('attachment; filename="parts-')
    packed = zipfile.ZipFile(io.BytesIO(answer.content))
    assert packed.testzip() is None
    packed.extractall(tmp_path)
    found = find_images(tmp_path)
    tested = {item.defect for item in labelled_pictures(tmp_path)}
    assert {"deep scratch", "defect"} <= tested <= {"good", "deep scratch", "defect"}
    assert len(found.good) + sum(item.defect == "good" for item in found.test) == 12
    assert len(found.good) > 6
    assert len(list((tmp_path / "unlabelled" / "PASS").iterdir())) == 1
    rows = list(csv.DictReader(io.StringIO((tmp_path / "parts.csv").read_text())))
    assert all((tmp_path / row["file"]).is_file() for row in rows)
    maps = [tmp_path / "maps" / Path(row["file"]).with_suffix(".npy") for row in rows]
    highest = [float(np.load(path, allow_pickle=False).max()) for path in maps]
    assert highest == pytest.approx([float(row["score"]) for row in rows], rel=1e-4)
    scratch = next(row for row in rows if row["defect"])
    assert (scratch["label"], scratch["defect"], scratch["note"]) == (
        "confirmed defect", "deep scratch", "'=1+1 from the press",
    )  # fmt: skip


def test_an_export_holds_what_was_looked_for(shop: Served, calls: httpx.Client) -> None:
    rows = list(csv.DictReader(io.StringIO(calls.get("/api/export.csv?label=defect").text)))
    assert [row["verdict"] for row in rows] == ["REJECT", "REJECT"]
    assert calls.get("/api/export.zip?part=nothing-like-it").status_code == 404
    assert calls.get("/api/export.csv?part=nothing-like-it").text.count("\n") == 1


def test_the_kinds_of_defect_are_known(shop: Served, calls: httpx.Client) -> None:
    assert calls.get("/api/defects").json() == {"kinds": ["deep scratch"]}


@pytest.mark.parametrize("name", ["../up", "good", "OK", "a/b", ".hidden", "x" * 41, " blank", "a\nb"])
def test_a_kind_of_defect_is_a_plain_folder_name(shop: Served, calls: httpx.Client, name: str) -> None:
    body = {"found": "defect", "defect": name}
    answer = calls.post(f"/api/inspections/{shop.rejected}/label", json=body, headers=shop.bearer)
    assert answer.status_code == 400, name


def test_a_label_with_kind_and_note_is_kept_and_taken_away(shop: Served, calls: httpx.Client) -> None:
    path = f"/api/inspections/{shop.passed}"
    body = {"found": "defect", "defect": "Kratzer außen", "note": "two\nlines"}
    assert calls.post(f"{path}/label", json=body, headers=shop.bearer).json() == {"label": "missed defect"}
    row = calls.get(path).json()
    assert (row["label"], row["defect"], row["note"]) == ("missed defect", "Kratzer außen", "two lines")
    newest = calls.get("/api/audit?limit=1").json()["entries"][0]
    assert (newest["record"], newest["detail"]) == (
        shop.passed, f"record {shop.passed}: missed defect, Kratzer außen, two lines",
    )  # fmt: skip
    assert calls.post(f"{path}/label", json={"found": None}, headers=shop.bearer).json() == {"label": None}
    assert calls.get(path).json()["label"] is None


@pytest.mark.parametrize(
    ("query", "word"),
    [("label=maybe", "label"), ("least=high", "least"), ("since=nan", "since"), ("part=" + "x" * 300, "part"), ("verdict=OK", "verdict"), ("order=best", "order")],
)  # fmt: skip
def test_a_wrong_search_is_told_in_a_sentence(calls: httpx.Client, query: str, word: str) -> None:
    answer = calls.get(f"/api/inspections?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{word}: ")


def test_a_search_by_time_score_and_label(shop: Served, calls: httpx.Client) -> None:
    ids = lambda query: [row["id"] for row in calls.get(f"/api/inspections?{query}").json()["inspections"]]  # noqa: E731
    captured = calls.get(f"/api/inspections/{shop.rejected}").json()["captured"]
    assert ids(f"since={captured}&until={captured + 1e-4}&verdict=REJECT") == [shop.rejected]
    assert shop.rejected in ids("least=1.01")
    assert ids("most=0.1") == []
    assert len(ids("label=defect")) == 2
    assert len(ids("label=none&verdict=PASS,REVIEW,REJECT")) == 1


# ----------------------------------------------------------------------------------------------------------- trend


def test_the_trend_of_a_shift(shop: Served, calls: httpx.Client) -> None:
    found = calls.get("/api/cameras/top/trend?hours=1").json()
    totals: dict[str, int] = {}
    for _, outcome, number in found["quarters"]:
        totals[outcome] = totals.get(outcome, 0) + number
    assert totals == {"PASS": 13, "REJECT": 2}
    assert found["rejects"] == 2
    assert sum(number for *_, number in found["places"]) == 2
    assert found["scores"]
    assert found["band"][0] < found["band"][1] <= found["review"]
    assert found["reference"] == "held-out good images"
    assert calls.get("/api/cameras/nobody/trend").status_code == 404
    assert calls.get("/api/cameras/top/trend?hours=0").status_code == 400


def record(x: int, y: int, label: Label | None = None, key: str = "s-1", defect: str = "") -> Record:
    return Record(
        1, key, "inspection", "top", "f", 0.0, None, Verdict.REJECT, 2.0, 1.0, (Region((x, y, 10, 10), 9, 1.0),), {},
        "b", "o", None, None, None, None, None if label is None else label.value, defect,
    )  # fmt: skip


def test_places_are_counted_by_the_worst_region() -> None:
    rows = [record(0, 0), record(295, 195), record(294, 190), record(145, 95)]
    assert places(rows, (300, 200)) == [[2, 2, 2], [0, 0, 1], [1, 1, 1]]
    assert places(rows, None) == []


def test_every_fifth_good_part_is_kept_for_the_test_always_the_same() -> None:
    rows = [record(0, 0, Label.FALSE_ALARM, f"s-{k}") for k in range(500)]
    folders = [folder_of(row) for row in rows]
    assert folders == [folder_of(row) for row in rows]
    assert set(folders) == {"train/good", "test/good"}
    assert 70 < folders.count("test/good") < 130
    assert folder_of(record(0, 0, Label.MISSED, defect="dent")) == "test/dent"
    assert folder_of(record(0, 0)) == "unlabelled/REJECT"


def test_medians_are_those_of_passes_in_order() -> None:
    from dskd.runtime.store import Scored

    rows = [
        Scored(k, float(k), k / 10, 1.0, Verdict.PASS if k < 10 else Verdict.REJECT, "b", "o", None) for k in range(20)
    ]
    assert medians(rows) == [[4.0, 0.2, 5], [9.0, 0.7, 5]]
    assert medians([]) == []
