"""The one preprocessing against block means and hand-made linear interpolation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.preprocess import MOST_BUFFERS, _scratch, preprocess

Image = NDArray[np.uint8]


def noise(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def block_means(image: NDArray[np.floating], axis: int, factor: int) -> NDArray[np.floating]:
    """Averages runs of ``factor`` pixels along ``axis``."""
    shape = list(image.shape)
    shape[axis : axis + 1] = [shape[axis] // factor, factor]
    return image.reshape(shape).mean(axis + 1)


def linear(image: NDArray[np.floating], axis: int, size: int) -> NDArray[np.floating]:
    """Grows ``axis`` to ``size`` pixels: pixel centres at k + 1/2, the edge repeated."""
    source = image.shape[axis]
    place = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, source - 1)
    weight = np.expand_dims(place - low, [k for k in range(image.ndim) if k != axis])
    return np.take(image, low, axis) * (1 - weight) + np.take(image, high, axis) * weight


def both(image: Image, rows: tuple[str, int], columns: tuple[str, int]) -> NDArray[np.floating]:
    found = image.astype(float)
    for axis, (kind, size) in enumerate((rows, columns)):
        found = block_means(found, axis, image.shape[axis] // size) if kind == "mean" else linear(found, axis, size)
    return found


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        pytest.param((64, 96), ("mean", 32), ("mean", 32), id="both shrink"),
        pytest.param((128, 256), ("mean", 32), ("mean", 32), id="halved first"),
        pytest.param((20, 30), ("linear", 32), ("linear", 64), id="both grow"),
        pytest.param((128, 24), ("mean", 32), ("linear", 64), id="rows shrink, columns grow"),
        pytest.param((24, 256), ("linear", 64), ("mean", 32), id="rows grow, columns shrink"),
        pytest.param((32, 96), ("linear", 32), ("mean", 32), id="rows stay, columns shrink"),
        pytest.param((32, 20), ("linear", 32), ("linear", 64), id="rows stay, columns grow"),
        pytest.param((96, 32), ("mean", 32), ("linear", 32), id="rows shrink, columns stay"),
        pytest.param((20, 32), ("linear", 64), ("linear", 32), id="rows grow, columns stay"),
    ],
)
def test_each_axis_is_averaged_or_interpolated(
    size: tuple[int, int], rows: tuple[str, int], columns: tuple[str, int]
) -> None:
    image = noise(*size)
    found = preprocess(image, rows[1], columns[1])
    expected = both(image, rows, columns)
    assert found.shape == (rows[1], columns[1], 3)
    assert np.abs(found - expected).max() <= 1.1  # two roundings to whole levels, weights in 1/2048


def test_a_large_frame_keeps_the_light_of_every_pixel_near_its_place() -> None:
    """Halving lets an average's edges move, by less than a pixel of the last half: nothing is lost or doubled."""
    for place in range(10):
        image = np.zeros((320, 384, 3), np.uint8)
        image[150 + place] = 250
        seen = preprocess(image, 32, 32)[:, 7, 1].astype(int)
        assert np.abs(seen.sum() - 25) <= 2
        assert not np.delete(seen, (14, 15, 16)).any()
        assert seen[15] >= 10


def test_frames_of_many_sizes_leave_little_memory() -> None:
    for k in range(3 * MOST_BUFFERS):
        found = preprocess(noise(128 + 2 * k, 128), 32, 32)
        assert found.shape == (32, 32, 3)
    assert len(_scratch.buffers) <= MOST_BUFFERS


