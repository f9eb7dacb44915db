"""The network's input follows the shape of the good pictures, unless it was set."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from dskd.runtime.bundle.manifest import InputSpec, Tiling
from dskd.runtime.inspection.tiling import Grid
from dskd.train.config import load_config
from dskd.train.data import find_images
from dskd.train.shape import LARGER, OVERLAP, SIDE, choose_shape, coarse, settle_input


def written(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    for k, (height, width) in enumerate(sizes):
        cv2.imwrite(str(folder / f"{k:02}.png"), np.zeros((height, width, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 300), (256, 256)),
        ((1260, 500), (416, 160)),
        ((500, 1260), (160, 416)),
        ((1080, 1920), (192, 320)),
        ((270, 256), (256, 256)),
        ((100, 3000), (96, 672)),
    ],
)
def test_the_input_has_the_pictures_aspect_and_the_squares_number_of_pixels(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    height, width, reason = choose_shape([size] * 3)
    assert (height, width) == expected
    assert height % 32 == width % 32 == 0
    assert 0.85 * SIDE**2 <= height * width <= LARGER * SIDE**2
    assert f"{size[0]} x {size[1]}" in reason


def test_pictures_of_many_shapes_get_a_square() -> None:
    assert choose_shape([(100, 250), (250, 100), (200, 200), (100, 200), (210, 100)])[:2] == (SIDE, SIDE)


def test_one_odd_picture_does_not_change_the_shape() -> None:
    assert choose_shape([(1260, 500)] * 9 + [(300, 900)])[:2] == (416, 160)


def test_a_set_decides_and_says_why_and_again_decides_alike(tmp_path: Path) -> None:
    images = find_images(written(tmp_path / "tall", [(126, 50)] * 10))
    settled, reason = settle_input(load_config(None, []), images)
    assert (settled.input.height, settled.input.width) == (416, 160)
    assert reason == "416 x 160 (height x width): the pictures are 126 x 50"
    assert settle_input(settled, images)[0] == settled


def test_what_was_set_stays(tmp_path: Path) -> None:
    images = find_images(written(tmp_path / "tall", [(126, 50)] * 10))
    config = load_config(None, ["input.height=64"])
    settled, reason = settle_input(config, images)
    assert settled == config
    assert "as asked for" in reason


def test_a_crop_has_its_own_shape_and_tiles_are_square(tmp_path: Path) -> None:
    images = find_images(written(tmp_path / "tall", [(126, 50)] * 10))
    cropped, _ = settle_input(load_config(None, ["input.crop=[0, 0, 50, 50]"]), images)
    assert (cropped.input.height, cropped.input.width) == (256, 256)
    tiled, _ = settle_input(load_config(None, ["input.tiling={side: 40, overlap: 4}"]), images)
    assert (tiled.input.height, tiled.input.width) == (256, 256)
    assert tiled.input.tiling is not None


def test_a_configuration_that_was_written_down_says_whether_the_shape_is_open(tmp_path: Path) -> None:
    asked = load_config(None, [])
    (tmp_path / "asked.yaml").write_text(asked.model_dump_json())
    assert load_config(tmp_path / "asked.yaml", []).input.shape == "pictures"
    (tmp_path / "older.yaml").write_text("input: {height: 64, width: 64, crop: null}")
    assert load_config(tmp_path / "older.yaml", []).input.shape == "given"


def test_tiles_are_proposed_for_pictures_much_larger_than_the_input() -> None:
    said = coarse([(3000, 4096)] * 5, 224 * 288)
    assert "covers 14 x 14" in said
    side, tiles = (int(found) for found in re.findall(r"side=(\d+) .* in (\d+) tiles", said)[0])
    spec = InputSpec(height=256, width=256, tiling=Tiling(side=side))
    assert spec.tiling is not None
    assert spec.tiling.overlap == OVERLAP
    assert len(Grid.of((3000, 4096), spec)) == tiles <= 16


def test_no_tiles_are_proposed_where_little_is_lost() -> None:
    assert coarse([(700, 700)], 256 * 256) == coarse([(1260, 500)], 416 * 160) == coarse([], 256 * 256) == ""


def test_tiles_of_a_long_picture_are_no_larger_than_it() -> None:
    assert "side=256 makes that 1 x 1, in 180 tiles" in coarse([(20000, 400)], 96 * 672)
