"""A bundle with a fixture: regions, maps and boxes where they lie in the frame; no verdict where the part is not found."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Once
from located import PART, SIZE, bracket, learnt, located_bundle, poses
from pydantic import ValidationError
from station_files import PATTERN, rows, wait_for, write_station
from station_files import STRICT as REJECTS_ALL
from tiny_bundle import SIDE, tiny_bundle

import dskd
from dskd.runtime.bundle.loading import Bundle, load_bundle, write_manifest
from dskd.runtime.bundle.manifest import Fixture, InputSpec, Tiling
from dskd.runtime.capture.image_files import write_image
from dskd.runtime.capture.sources import open_source
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.backends import Backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.fixture.find import find_part
from dskd.runtime.inspection.fixture.pose import Pose
from dskd.runtime.inspection.fixture.reference import PartNotFound
from dskd.runtime.inspection.golden import golden_check
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.inspection.overlay import annotate
from dskd.runtime.inspection.proved import open_proved
from dskd.runtime.metrics import STAGES
from dskd.runtime.pipeline import Tally, run
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame, Image, Inspection, Verdict
from dskd.runtime.sinks.by_uri import open_sinks
from dskd.runtime.station.load import load_station
from dskd.runtime.station.station import Station
from dskd.runtime.web.live import picture_fields

STRICT = Settings(0.93, 0.95)  # of the map |grey - 128| / 128: only what is nearly white
EMPTY = np.random.default_rng(0).normal(22, 2, (*SIZE, 3)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def bundle(once: Once) -> Bundle:
    return load_bundle(once("located bundle", lambda to: located_bundle(to / "bundle", learnt(to / "good"))) / "bundle")


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Backend:
    return open_proved(bundle, "onnxruntime")[0]


def spotted(pose: tuple[float, float, float], spot: tuple[float, float]) -> tuple[Image, tuple[float, float]]:
    """A bracket with a white spot at a place of the upright part, and where that is in the frame."""
    frame = bracket(pose)
    [place] = Pose(*pose, PART[1], PART[0], 1.0).places(np.array([spot]))
    cv2.circle(frame, (round(place[0]), round(place[1])), 7, (255, 255, 255), -1)
    return frame, (float(place[0]), float(place[1]))


def inspected(bundle: Bundle, backend: Backend, frame: Image, settings: Settings = STRICT) -> Inspection:
    return Inspector(bundle, backend, settings, keep_maps=True).inspect(Frame("test", "f", 0.0, frame))


@pytest.mark.parametrize("k", range(4))
def test_a_defect_is_told_where_it_lies_in_the_frame(bundle: Bundle, backend: Backend, k: int) -> None:
    pose = poses(4, seed=11)[k]
    frame, (x, y) = spotted(pose, (20.0, 60.0))
    found = inspected(bundle, backend, frame)
    assert found.verdict is Verdict.REJECT
    left, top, width, height = found.regions[0].box
    assert left - 2 <= x <= left + width + 2
    assert top - 2 <= y <= top + height + 2
    assert max(width, height) < 45
    assert found.covers is not None
    assert found.anomaly_map is not None
    left, top, width, height = found.covers
    whole = np.zeros(SIZE, np.float32)
    whole[top : top + height, left : left + width] = cv2.resize(found.anomaly_map, (width, height))
    assert whole[round(y), round(x)] > 0.9 * whole.max()
    assert found.found is not None
    inside = cv2.pointPolygonTest(np.array(found.found.corners, np.float32), (x, y), False)
    assert inside > 0
    assert found.timings_ms.keys() == {"fixture", "preprocess", "inference", "decision"}
    assert set(found.timings_ms) <= set(STAGES)
    assert json.loads(found.as_json())["found"]["corners"] == [list(corner) for corner in found.found.corners]


def test_a_good_part_passes_and_the_table_beside_it_is_not_looked_at_elsewhere(
    bundle: Bundle, backend: Backend
) -> None:
    frame = bracket((160.0, 120.0, 70.0))
    frame[5:15, 5:15] = 255  # beside the part, outside what is cut out
    assert inspected(bundle, backend, frame).verdict is Verdict.PASS


@pytest.mark.parametrize("frame", [EMPTY, np.zeros((1, 1, 3), np.uint8), np.hstack([bracket(poses(1)[0])] * 2)])
def test_without_the_part_there_is_no_verdict(bundle: Bundle, backend: Backend, frame: Image) -> None:
    inspector = Inspector(bundle, backend, STRICT)
    with pytest.raises(PartNotFound, match="part not found: "):
        inspector.inspect(Frame("test", "f", 0.0, frame))
    good = Frame("test", "g", 0.0, bracket((160.0, 120.0, 70.0)))
    judged = inspector.inspect_batch([(Frame("test", "f", 0.0, frame), STRICT), (good, STRICT)])
    assert isinstance(judged[0], PartNotFound)
    assert isinstance(judged[1], Inspection)


def test_a_frame_without_the_part_is_dropped_with_the_reason(bundle: Bundle, backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    write_image(tmp_path / "pictures" / "empty.png", EMPTY)
    sinks = open_sinks([f"sqlite://{tmp_path / 'line.db'}"])
    tally = Tally()
    source = open_source(str(tmp_path / "pictures"))
    [dropped] = run(source, Inspector(bundle, backend, STRICT), sinks, tally)
    assert isinstance(dropped, Dropped)
    assert dropped.reason is Reason.PART_NOT_FOUND
    assert "on the background" in dropped.detail
    assert tally.as_dict()["PASS"] == 0


@pytest.mark.parametrize("fail_safe", ["REJECT", "REVIEW"])
def test_a_station_answers_for_a_part_that_was_not_found_as_its_recipe_says(
    bundle: Bundle, tmp_path: Path, fail_safe: str
) -> None:
    recipe = {"good": {"bundle": str(bundle.path), "fail_safe": fail_safe, "review": 9.0, "reject": 9.0}}
    camera = {"source": PATTERN, "recipe": "good", "trigger": {"kind": "software", "deadline_ms": 5000}}
    station = Station(load_station(write_station(tmp_path, recipes=recipe, cameras={"top": camera})))
    station.start()
    try:
        wait_for(lambda: station.status().cameras[0].ready)
        station.trigger("top", "A-1")
        wait_for(lambda: rows(tmp_path, "SELECT count(*) FROM answers") == [(1,)])
    finally:
        station.stop()
    [(part, verdict, reason)] = rows(tmp_path, "SELECT part, verdict, reason FROM answers")
    assert (part, verdict) == ("A-1", fail_safe)
    assert str(reason).startswith("part not found: ")
    assert rows(tmp_path, "SELECT count(*) FROM inspections") == [(0,)]


def test_a_station_shows_and_keeps_where_the_part_was_found(bundle: Bundle, tmp_path: Path) -> None:
    recipe = {"good": {"bundle": str(bundle.path), **REJECTS_ALL}}
    (tmp_path / "pictures").mkdir()
    sinks = {"pictures": {"kind": "archive", "keep": "all"}}
    cameras = {"top": {"source": "watch://pictures", "recipe": "good"}}
    station = Station(load_station(write_station(tmp_path, recipes=recipe, cameras=cameras, sinks=sinks)))
    station.start()
    try:
        write_image(tmp_path / "pictures" / "a.png", bracket((150.0, 118.0, 35.0)))
        wait_for(lambda: list((tmp_path / "data").rglob("*-REJECT.json")))
        live = station.live("top")
    finally:
        station.stop()
    assert live is not None
    assert live.inspection.found is not None
    assert live.crop == live.inspection.covers
    shown = picture_fields(live, 480, heat=True)
    assert shown["crop"] == list(live.inspection.covers or ())
    told = json.loads(next((tmp_path / "data").rglob("*-REJECT.json")).read_text())
    assert told["found"] == live.inspection.found.as_dict()
    assert told["crop"] == shown["crop"]
    heat = cv2.imread(str(next((tmp_path / "data").rglob("*.heat.png"))), cv2.IMREAD_UNCHANGED)
    assert heat[0, 0, 3] == 0  # beside the part, where the box around it is not covered
    assert heat[..., 3].any()


def test_a_region_of_interest_lies_on_the_part_as_it_is_cut_out(bundle: Bundle, backend: Backend) -> None:
    fixture = bundle.manifest.input.fixture
    assert fixture is not None
    frame, place = spotted((150.0, 118.0, 35.0), (20.0, 60.0))
    pose = find_part(frame, fixture)
    [(x, y)] = np.rint((np.array([place]) - pose.to_frame[:, 2]) @ pose.to_frame[:, :2]).astype(int)
    looked_at = np.ones((fixture.height, fixture.width), np.bool_)
    looked_at[max(y - 14, 0) : y + 15, max(x - 14, 0) : x + 15] = False
    assert inspected(bundle, backend, frame, Settings(0.93, 0.95, roi=looked_at)).verdict is Verdict.PASS
    assert inspected(bundle, backend, frame, Settings(0.93, 0.95, roi=~looked_at)).verdict is Verdict.REJECT
    with pytest.raises(
        CallError, match=rf"320x240, the part as the fixture cuts it out {fixture.width}x{fixture.height}"
    ):
        inspected(bundle, backend, frame, Settings(0.93, 0.95, roi=np.ones(SIZE, np.bool_)))


def test_golden_frames_are_whole_frames_and_are_found_again(bundle: Bundle, backend: Backend) -> None:
    golden = bundle.golden()
    assert golden.inputs.shape[1:] == (SIDE, SIDE, 3)
    assert golden_check(bundle, backend).input_levels <= 1
    optimised = cv2.useOptimized()
    cv2.setUseOptimized(False)
    try:
        golden_check(bundle, backend)
    finally:
        cv2.setUseOptimized(optimised)


def test_golden_frames_whose_part_lies_elsewhere_than_it_was_found_fail(once: Once, tmp_path: Path) -> None:
    bundle = located_bundle(tmp_path / "bundle", learnt(tmp_path / "good"))
    fixture = bundle.manifest.input.fixture
    assert fixture is not None
    moved = fixture.model_copy(update={"centre": (fixture.centre[0] + 4, fixture.centre[1])})
    spec = bundle.manifest.input.model_copy(update={"fixture": moved})
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"input": spec}))
    with pytest.raises(DskdError, match="preprocessing differs"):
        open_proved(load_bundle(bundle.path), "onnxruntime")


def test_the_manifest_keeps_the_fixture_and_one_without_is_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    written = load_bundle(bundle.path).manifest
    assert written.input == bundle.manifest.input
    assert written.input.fixture is not None
    plain = tiny_bundle(tmp_path / "plain")
    assert "fixture" not in (plain.path / "manifest.yaml").read_text()
    assert plain.manifest.input.fixture is None
    other = written.input.model_copy(update={"fixture": written.input.fixture.model_copy(update={"likeness": 0.5})})
    assert load_bundle(bundle.path).id != Bundle(bundle.path, written.model_copy(update={"input": other})).id


def test_a_fixture_goes_with_no_crop_and_no_tiles(bundle: Bundle) -> None:
    fixture: Fixture | None = bundle.manifest.input.fixture
    with pytest.raises(ValidationError, match="goes with no crop"):
        InputSpec(height=32, width=32, crop=(0, 0, 9, 9), fixture=fixture)
    with pytest.raises(ValidationError, match="goes with no tiling"):
        InputSpec(height=32, width=32, tiling=Tiling(side=32, overlap=8), fixture=fixture)


def test_from_python_it_is_the_same(bundle: Bundle) -> None:
    frame, (x, y) = spotted((150.0, 118.0, -100.0), (20.0, 60.0))
    with dskd.load(bundle.path, backend="onnxruntime", review_threshold=0.93, reject_threshold=0.95) as model:
        result = model(frame)
        assert result.verdict is Verdict.REJECT
        assert result.found is not None
        left, top, width, height = result.regions[0].box
        assert (left - 2 <= x <= left + width + 2, top - 2 <= y <= top + height + 2) == (True, True)
        fixture = bundle.manifest.input.fixture
        assert fixture is not None
        upright = find_part(frame, fixture).cut_out(frame)
        assert np.abs(result.upright.astype(int) - upright).mean() < 0.5  # corners are told to a hundredth of a pixel
        drawn = result.plot()
        assert (drawn[-SIZE[0] :, : SIZE[1]] != frame).any()
        with pytest.raises(PartNotFound, match=r"^part not found: image 0: "):
            model(EMPTY)


def test_an_overlay_shows_where_the_part_was_found(bundle: Bundle, backend: Backend) -> None:
    found = inspected(bundle, backend, bracket((160.0, 120.0, 20.0)))
    without, with_box = (annotate(EMPTY, Verdict.PASS, 0.1, 1.0, (), where) for where in (None, found.found))
    rows, columns = np.nonzero((without != with_box).any(2))
    assert found.covers is not None
    x, y, width, height = found.covers
    banner = without.shape[0] - SIZE[0]
    assert abs(columns.min() - x) <= 2
    assert abs(columns.max() - (x + width - 1)) <= 2
    assert abs(rows.min() - banner - y) <= 2
    assert abs(rows.max() - banner - (y + height - 1)) <= 2