def test_threads_do_not_share_halves() -> None:
    frames = [np.full((256, 256, 3), level, np.uint8) for level in range(0, 256, 16)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            found = list(pool.map(lambda frame: preprocess(frame, 32, 32), frames))
            assert [int(image.min()) for image in found] == [int(image.max()) for image in found]
            assert [int(image[0, 0, 0]) for image in found] == list(range(0, 256, 16))


@pytest.mark.parametrize("size", [(320, 20), (20, 320)], ids=["tall", "wide"])
def test_no_pixel_is_skipped_where_an_axis_shrinks(size: tuple[int, int]) -> None:
    """One bright line of a ten-fold shrink must leave a tenth of its light, wherever it lies."""
    for place in range(10):
        image = np.zeros((*size, 3), np.uint8)
        if size[0] > 32:
            image[150 + place] = 250
            assert preprocess(image, 32, 32)[15].min() in (24, 25, 26)
        if size[1] > 32:
            image[:] = 0
            image[:, 150 + place] = 250
            assert preprocess(image, 32, 32)[:, 15].min() in (24, 25, 26)


def test_a_frame_of_network_size_is_untouched() -> None:
    image = noise(64, 96)
    np.testing.assert_array_equal(preprocess(image, 64, 96), image)


def test_the_frame_itself_is_never_written_to() -> None:
    image = noise(100, 90)
    before = image.copy()
    for size in ((50, 45), (64, 128), (100, 90)):
        preprocess(image, *size, (0, 0, 90, 100))
    np.testing.assert_array_equal(image, before)


def test_crop_takes_exactly_its_pixels() -> None:
    image = noise(80, 120)
    np.testing.assert_array_equal(preprocess(image, 32, 64, (11, 7, 64, 32)), image[7:39, 11:75])
    resized = preprocess(image, 16, 32, (11, 7, 64, 32))
    assert np.abs(resized - both(image[7:39, 11:75], ("mean", 16), ("mean", 32))).max() <= 1.01


@pytest.mark.parametrize(
    "crop",
    [(0, 0, 120, 80), (119, 79, 1, 1), (0, 0, 1, 1), (0, 79, 120, 1)],
    ids=["whole frame", "last pixel", "first pixel", "last row"],
)
def test_a_crop_that_touches_the_border_is_fine(crop: tuple[int, int, int, int]) -> None:
    assert preprocess(noise(80, 120), 32, 32, crop).shape == (32, 32, 3)


@pytest.mark.parametrize(
    "crop",
    [
        (60, 0, 61, 80),
        (0, 40, 120, 41),
        (-1, 0, 20, 20),
        (0, -5, 20, 20),
        (-30, 0, 20, 20),
        (0, 0, 0, 20),
        (0, 0, 20, -1),
    ],
    ids=["right", "below", "left", "above", "wholly left", "no width", "negative height"],
)
def test_a_crop_outside_the_frame_is_refused(crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(DskdError, match="leaves the frame of 120x80 pixels"):
        preprocess(noise(80, 120), 32, 32, crop)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 40, 3), np.float32),
        np.zeros((40, 40, 3), np.uint16),
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 1), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((1, 40, 40, 3), np.uint8),
        np.zeros((0, 40, 3), np.uint8),
        np.zeros((40, 0, 3), np.uint8),
    ],
    ids=["float", "16 bit", "grey", "one channel", "alpha", "batch", "no rows", "no columns"],
)
def test_what_is_no_uint8_bgr_frame_is_refused(image: NDArray[np.generic]) -> None:
    with pytest.raises(DskdError, match="expected uint8"):
        preprocess(image, 32, 32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda i: i, id="plain"),
        pytest.param(lambda i: i[:, ::-1], id="mirrored"),
        pytest.param(lambda i: i[..., ::-1], id="channels reversed"),
        pytest.param(lambda i: i.transpose(1, 0, 2), id="transposed"),
        pytest.param(lambda i: i[::2, ::2], id="every second pixel"),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (32, 40), (100, 120), (32, 100)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_output_is_contiguous_and_the_same_for_any_memory_layout(view: object, size: tuple[int, int]) -> None:
    image = view(noise(64, 64))  # type: ignore[operator]
    found = preprocess(image, *size)
    assert found.flags.c_contiguous
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, preprocess(image.copy(), *size))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 64), st.integers(1, 64), st.integers(0, 255))
def test_a_flat_frame_stays_flat_at_any_size(rows: int, columns: int, height: int, width: int, level: int) -> None:
    found = preprocess(np.full((rows, columns, 3), level, np.uint8), height, width)
    assert found.shape == (height, width, 3)
    assert (found == level).all()


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_a_half_is_the_rounded_mean_of_four_pixels(rows: int, columns: int, seed: int) -> None:
    """On every processor: OpenCV's INTER_AREA rounds otherwise on Arm."""
    image = np.random.default_rng(seed).integers(0, 256, (2 * rows, 2 * columns, 3), np.uint8)
    means = (image.reshape(rows, 2, columns, 2, 3).astype(np.uint16).sum((1, 3)) + 2) // 4
    np.testing.assert_array_equal(preprocess(image, rows, columns), means)
