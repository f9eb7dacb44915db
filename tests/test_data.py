"""Finding, splitting and preparing images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow

from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import BadImage, read_image, write_image
from dskd.runtime.errors import CallError
from dskd.train import data
from dskd.train.data import TestImage as Labelled  # pytest would try to collect a name that starts with Test

SPEC = InputSpec(height=32, width=64)
Image = NDArray[np.uint8]


def picture(seed: int = 0, height: int = 40, width: int = 80) -> Image:
    """Large blocks of colour: they survive JPEG and a resize."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def write_mvtec(root: Path, mask_name: str = "{}_mask.png") -> Path:
    """Three good, two test good, two cracks with masks, one stain without."""
    for k in range(3):
        write_image(root / "train" / "good" / f"{k:03}.png", picture(k))
    for k in range(2):
        write_image(root / "test" / "good" / f"{k:03}.png", picture(10 + k))
        write_image(root / "test" / "crack" / f"{k:03}.png", picture(20 + k))
        write_image(root / "ground_truth" / "crack" / mask_name.format(f"{k:03}"), np.full((40, 80), 255 * k, np.uint8))
    write_image(root / "test" / "stain" / "000.png", picture(30))
    return root


@pytest.mark.parametrize("mask_name", ["{}_mask.png", "{}.png", "{}.bmp"], ids=["mvtec", "same name", "other format"])
def test_an_mvtec_layout_is_read_with_masks_by_name(tmp_path: Path, mask_name: str) -> None:
    root = write_mvtec(tmp_path / "tile", mask_name)
    found = data.find_images(root)
    assert found.name == "tile"
    assert [p.name for p in found.good] == ["000.png", "001.png", "002.png"]
    masks = root / "ground_truth" / "crack"
    assert found.test == [
        Labelled(root / "test" / "crack" / "000.png", "crack", masks / mask_name.format("000")),
        Labelled(root / "test" / "crack" / "001.png", "crack", masks / mask_name.format("001")),
        Labelled(root / "test" / "good" / "000.png", "good", None),
        Labelled(root / "test" / "good" / "001.png", "good", None),
        Labelled(root / "test" / "stain" / "000.png", "stain", None),
    ]


def test_hidden_folders_are_no_defects(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path)
    write_image(root / "test" / ".ipynb_checkpoints" / "000.png", picture())
    assert {item.defect for item in data.find_images(root).test} == {"good", "crack", "stain"}


@pytest.mark.parametrize("below", ["parts", "parts/good", "parts/train/good"])
def test_a_plain_folder_is_good_images_of_the_product_it_names(tmp_path: Path, below: str) -> None:
    for name in ("b.png", "a.png"):
        write_image(tmp_path / below / name, picture())
    (tmp_path / below / "notes.txt").write_text("no image")
    found = data.find_images(tmp_path / below)
    assert (found.name, found.test) == ("parts", [])
    assert [p.name for p in found.good] == ["a.png", "b.png"]


def test_a_folder_beside_good_may_hold_defects_and_is_not_swept_in(tmp_path: Path) -> None:
    for name in ("good/a.png", "bad/b.png"):
        write_image(tmp_path / name, picture())
    with pytest.raises(CallError, match="bad, good"):
        data.find_images(tmp_path)


def test_one_of_several_categories_must_be_named(tmp_path: Path) -> None:
    for name in ("screw", "bottle"):
        write_mvtec(tmp_path / name)
    with pytest.raises(CallError, match="name one category with --category: bottle, screw"):
        data.find_images(tmp_path)
    with pytest.raises(CallError, match="bottle, screw"):
        data.find_images(tmp_path, "botle")
    assert data.find_images(tmp_path, "bottle").name == "bottle"


@pytest.mark.parametrize(
    ("folder", "category", "message"),
    [("nowhere", None, "is not a folder"), (".", None, "holds no images"), (".", "x", "x: holds no train/good")],
)
def test_a_folder_without_images_is_refused(tmp_path: Path, folder: str, category: str | None, message: str) -> None:
    with pytest.raises(CallError, match=message):
        data.find_images(tmp_path / folder, category)


