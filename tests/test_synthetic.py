"""The generated set: same seed, same pictures; masks that say exactly what was changed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dskd.runtime.capture.image_files import read_image, read_mask
from dskd.train.data import find_images
from dskd.train.defects import PAINTERS, VISIBLE, Image, Mask, Painter
from dskd.train.synthetic import FEWEST_PIXELS, TABLE, good_part, write_set

SEEDS = range(12)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_one_seed_one_set_and_another_seed_another(tmp_path: Path) -> None:
    sizes = {"train": 3, "test_good": 2, "per_defect": 1}
    first, again, other = (
        contents(write_set(tmp_path / name, **sizes, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in first if "ground_truth" not in name)


def test_the_set_has_the_sizes_asked_for_and_a_mask_for_each_defect(tmp_path: Path) -> None:
    folder = write_set(tmp_path, train=3, test_good=2, per_defect=4)
    found = find_images(folder)
    assert len(found.good) == 3
    counts = {name: sum(item.defect == name for item in found.test) for name in ("good", *PAINTERS)}
    assert counts == {"good": 2, **dict.fromkeys(PAINTERS, 4)}
    assert all((item.mask is None) == (item.defect == "good") for item in found.test)
    for item in found.test:
        if item.mask:
            assert set(np.unique(cv2.imread(str(item.mask), cv2.IMREAD_UNCHANGED))) == {0, 255}
            assert read_mask(item.mask).sum() >= FEWEST_PIXELS
            assert read_mask(item.mask).shape == read_image(item.path).shape[:2]
    pictures = [read_image(path).tobytes() for path in found.good]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("contrast", [1.0, 0.6])
@pytest.mark.parametrize("name", PAINTERS)
def test_outside_its_mask_a_defect_changes_nothing_and_inside_it_can_be_seen(name: str, contrast: float) -> None:
    areas = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        part = good_part(rng)
        before = part.copy()
        image, mask = PAINTERS[name](part, rng, contrast)
        np.testing.assert_array_equal(part, before)  # the good part is not painted over
        change = np.abs(image.astype(int) - part).max(axis=2)
        assert (image.dtype, mask.dtype) == (np.uint8, np.bool_)
        assert image.shape == part.shape
        assert change[~mask].max() == 0
        if mask.any():
            assert change[mask].min() >= VISIBLE
        areas.append(int(mask.sum()))
    assert sum(area >= FEWEST_PIXELS for area in areas) >= len(SEEDS) // 2
    assert max(areas) < 0.35 * part.shape[0] * part.shape[1]


@pytest.mark.parametrize("name", PAINTERS)
def test_a_grey_part_stays_grey(name: str) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(100, 140, (96, 128, 1), np.uint8).repeat(3, axis=2)
    image, mask = PAINTERS[name](grey, rng, 1.0)
    assert mask.any()
    assert (np.ptp(image, axis=2) == 0).all()


@pytest.mark.parametrize("size", [(192, 256), (64, 64), (100, 300)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_good_part_has_any_size_and_is_no_flat_picture(size: tuple[int, int]) -> None:
    part = good_part(np.random.default_rng(0), *size)
    assert part.shape == (*size, 3)
    assert part.dtype == np.uint8
    assert part.std() > 10


def test_every_written_defect_stands_out_from_its_good_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painted: dict[bytes, np.ndarray] = {}

    def noting(paint: Painter) -> Painter:
        def note(part: Image, rng: np.random.Generator, contrast: float) -> tuple[Image, Mask]:
            image, mask = paint(part, rng, contrast)
            painted[image.tobytes()] = cv2.absdiff(image, part).max(axis=2)
            return image, mask

        return note

    painters = {"missing_piece": noting(PAINTERS["missing_piece"])}
    monkeypatch.setattr("dskd.train.synthetic.PAINTERS", painters)
    for item in find_images(write_set(tmp_path, train=0, test_good=0, per_defect=2, seed=7)).test:  # first: in the dark
        change = painted[read_image(item.path).tobytes()]
        assert (change >= 3 * VISIBLE).sum() >= FEWEST_PIXELS, f"{item.path} cannot be seen"


def test_a_set_of_another_size(tmp_path: Path) -> None:
    folder = write_set(tmp_path, train=1, test_good=1, per_defect=1, size=(300, 500))
    assert {read_image(path).shape for path in folder.glob("t*/*/*.png")} == {(300, 500, 3)}


def test_brackets_lie_anywhere_within_the_picture_and_their_defects_on_them(tmp_path: Path) -> None:
    found = find_images(write_set(tmp_path, train=4, test_good=1, per_defect=2, product="stamped_bracket"))
    middles = []
    for path in found.good:
        part = read_image(path).max(axis=2) > 2 * TABLE.max()
        assert not part[[0, -1]].any()
        assert not part[:, [0, -1]].any()
        middles.append(np.argwhere(part).mean(axis=0))
    assert np.ptp(middles, axis=0).max() > 10
    for item in found.test:
        if item.mask:
            near = cv2.dilate((read_image(item.path).max(axis=2) > 2 * TABLE.max()).astype(np.uint8), np.ones((9, 9)))
            mask = read_mask(item.mask)
            assert mask.any()
            assert item.defect == "missing_piece" or near[mask].mean() > 0.8
