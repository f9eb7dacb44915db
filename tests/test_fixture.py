"""Finding the part: how exactly, what is not taken for one, and pictures that are none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Once
from hypothesis import given
from hypothesis import strategies as st
from located import GROUND, PART, SIZE, bracket, learnt, poses

from dskd.runtime.bundle.manifest import Fixture
from dskd.runtime.capture.image_files import write_image
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.fixture.find import find_part
from dskd.runtime.inspection.fixture.pose import Pose
from dskd.runtime.inspection.fixture.reference import SIDE, PartNotFound, Reference, decoded, encoded, grey_of
from dskd.runtime.result import Image
from dskd.train.defects import PAINTERS
from dskd.train.fixture_contour import learn_contour, patch_of
from dskd.train.synthetic import stamped_bracket

SHIFT, ANGLE = 0.6, 0.4  # frame pixels and degrees by which a pose may be off
EMPTY = np.random.default_rng(0).normal(22, 2, (*SIZE, 3)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def contour(once: Once) -> Fixture:
    """Learnt from good pictures."""
    folder = once("contour fixture", lambda to: (to / "fixture.json").write_text(learnt(to / "good").model_dump_json()))
    return Fixture.model_validate_json((folder / "fixture.json").read_text())


@pytest.fixture(scope="module")
def template() -> Fixture:
    """A box around the bracket on one picture."""
    middle = ((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2)
    reach = 1.05 * float(np.hypot(*PART)) / 2
    seen = Reference(np.zeros((SIDE, SIDE), np.uint8), reach, np.ones((SIDE, SIDE), np.bool_))
    picture = patch_of(seen, bracket((*middle, 0.0)), (*middle, 0.0))
    return Fixture(
        finder="template", width=PART[1], height=PART[0], reference=encoded(picture), reach=reach,
        centre=((PART[1] - 1) / 2, (PART[0] - 1) / 2), likeness=0.5, box=(PART[1], PART[0]),
    )  # fmt: skip


@pytest.fixture(params=["contour", "template"])
def fixture(request: pytest.FixtureRequest) -> Fixture:
    return request.getfixturevalue(request.param)


def apart(found: Pose, pose: tuple[float, float, float], zero: Pose) -> tuple[float, float]:
    """Pixels and degrees between a pose found and the true one; ``zero`` is what is found of a part at a known one."""
    turned = np.deg2rad(pose[2])
    turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    expected = np.array(pose[:2]) + turn @ (np.array([zero.x, zero.y]) - ((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2))
    angle = (found.angle - zero.angle - pose[2] + 180) % 360 - 180
    return float(np.hypot(found.x - expected[0], found.y - expected[1])), abs(angle)


@pytest.mark.parametrize("light", [0.7, 1.0, 1.4])
def test_a_part_is_found_where_it_lies_whatever_its_angle_and_the_light(fixture: Fixture, light: float) -> None:
    zero = find_part(bracket(((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 0.0)), fixture)
    for k, pose in enumerate(poses(6, seed=3)):
        found = find_part(bracket(pose, seed=k, light=light), fixture)
        shift, angle = apart(found, pose, zero)
        assert (shift < SHIFT, angle < ANGLE) == (True, True), (pose, shift, angle)
        assert found.likeness > 0.9


@pytest.mark.parametrize("kind", PAINTERS)
def test_a_part_with_a_defect_is_still_found_in_its_pose(fixture: Fixture, kind: str) -> None:
    rng = np.random.default_rng(5)
    zero = find_part(bracket(((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 0.0)), fixture)
    for pose in poses(3, seed=9):
        painted, _ = PAINTERS[kind](stamped_bracket(rng, *PART), rng, 1.0)
        shift, angle = apart(find_part(bracket(pose, upright=painted), fixture), pose, zero)
        assert (shift < 3 * SHIFT, angle < 3 * ANGLE) == (True, True), (pose, shift, angle)


def two_parts() -> Image:
    half = cv2.resize(bracket(((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 30.0)), SIZE[::-1])
    return np.hstack([half, half])


def washer() -> Image:
    frame = EMPTY.copy()
    cv2.circle(frame, (160, 120), 58, (140, 140, 140), -1)
    cv2.circle(frame, (160, 120), 20, GROUND, -1)
    return frame


@pytest.mark.parametrize(
    "frame",
    [EMPTY, two_parts(), washer(), bracket((30.0, 120.0, 0.0))],
    ids=["an empty picture", "two parts", "another part", "a part cut off by the edge"],
)
def test_what_is_not_one_whole_part_is_not_found(fixture: Fixture, frame: Image) -> None:
    with pytest.raises(PartNotFound, match="part not found: "):
        find_part(frame, fixture)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((1, 1, 3), np.uint8),
        np.full((1, 4000, 3), 9, np.uint8),
        np.full((50, 60, 3), 128, np.uint8),
        np.full((*SIZE, 3), 255, np.uint8),
        np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8),
        np.zeros((*SIZE, 3), np.uint16),
        np.zeros((*SIZE, 4), np.uint8),
        np.zeros(SIZE, np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
    ids=["1x1", "a line", "one colour", "white", "noise", "16 bit", "alpha", "grey", "nothing"],
)
def test_a_picture_that_shows_nothing_or_is_none_is_refused(fixture: Fixture, frame: Image) -> None:
    with pytest.raises(DskdError):
        find_part(frame, fixture)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_no_picture_crashes_a_finder(height: int, width: int, spread: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, spread + 1, (height, width, 3), dtype=np.uint8)
    picture = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    for finder in ("contour", "template"):
        fixture = Fixture(
            finder=finder, width=20, height=20, reference=encoded(picture), reach=12.0, centre=(9.5, 9.5),
            likeness=0.9, contrast=20, area=(4, 4000), box=(16, 16),
        )  # fmt: skip
        with pytest.raises(PartNotFound):
            find_part(frame, fixture)


def test_a_part_may_be_turned_as_far_as_it_was_said(template: Fixture, tmp_path: Path) -> None:
    middle = ((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2)
    little = template.model_copy(update={"turn": 10.0})
    assert abs(find_part(bracket((*middle, 8.0)), little).angle - 8) < ANGLE
    still = template.model_copy(update={"turn": 0.0})
    assert find_part(bracket((*middle, 0.0)), still).angle == 0
    for fixture in (little, still):
        with pytest.raises(PartNotFound):
            find_part(bracket((*middle, 90.0)), fixture)


def test_parts_that_are_turned_a_little_stay_as_they_lie(tmp_path: Path) -> None:
    for k, (x, y, angle) in enumerate(poses(12, seed=6)):
        write_image(tmp_path / f"{k:02}.png", bracket((x, y, 90 + angle / 18), seed=k))  # 80 to 100 degrees
    fixture, _ = learn_contour(sorted(tmp_path.glob("*.png")), 12.0, 0.06, 0.0)
    assert fixture.turn == 12
    assert fixture.height > fixture.width
    assert abs(find_part(bracket((160.0, 120.0, 90.0)), fixture).angle) < 5
    assert abs(find_part(bracket((160.0, 120.0, 80.0)), fixture).angle) < 15
    with pytest.raises(PartNotFound):
        find_part(bracket((160.0, 120.0, 0.0)), fixture)


def test_what_is_cut_out_shows_the_part_as_it_lies_in_all(contour: Fixture) -> None:
    cut = [grey_of(find_part(f, contour).cut_out(f)) for f in (bracket(p, seed=k) for k, p in enumerate(poses(4)))]
    assert {c.shape for c in cut} == {(contour.height, contour.width)}
    for other in cut[1:]:
        assert np.corrcoef(cut[0].ravel(), other.ravel())[0, 1] > 0.98


@given(
    st.floats(-180, 180), st.floats(60, 260), st.floats(60, 180), st.floats(0, 143), st.floats(0, 100)
)  # fmt: skip
def test_places_come_back_to_where_they_were(angle: float, x: float, y: float, across: float, down: float) -> None:
    pose = Pose(x, y, angle, PART[1], PART[0], 1.0)
    [place] = pose.places(np.array([[across, down]]))
    back = np.linalg.solve(pose.to_frame[:, :2], place - pose.to_frame[:, 2])
    np.testing.assert_allclose(back, (across, down), atol=1e-6)
    low = np.array(pose.covers(SIZE)[:2])
    high = low + pose.covers(SIZE)[2:]
    inside = (place >= 0).all() and (place <= (SIZE[1] - 1, SIZE[0] - 1)).all()
    assert not inside or ((low - 1 <= place).all() and (place <= high + 1).all())


@pytest.mark.parametrize("angle", [0.0, 33.0, 90.0, -140.0])
def test_a_map_comes_back_to_where_it_belongs_in_the_frame(angle: float) -> None:
    pose = Pose(150.0, 110.0, angle, PART[1], PART[0], 1.0)
    cells = np.zeros((32, 48), np.float32)
    cells[5, 40] = 1
    across, down = PART[1] / 48, PART[0] / 32
    [place] = pose.places(np.array([[40.5 * across - 0.5, 5.5 * down - 0.5]]))
    x, y, width, height = pose.covers(SIZE)
    whole = np.zeros(SIZE, np.float32)
    whole[y : y + height, x : x + width] = cv2.resize(pose.on_frame(cells, SIZE), (width, height))
    rows, columns = np.nonzero(whole > 0.5 * whole.max())
    assert abs(columns.mean() - place[0]) < across
    assert abs(rows.mean() - place[1]) < down
    near = pose.box_around(SIZE, np.array([[40 * across, 5 * down], [41 * across, 6 * down]]))
    assert near[0] - 2 <= place[0] <= near[0] + near[2] + 2


def test_a_reference_that_is_none_is_refused() -> None:
    for text in ("", "no base64!", "AAAA", encoded(np.zeros((8, 8), np.uint8))):
        with pytest.raises(DskdError, match="reference"):
            decoded(text)
