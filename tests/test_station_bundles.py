"""Thresholds belong to one bundle: what happens where a bundle's folder gets another one while cameras run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from station_files import PATTERN, rows, wait_for, write_station
from tiny_bundle import tiny_bundle

from dskd.runtime.bundle.loading import hash_files, write_manifest
from dskd.runtime.errors import DskdError
from dskd.runtime.station.control import CameraStatus
from dskd.runtime.station.load import load_station
from dskd.runtime.station.recipe import Serving
from dskd.runtime.station.station import Station

CAMERAS = {name: {"source": PATTERN, "recipe": "a"} for name in ("left", "right")}
STRICT_A = {"a": {"bundle": "tiny", "review": 0.1, "reject": 0.1, "job": 1}, "b": {"bundle": "other", "job": 2}}
INT8 = "model.int8.cpu.onnx"
LATER = 5.0  # by how much the second bundle scores higher


@contextmanager
def running(folder: Path, **changes: object) -> Iterator[Station]:
    file = write_station(folder, **{"cameras": CAMERAS, "recipes": STRICT_A, **changes})
    if not (folder / "other").exists():
        shutil.copytree(folder / "tiny", folder / "other")
    station = Station(load_station(file))
    station.start()
    try:
        yield station
    finally:
        station.stop()


def camera(station: Station, name: str) -> CameraStatus:
    return next(found for found in station.status().cameras if found.status.name == name)


def exchange(folder: Path, error: float = 0.0) -> str:
    """Another bundle at the same place, as an update leaves it; its id."""
    shutil.rmtree(folder / "tiny")
    return tiny_bundle(folder / "tiny", shift=LATER, golden_error=error).id


def new_verdicts(station: Station, name: str) -> dict[str, int]:
    """How three or more frames from now on are judged."""
    old = camera(station, name).verdicts
    wait_for(lambda: sum(camera(station, name).verdicts.values()) >= sum(old.values()) + 5)
    now = camera(station, name).verdicts
    return {verdict: now[verdict] - old[verdict] for verdict in now if now[verdict] > old[verdict]}


def test_thresholds_for_a_new_bundle_never_judge_scores_of_the_old_one(tmp_path: Path) -> None:
    """The rejects of the right camera used to become passes: it had the new bundle's threshold and the old one's scores."""
    with running(tmp_path) as station:
        assert set(new_verdicts(station, "right")) == {"REJECT"}
        new = exchange(tmp_path)
        station.set_recipe("left", "b", "anna")
        station.set_recipe("left", "a", "anna")
        station.set_thresholds("left", LATER + 0.1, LATER + 0.1, "anna")
        assert set(new_verdicts(station, "right")) == {"REJECT"}
        for name in ("left", "right"):
            assert camera(station, name).bundle == new
    passed = rows(tmp_path, "SELECT count(*) FROM inspections WHERE verdict = 'PASS' AND source = 'right'")
    assert passed == [(0,)]
    judged = rows(tmp_path, "SELECT DISTINCT bundle = ?, threshold > 1 FROM inspections".replace("?", f"'{new}'"))
    assert (0, 1) not in judged  # no score of the old bundle was held against a threshold of the new one


def test_a_reload_moves_all_cameras_of_the_recipe_and_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as station:
        old, new = camera(station, "left").bundle, exchange(tmp_path)
        station.recipes.set_job(station.cameras["left"], 1, "plc")
        assert [camera(station, name).bundle for name in CAMERAS] == [new, new]
        assert station.cameras["left"].inspects is station.cameras["right"].inspects
        assert len(station.recipes._threads) == 1
        told = station.store.audit_log(1)[0]
        assert (told.who, told.action) == ("plc", "recipe")
        assert told.detail == (f"camera left: a to a, bundle {new}; camera right: a, from bundle {old} to the same")
        for name in CAMERAS:
            new_verdicts(station, name)
            state = camera(station, name)
            assert state.captured == state.inspected + state.dropped + state.waiting


def test_a_reload_that_fails_changes_no_camera(tmp_path: Path) -> None:
    with running(tmp_path) as station:
        before = [station.cameras[name].serving for name in CAMERAS]
        exchange(tmp_path, error=1.0)
        with pytest.raises(DskdError, match="not exact enough"):
            station.set_recipe("left", "a", "anna")
        assert [station.cameras[name].serving for name in CAMERAS] == before
        assert not station.store.audit_log(1)
        assert set(new_verdicts(station, "left")) == {"REJECT"}


def test_an_exchange_while_a_station_starts_leaves_its_cameras_on_one_bundle(tmp_path: Path) -> None:
    file = write_station(tmp_path, cameras=CAMERAS, recipes={"a": STRICT_A["a"]})
    station = Station(load_station(file))
    add, new = station._add_camera, []

    def add_and_exchange(name: str) -> None:
        add(name)
        new.append(None if new else exchange(tmp_path))

    station._add_camera = add_and_exchange  # type: ignore[method-assign]
    station.start()
    try:
        assert len({camera(station, name).bundle for name in CAMERAS}) == 1
        assert camera(station, "right").bundle != new[0]
    finally:
        station.stop()


def test_another_recipe_of_the_same_folder_keeps_bundle_and_thresholds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipes = {"a": STRICT_A["a"], "twin": {"bundle": "tiny", "review": 0.2, "reject": 0.2}}
    cameras = {"left": CAMERAS["left"], "right": {"source": PATTERN, "recipe": "twin"}}
    with running(tmp_path, cameras=cameras, recipes=recipes) as station:
        assert station.cameras["left"].inspects is station.cameras["right"].inspects
        old, new = camera(station, "right").bundle, exchange(tmp_path)
        station.set_recipe("left", "a", "anna")
        station.set_thresholds("left", LATER, LATER, "anna")
        state = camera(station, "right")
        assert (state.bundle, state.review, state.reject) == (old, 0.2, 0.2)
        assert f"recipe twin goes on with bundle {old}; {tmp_path / 'tiny'} holds {new} now" in caplog.text
        assert set(new_verdicts(station, "right")) == {"REJECT"}


def test_thresholds_meant_for_another_bundle_are_refused(tmp_path: Path) -> None:
    with running(tmp_path) as station:
        old, new = camera(station, "left").bundle, exchange(tmp_path)
        station.set_recipe("right", "a", "anna")
        with pytest.raises(DskdError, match=f"camera left runs bundle {new} now, and these thresholds are for {old}"):
            station.set_thresholds("left", 0.5, 0.5, "anna", bundle=old)
        station.set_thresholds("left", 5.2, 5.3, "anna", bundle=new)
        assert camera(station, "right").reject == 5.3
        assert station.store.audit_log(1)[0].detail == (
            f"a: review 0.1 to 5.2, reject 0.1 to 5.3; bundle {new}, camera left, right"
        )
    with running(tmp_path) as station:
        assert camera(station, "left").reject == 5.3  # kept
    shutil.rmtree(tmp_path / "tiny")
    with running(tmp_path) as station:
        assert (camera(station, "left").bundle, camera(station, "left").reject) == (old, 0.1)  # for that bundle alone


def test_a_threshold_of_the_file_that_no_score_of_the_bundle_reaches_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path, recipes={**STRICT_A, "a": {"bundle": "tiny", "reject": 5.7}}) as station:
        bundle = camera(station, "left").bundle
        assert "recipe a: reject 5.7 of the station file is far over the 0." in caplog.text
        assert f"of bundle {bundle}; was it set for another bundle?" in caplog.text


def test_a_camera_never_holds_a_recipe_of_another_bundle_than_its_thread_runs(tmp_path: Path) -> None:
    with running(tmp_path) as station:
        before = station.cameras["left"].serving
        exchange(tmp_path)
        station.set_recipe("right", "a", "anna")
        after = station.cameras["left"].serving
        for recipe, thread in ((before.recipe, after.thread), (after.recipe, before.thread)):
            with pytest.raises(DskdError, match=r"recipe a: is for tiny-.* model\.onnx, and tiny-.* runs"):
                Serving(recipe, thread)


def test_two_graphs_of_one_bundle_have_thresholds_and_a_backend_name_of_their_own(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    graphs = dict(bundle.manifest.graphs)
    shutil.copy(tmp_path / "tiny" / "model.onnx", tmp_path / "tiny" / INT8)
    graphs[INT8] = graphs["model.onnx"].model_copy(update={"precision": "int8"})
    files = hash_files(tmp_path / "tiny")
    write_manifest(tmp_path / "tiny", bundle.manifest.model_copy(update={"graphs": graphs, "files": files}))
    recipes = {"float": {"bundle": "tiny"}, "int8": {"bundle": "tiny", "precision": "int8"}}
    cameras = {"left": {"source": PATTERN, "recipe": "float"}, "right": {"source": PATTERN, "recipe": "int8"}}
    with running(tmp_path, cameras=cameras, recipes=recipes) as station:
        left, right = camera(station, "left"), camera(station, "right")
        assert left.bundle == right.bundle
        assert right.backend == f"{left.backend}-int8"
        station.set_thresholds("left", 0.5, 0.6, "anna")
        assert (camera(station, "left").reject, camera(station, "right").reject) == (0.6, right.reject)
        with pytest.raises(DskdError, match="load the recipe again"):
            Serving(station.cameras["left"].recipe, station.cameras["right"].inspects)
