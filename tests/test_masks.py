"""Masks: what is painted in colour or alpha, which picture each belongs to, and that both have one size."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import BadImage, list_images, read_mask
from dskd.runtime.errors import CallError
from dskd.train import data
from dskd.train.data import TestImage as Labelled  # pytest would try to collect a name that starts with Test

Array = NDArray[np.uint8]
SPEC = InputSpec(height=32, width=64)
MARKED = np.zeros((32, 64), np.bool_)
MARKED[8:20, 30:50] = True
ELSEWHERE = np.roll(MARKED, 12, axis=1)
SOFT = np.asarray(cv2.GaussianBlur(MARKED.astype(np.uint8) * 255, (0, 0), 2))


def levels(painted: NDArray[np.bool_], on: int = 255, off: int = 0) -> Array:
    return np.where(painted, on, off).astype(np.uint8)


def rgba(colour: Array | int, alpha: Array) -> Pillow.Image:
    plane = np.broadcast_to(np.asarray(colour, np.uint8), alpha.shape)
    return Pillow.fromarray(np.dstack([plane, plane, plane, alpha]))


def palette(colours: list[int], indices: Array) -> Pillow.Image:
    picture = Pillow.fromarray(indices, "L").convert("P")
    picture.putdata(indices.ravel().tolist())
    picture.putpalette(colours + [0] * (768 - len(colours)))
    return picture


CLASSES = levels(MARKED, 1) + levels(ELSEWHERE & ~MARKED, 2)
CLEAR = {  # name: picture and what is marked
    "white on black": (Pillow.fromarray(levels(MARKED)), MARKED),
    "1 bit": (Pillow.fromarray(MARKED), MARKED),
    "16 bit": (Pillow.fromarray(levels(MARKED).astype(np.uint16) * 257), MARKED),
    "palette": (palette([0, 0, 0, 200, 0, 0], levels(MARKED, 1)), MARKED),
    "palette of bright classes": (palette([0, 0, 0, 128, 0, 0, 0, 128, 0], CLASSES), MARKED | ELSEWHERE),
    "alpha over white": (rgba(255, levels(MARKED)), MARKED),
    "alpha over black": (rgba(0, levels(MARKED)), MARKED),
    "alpha over grey": (rgba(100, levels(MARKED)), MARKED),
    "grey with alpha": (Pillow.merge("LA", [Pillow.new("L", (64, 32), 255), Pillow.fromarray(levels(MARKED))]), MARKED),
    "soft alpha": (rgba(255, SOFT), SOFT > 127),
    "soft white brush": (rgba(levels(SOFT > 0), SOFT), SOFT > 127),
    "colour and alpha alike": (rgba(levels(MARKED), levels(MARKED)), MARKED),
    "opaque": (rgba(levels(MARKED), levels(MARKED, 255, 255)), MARKED),
    "wholly transparent": (rgba(levels(MARKED), levels(MARKED, 0, 0)), MARKED),
    "black": (Pillow.new("L", (64, 32), 0), MARKED & False),
}
UNCLEAR = {  # name: picture and words of the refusal
    "alpha elsewhere": (rgba(levels(MARKED), levels(ELSEWHERE)), "different things"),
    "alpha the other way": (rgba(levels(MARKED), levels(~MARKED)), "different things"),
    "black brush": (rgba(levels(~MARKED), levels(MARKED)), "different things"),
    "white and hardly transparent": (rgba(255, levels(MARKED, 255, 200)), "different things"),
    "alpha of ones": (rgba(255, levels(MARKED, 1)), "alpha is 1 of 255"),
    "ones": (Pillow.fromarray(levels(MARKED, 1)), "brightest level is 1 of 255"),
    "classes as numbers": (Pillow.fromarray(CLASSES), "brightest level is 2 of 255"),
    "12 bit in 16": (Pillow.fromarray(levels(MARKED).astype(np.uint16) * 16), "brightest level is 15 of 255"),
    "palette of a bright and a dark class": (
        palette([0, 0, 0, 128, 0, 0, 64, 0, 0], CLASSES),
        "bright and dark colours",
    ),
}


def saved(picture: Pillow.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


# OpenCV multiplies the colours of a TIFF by its alpha, and gives no alpha of grey ones: what is lost cannot be judged.
NOT_IN_TIFF = {"grey with alpha", "alpha over grey", "wholly transparent"}


@pytest.mark.parametrize(
    ("name", "ending"), [(n, e) for n in CLEAR for e in ("png", "tif") if e == "png" or n not in NOT_IN_TIFF]
)
def test_a_mask_is_what_is_painted_in_colour_or_alpha(name: str, ending: str, tmp_path: Path) -> None:
    picture, expected = CLEAR[name]
    np.testing.assert_array_equal(read_mask(saved(picture, tmp_path / f"mask.{ending}")), expected)


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_mask_that_does_not_say_what_is_marked_is_refused(name: str, tmp_path: Path) -> None:
    picture, words = UNCLEAR[name]
    with pytest.raises(BadImage, match=words) as refused:
        read_mask(saved(picture, tmp_path / "mask.png"))
    assert "save what counts as white" in str(refused.value)


HIDDEN = {  # name: picture, file format, options
    "grey tiff": (CLEAR["grey with alpha"][0], "TIFF", {}),
    "grey level of a png": (Pillow.fromarray(levels(MARKED, 255, 254)), "PNG", {"transparency": 254}),
    "spare byte of a bmp": (rgba(255, levels(MARKED)), "BMP", {}),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_mask_in_a_channel_that_opencv_leaves_out_is_refused(name: str, tmp_path: Path) -> None:
    picture, form, options = HIDDEN[name]
    with pytest.raises(BadImage, match="transparency that is not read"):
        read_mask(saved(picture, tmp_path / "mask", format=form, **options))


def test_a_transparent_black_of_a_clear_mask_does_no_harm(tmp_path: Path) -> None:
    path = saved(Pillow.fromarray(levels(MARKED)), tmp_path / "mask.png", transparency=0)
    np.testing.assert_array_equal(read_mask(path), MARKED)


def test_an_alpha_mask_in_webp_is_read(tmp_path: Path) -> None:
    path = saved(rgba(255, levels(MARKED)), tmp_path / "mask.webp", lossless=True, exact=True)
    np.testing.assert_array_equal(read_mask(path), MARKED)


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_an_alpha_mask_that_is_turned_by_exif_is_refused(ending: str, tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 3
    path = saved(rgba(255, levels(MARKED)), tmp_path / f"mask.{ending}", exif=exif.tobytes())
    with pytest.raises(BadImage, match="turned by EXIF"):
        read_mask(path)


# ------------------------------------------------------------------------------------------------------------- pairs


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def pairs(root: Path) -> dict[str, str]:
    found = data.find_images(touch(root, "train/good/0.png")).test
    ground_truth = root / "ground_truth"
    return {
        item.path.relative_to(root / "test").as_posix(): item.mask.relative_to(ground_truth).as_posix()
        for item in found
        if item.mask
    }


def test_pictures_of_one_name_in_two_folders_keep_their_own_masks(tmp_path: Path) -> None:
    names = [f"crack/{camera}/000" for camera in ("cam1", "cam2")]
    touch(tmp_path, *(f"test/{n}.png" for n in names), *(f"ground_truth/{n}_mask.png" for n in names))
    assert pairs(tmp_path) == {f"{n}.png": f"{n}_mask.png" for n in names}


def test_the_mask_of_another_folder_is_nobodys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "test/crack/cam1/000.png", "ground_truth/crack/000_mask.png")
    assert pairs(tmp_path) == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"1 masks belong to no picture, {tmp_path}/ground_truth/crack/000_mask.png for one; "
        "name each as its picture is named"
    ]


def test_two_pictures_of_one_stem_do_not_share_a_mask(tmp_path: Path) -> None:
    touch(tmp_path, "test/crack/001.png", "test/crack/001.jpg", "ground_truth/crack/001_mask.png")
    with pytest.raises(CallError, match=r"001_mask.png: is the mask of 001.jpg and of 001.png"):
        pairs(tmp_path)


def test_two_pictures_of_one_stem_with_masks_of_their_whole_names_are_told_apart(tmp_path: Path) -> None:
    names = ["crack/001.png", "crack/001.jpg"]
    touch(tmp_path, *(f"test/{n}" for n in names), *(f"ground_truth/{n}" for n in names))
    assert pairs(tmp_path) == {n: n for n in names}


def test_two_masks_of_one_picture_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "test/crack/001.jpg", "ground_truth/crack/001_mask.png", "ground_truth/crack/001.png")
    with pytest.raises(CallError, match="two masks"):
        pairs(tmp_path)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_spelled_in_either_way(form: str, tmp_path: Path) -> None:
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    picture = unicodedata.normalize(form, "Lötstelle/prüfung é")  # type: ignore[arg-type]
    mask = unicodedata.normalize(other, f"{picture}_mask")  # type: ignore[arg-type]
    touch(tmp_path, f"test/{picture}.png", f"ground_truth/{mask}.png")
    assert pairs(tmp_path) == {f"{picture}.png": f"{mask}.png"}


# -------------------------------------------------------------------------------------------------------------- sizes


def test_a_mask_of_another_size_than_its_picture_is_refused(tmp_path: Path) -> None:
    picture = saved(Pillow.new("RGB", (64, 32)), tmp_path / "picture.png")
    mask = saved(Pillow.fromarray(levels(MARKED)).resize((128, 64)), tmp_path / "mask.png")
    with pytest.raises(BadImage, match=r"mask.png: the mask has 128x64 pixels and its picture, upright, 64x32"):
        data.load_mask(Labelled(picture, "crack", mask), SPEC)


def test_a_mask_has_the_size_of_its_picture_upright(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    picture = saved(Pillow.new("RGB", (32, 64)), tmp_path / "picture.jpg", exif=exif)
    fits, lies = Pillow.fromarray(levels(MARKED)), Pillow.fromarray(levels(MARKED).T.copy())
    item = Labelled(picture, "crack", saved(fits, tmp_path / "mask.png"))
    np.testing.assert_array_equal(data.load_mask(item, SPEC), MARKED)
    with pytest.raises(BadImage, match="32x64 pixels"):
        data.load_mask(Labelled(picture, "crack", saved(lies, tmp_path / "lying.png")), SPEC)


# ------------------------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize("name", ["Good", "GOOD", "ok", "OK"])
def test_good_parts_may_lie_in_a_folder_of_another_spelling(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"train/{name}/0.png", f"test/{name}/0.png", "test/crack/0.png")
    found = data.find_images(tmp_path)
    assert [item.defect for item in found.test if item.path.parent.name == name] == ["good"]
    assert found.good == [tmp_path / "train" / name / "0.png"]
    assert tmp_path.name in data.categories_of(tmp_path.parent)


def test_linked_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "good/a.png", "good/real/b.png", "elsewhere/c.jfif", "elsewhere/.hidden/d.png")
    (tmp_path / "good" / "a link").symlink_to(tmp_path / "good" / "real")
    (tmp_path / "good" / "day1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "good" / "day1 again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "good")
    (tmp_path / "good" / "broken").symlink_to(tmp_path / "gone")
    os.symlink("self", tmp_path / "good" / "self")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path / "good")]
    assert found == ["good/a.png", "good/day1/c.jfif", "good/real/b.png"]


def test_copies_of_one_picture_and_even_pictures_are_noticed() -> None:
    one = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    assert data.all_alike(np.stack([one, one + 1, one]))
    assert data.all_alike(np.stack([np.full((8, 8, 3), level, np.uint8) for level in (30, 90)]))
    assert not data.all_alike(np.stack([one, one[::-1]]))
