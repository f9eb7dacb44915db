"""Whether and how the part is found before it is looked at: as asked for, or as the good pictures say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dskd.runtime.bundle.manifest import Fixture
from dskd.runtime.capture.image_files import BadImage, read_image, read_mask
from dskd.runtime.errors import CallError
from dskd.runtime.inspection.fixture.reference import SIDE, Reference, encoded
from dskd.runtime.inspection.preprocess import Crop
from dskd.runtime.result import Image
from dskd.train.config import TrainConfig
from dskd.train.data import InspectionSet
from dskd.train.fixture_contour import LEAST, NoFixture, learn_contour, looked_at, patch_of, pose_in
from dskd.train.settings import FixtureConfig, RunConfig

FOUND_AT_LEAST = 0.9  # share of the good pictures in which a template must be found
SMALLEST_BOX = 16  # pixels of a side that can be recognised
ROOM = 1.05  # of the reference around the box


def settle_fixture(config: RunConfig, images: InspectionSet) -> tuple[RunConfig, str]:
    """``config`` with the fixture in its input, and why it is there or not. Raises CallError where one that was asked for
    is not to be had.
    """
    asked, hindered = config.fixture, _hindrance(config, images)
    if asked.kind == "none":
        without = config.input.model_copy(update={"fixture": None})
        return config.model_copy(update={"input": without}), "none: as asked for"
    if config.input.fixture is not None:
        return config, f"{config.input.fixture.finder}: as asked for"
    if hindered and asked.kind == "auto":
        return config, f"none: {hindered}"
    if hindered:
        raise CallError(f"fixture.kind {asked.kind}: {hindered}; leave one of them out")
    try:
        if asked.kind == "template":
            found, reason = learn_template(asked, images.good)
        else:
            found, reason = learn_contour(images.good, asked.turn, asked.margin, config.thresholds.reject_rate)
    except NoFixture as reason:
        if asked.kind == "auto":
            return config, f"none: {reason}"
        raise CallError(
            f"fixture.kind {asked.kind}: {reason}; set fixture=none, or mark a box (fixture.box)"
        ) from reason
    return config.model_copy(update={"input": config.input.model_copy(update={"fixture": found})}), reason


def _hindrance(config: RunConfig, images: InspectionSet) -> str:
    """What a fixture does not go with, empty where nothing is in its way."""
    if config.input.crop:
        return "input.crop says where the part lies"
    if config.input.tiling:
        return "tiles cover the whole frame (input.tiling)"
    return "several products in one model" if images.products else ""


def as_found(asked: TrainConfig, done: TrainConfig) -> TrainConfig:
    """``asked`` with the fixture that ``done`` found by the same settings."""
    if asked.fixture != done.fixture or asked.input.fixture is not None:
        return asked
    return asked.model_copy(update={"input": asked.input.model_copy(update={"fixture": done.input.fixture})})


def learn_template(asked: FixtureConfig, good: list[Path]) -> tuple[Fixture, str]:
    """What a box on one picture shows, tried on the good pictures. Raises CallError, NoFixture where it is not found."""
    assert asked.picture is not None
    try:
        image = read_image(asked.picture)
    except BadImage as error:
        raise CallError(f"fixture.picture {error}") from error
    x, y, width, height = _box(asked, image)
    reach = ROOM * float(np.hypot(width, height)) / 2
    reference = Reference(np.zeros((SIDE, SIDE), np.uint8), reach, np.ones((SIDE, SIDE), np.bool_))
    middle = (x + (width - 1) / 2, y + (height - 1) / 2)
    margin = round(asked.margin * max(width, height))
    fixture = Fixture(
        finder="template", width=width + 2 * margin, height=height + 2 * margin, turn=asked.turn,
        reference=encoded(patch_of(reference, image, (*middle, 0.0))), reach=reach,
        centre=((width - 1) / 2 + margin, (height - 1) / 2 + margin), likeness=LEAST, box=(width, height),
    )  # fmt: skip
    seen = looked_at(good)
    poses = [pose for path in seen if (pose := pose_in(path, fixture)) is not None]
    if len(poses) < FOUND_AT_LEAST * len(seen):
        raise NoFixture(f"what the box shows is found in {len(poses)} of {len(seen)} good pictures")
    least = min(pose.likeness for pose in poses)
    reason = f"template: a box of {width} x {height} pixels, found in {len(poses)} of {len(seen)} good pictures"
    return fixture.model_copy(update={"likeness": round(LEAST * least, 3)}), f"{reason}, like it by {least:.2f} or more"


def _box(asked: FixtureConfig, image: Image) -> Crop:
    """The box that is marked on the picture."""
    rows, columns = image.shape[:2]
    if asked.mask is not None:
        try:
            painted = read_mask(asked.mask)
        except BadImage as error:
            raise CallError(f"fixture.mask {error}") from error
        if painted.shape != (rows, columns):
            raise CallError(
                f"fixture.mask {asked.mask}: is {painted.shape[1]}x{painted.shape[0]}, fixture.picture {columns}x{rows}; "
                "paint it on that picture"
            )
        x, y, width, height = cv2.boundingRect(painted.astype(np.uint8))
    else:
        assert asked.box is not None
        x, y, width, height = asked.box
    if x + width > columns or y + height > rows or min(width, height) < SMALLEST_BOX:
        raise CallError(
            f"fixture.box {[x, y, width, height]}: must lie on the picture of {columns}x{rows} pixels with sides of "
            f"{SMALLEST_BOX} or more"
        )
    return x, y, width, height
