"""Noise fields and the pseudo-anomalies that RD++ and URD make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dskd.runtime.capture.image_files import write_image
from dskd.runtime.errors import CallError
from dskd.train.augment import BOX, augment, other_texture, simplex_box
from dskd.train.noise import perlin, simplex_octaves
from dskd.train.settings import AugmentConfig

Image = NDArray[np.uint8]


def picture(height: int = 64, width: int = 96) -> Image:
    return np.random.default_rng(1).integers(60, 200, (height, width, 3)).astype(np.uint8)


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


@pytest.mark.parametrize("cells", [(1, 1), (2, 8), (32, 4)])
def test_perlin_noise_is_smooth_and_of_the_grain_asked_for(cells: tuple[int, int]) -> None:
    field = perlin(64, 64, cells, np.random.default_rng(0))
    assert (field.shape, field.dtype) == ((64, 64), np.float32)
    assert 0.05 < field.std() < 0.6
    assert np.abs(field).max() <= 1.01
    steps = [np.abs(np.diff(field, axis=axis)).max() for axis in (0, 1)]
    assert all(step < 0.1 * count for step, count in zip(steps, cells, strict=True))
    assert np.abs(field[:: 64 // cells[0], :: 64 // cells[1]]).max() < 1e-6  # zero at the grid's corners


def test_simplex_noise_is_continuous_zero_on_average_and_has_octaves() -> None:
    smooth = simplex_octaves((3, 64, 64), np.random.default_rng(0), octaves=1)
    rough = simplex_octaves((3, 64, 64), np.random.default_rng(0))
    assert np.abs(smooth).max() <= 1.01
    assert smooth.std() > 0.1
    assert max(np.abs(np.diff(smooth, axis=axis)).max() for axis in range(3)) < 0.2  # no seam between simplices
    assert np.abs(np.diff(rough, axis=2)).mean() > 2 * np.abs(np.diff(smooth, axis=2)).mean()
    means = [simplex_octaves((3, 32, 32), rng).mean() for rng in rngs(40)]
    assert abs(np.mean(means)) < 0.1


def test_a_simplex_box_changes_one_small_rectangle_inside_the_picture() -> None:
    image = picture()
    for rng in rngs(30):
        changed = (simplex_box(image, rng) != image).any(2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert 0 < rows[0] <= rows[-1] < 63
        assert 0 < columns[0] <= columns[-1] < 95
        assert np.ptp(rows) < BOX[1]
        assert np.ptp(columns) < BOX[1]
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.8


def test_the_fixed_field_is_the_same_in_every_box() -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)

    def corner(rng: np.random.Generator, fresh: bool) -> bytes:
        box = simplex_box(flat, rng, fresh)
        rows, columns = (np.flatnonzero((box != 128).any((1 - axis, 2))) for axis in (0, 1))
        return box[rows[0] : rows[0] + 9, columns[0] : columns[0] + 9].tobytes()

    assert len({corner(rng, False) for rng in rngs(6)}) < len({corner(rng, True) for rng in rngs(6)}) == 6


def test_another_texture_comes_in_patches_of_all_sizes_and_leaves_the_rest() -> None:
    image = picture()
    shares = [float((other_texture(image, rng) != image).any(2).mean()) for rng in rngs(60)]
    assert 0.03 < np.mean(shares) < 0.5
    assert max(shares) < 0.95
    assert len(set(shares)) > 40


def test_textures_come_from_the_folder_that_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "red.png", np.full((40, 40, 3), (0, 0, 255), np.uint8))
    image = np.zeros((64, 64, 3), np.uint8)
    changed = np.concatenate([other_texture(image, rng, tmp_path)[None] for rng in rngs(10)])
    assert changed[..., 2].max() > 50
    assert changed[..., :2].max() == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CallError, match="holds no pictures"):
        other_texture(image, np.random.default_rng(0), empty)


@pytest.mark.parametrize("kind", ["patch", "simplex", "texture"])
def test_each_kind_follows_from_the_generator_and_leaves_the_clean_image(kind: str) -> None:
    image = picture()
    settings = AugmentConfig(kind=kind)  # type: ignore[arg-type]
    first, again = (augment(image, settings, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first[0], image)
    np.testing.assert_array_equal(first[1], again[1])
    assert first[1].dtype == np.uint8
    assert any((augment(image, settings, rng)[1] != image).any() for rng in rngs(5))