@given(st.integers(10, 400), st.floats(0.01, 0.89), st.integers(0, 2**31))
def test_split_sets_a_share_aside_and_loses_nothing(count: int, share: float, seed: int) -> None:
    good = [Path(f"{k:04}.png") for k in range(count)]
    training, held_out = data.split(good, share, seed)
    assert not set(training) & set(held_out)
    assert sorted(training + held_out) == good
    assert training == sorted(training)
    assert held_out
    assert abs(len(held_out) - share * count) <= 1
    assert data.split(good, share, seed) == (training, held_out)


@pytest.mark.parametrize(
    ("good", "held_out"), [(10, 3), (60, 20), (140, 47), (297, 99), (300, 99), (660, 99), (700, 105), (761, 114)]
)
def test_as_many_are_held_out_as_one_false_reject_in_a_hundred_needs_up_to_a_third(good: int, held_out: int) -> None:
    training, chosen = data.split([Path(f"{k:04}.png") for k in range(good)], None, 0)
    assert (len(training), len(chosen)) == (good - held_out, held_out)


def test_another_seed_holds_other_images_out() -> None:
    good = [Path(f"{k:04}.png") for k in range(100)]
    chosen = {tuple(data.split(good, 0.2, seed)[1]) for seed in range(10)}
    assert len(chosen) == 10
    assert len({path for held_out in chosen for path in held_out}) > 70  # not always the same corner of the folder


def written(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{k}.png" for k in range(count)]
    for k, path in enumerate(paths):
        write_image(path, picture(k))
    return paths


def test_prepared_inputs_are_the_preprocessed_images(tmp_path: Path) -> None:
    paths = written(tmp_path, 3)
    prepared = data.prepare_inputs(paths, data.count_inputs(paths, SPEC), SPEC, tmp_path / "run" / "prepared.npy")
    np.testing.assert_array_equal(prepared, data.load_inputs(paths, SPEC))
    assert prepared.shape == (3, 32, 64, 3)
    assert isinstance(prepared, np.memmap)


def test_prepared_inputs_are_used_again_for_the_same_images(tmp_path: Path) -> None:
    paths, file = written(tmp_path, 3), tmp_path / "prepared.npy"
    data.prepare_inputs(paths, data.count_inputs(paths, SPEC), SPEC, file)
    marked = np.load(file)
    marked[:] = 7  # a preparation that was used again shows the mark
    np.save(file, marked)
    assert (data.prepare_inputs(paths, data.count_inputs(paths, SPEC), SPEC, file) == 7).all()


@pytest.mark.parametrize("change", ["content", "images", "order", "size", "crop", "stamp lost"])
def test_prepared_inputs_are_made_anew_when_anything_changed(tmp_path: Path, change: str) -> None:
    paths, file, spec = written(tmp_path, 3), tmp_path / "prepared.npy", SPEC
    data.prepare_inputs(paths, data.count_inputs(paths, spec), spec, file)
    np.save(file, np.full((3, 32, 64, 3), 7, np.uint8))
    match change:
        case "content":
            write_image(paths[1], picture(99))
        case "images":
            paths = paths[:2]
        case "order":
            paths = paths[::-1]
        case "size":
            spec = InputSpec(height=64, width=32)
        case "crop":
            spec = InputSpec(height=32, width=64, crop=(0, 0, 40, 40))
        case "stamp lost":
            file.with_suffix(".json").unlink()
    np.testing.assert_array_equal(
        data.prepare_inputs(paths, data.count_inputs(paths, spec), spec, file), data.load_inputs(paths, spec)
    )


def test_a_preparation_that_was_killed_never_passes_for_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between file and stamp: the older stamp must not vouch for the newer file."""
    older, newer, file = written(tmp_path / "older", 3), written(tmp_path / "newer", 3), tmp_path / "prepared.npy"
    for path in newer:
        write_image(path, picture(77))
    data.prepare_inputs(older, data.count_inputs(older, SPEC), SPEC, file)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data.atomic, "write_text", kill)
        with pytest.raises(KeyboardInterrupt):
            data.prepare_inputs(newer, data.count_inputs(newer, SPEC), SPEC, file)
    np.testing.assert_array_equal(
        data.prepare_inputs(older, data.count_inputs(older, SPEC), SPEC, file), data.load_inputs(older, SPEC)
    )


def test_the_hash_of_the_data_is_of_contents_alone(tmp_path: Path) -> None:
    paths = written(tmp_path, 3)
    expected = data.data_sha256(paths)
    assert data.data_sha256(paths[::-1]) == expected
    renamed = [path.rename(path.with_name(f"z{path.name}")) for path in paths]
    assert data.data_sha256(renamed) == expected
    assert data.data_sha256(renamed[:2]) != expected
    write_image(renamed[0], picture(5))
    assert data.data_sha256(renamed) != expected


ORIENTATIONS = {  # EXIF value: how a camera stores an upright picture
    1: lambda i: i,
    2: lambda i: i[:, ::-1],
    3: lambda i: i[::-1, ::-1],
    4: lambda i: i[::-1],
    5: lambda i: i.transpose(1, 0, 2),
    6: lambda i: np.rot90(i, 1),
    7: lambda i: i[::-1, ::-1].transpose(1, 0, 2),
    8: lambda i: np.rot90(i, -1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_camera_gives_an_upright_input(tmp_path: Path, orientation: int) -> None:
    upright = picture(3, 32, 64)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(ORIENTATIONS[orientation](upright)[..., ::-1])
    Pillow.fromarray(stored).save(tmp_path / "turned.jpg", quality=100, subsampling=0, exif=exif)
    (found,) = data.load_inputs([tmp_path / "turned.jpg"], SPEC)
    assert np.abs(found.astype(int) - upright).max() <= 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("shape", [(32, 64), (32, 64, 3)], ids=["grey", "colour"])
def test_depths_and_channels_become_8_bit_bgr(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape)
    stored = (levels * (257 if dtype is np.uint16 else 1)).astype(dtype)
    assert cv2.imwrite(str(tmp_path / "image.png"), stored)
    (found,) = data.load_inputs([tmp_path / "image.png"], SPEC)
    expected = levels if levels.ndim == 3 else levels[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(found, expected)


def test_an_alpha_channel_is_left_out(tmp_path: Path) -> None:
    colours = picture(1, 32, 64)
    alpha = np.random.default_rng(0).integers(0, 256, (32, 64, 1), np.uint8)
    assert cv2.imwrite(str(tmp_path / "image.png"), np.concatenate([colours, alpha], axis=2))
    np.testing.assert_array_equal(data.load_inputs([tmp_path / "image.png"], SPEC)[0], colours)


def test_no_images_give_an_empty_batch() -> None:
    assert data.load_inputs([], SPEC).shape == (0, 32, 64, 3)


def mask_file(path: Path, value: int = 255) -> Labelled:
    mask = np.zeros((64, 128), np.uint8)
    mask[10:20, 40:60] = value
    write_image(path, mask)
    return Labelled(path, "crack", path)


def test_a_mask_lies_where_its_image_lies(tmp_path: Path) -> None:
    item = mask_file(tmp_path / "mask.png")
    expected = np.zeros((32, 64), np.bool_)
    expected[5:10, 20:30] = True
    np.testing.assert_array_equal(data.load_mask(item, SPEC), expected)
    cropped = data.load_mask(item, InputSpec(height=32, width=64, crop=(32, 8, 64, 32)))
    expected = np.zeros((32, 64), np.bool_)
    expected[2:12, 8:28] = True
    np.testing.assert_array_equal(cropped, expected)


def test_a_mask_of_ones_is_refused_and_no_mask_is_none_marked(tmp_path: Path) -> None:
    assert read_image(mask_file(tmp_path / "faint.png", 1).path).max() == 1
    with pytest.raises(BadImage, match="brightest level is 1 of 255"):
        data.load_mask(mask_file(tmp_path / "faint.png", 1), SPEC)
    unmarked = data.load_mask(Labelled(tmp_path / "faint.png", "good", None), SPEC)
    assert unmarked.shape == (32, 64)
    assert not unmarked.any()
