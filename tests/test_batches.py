"""What a training run is shown: which images in which order, and how they are changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dskd.runtime.errors import CallError
from dskd.train.augment import augment
from dskd.train.batches import AugmentedImages, Schedule, batches
from dskd.train.settings import AugmentConfig

Images = NDArray[np.uint8]


def pictures(count: int) -> Images:
    return np.random.default_rng(1).integers(0, 256, (count, 32, 64, 3), np.uint8)


# Schedule


@given(st.integers(2, 60), st.integers(1, 8), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_each_epoch_draws_every_image_at_most_once_over_all_processes(
    count: int, batch: int, epochs: int, world: int, seed: int
) -> None:
    if count < world:
        return
    schedules = [Schedule(count, batch, epochs, seed, rank, world) for rank in range(world)]
    draws = [list(schedule) for schedule in schedules]
    steps = schedules[0].steps
    assert {len(d) for d in draws} == {steps} == {len(schedule) for schedule in schedules}
    assert steps > 0
    size = min(batch, count // world)
    assert all(len(one) == size for d in draws for one in d)
    for epoch in range(epochs):
        drawn = [index for d in draws for one in d for when, index in one if when == epoch]
        assert len(set(drawn)) == len(drawn) == count // (size * world) * size * world
        assert set(drawn) <= set(range(count))


def test_an_epoch_that_the_batch_divides_is_a_permutation_and_each_is_another() -> None:
    draws = [draw for one in Schedule(12, 4, 3, seed=5) for draw in one]
    orders = [[index for when, index in draws if when == epoch] for epoch in range(3)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert [draw for one in Schedule(12, 4, 3, seed=6) for draw in one] != draws


@given(st.integers(0, 12), st.integers(0, 1))
def test_a_schedule_goes_on_from_any_step_with_the_same_draws(first: int, rank: int) -> None:
    whole, rest = (Schedule(17, 2, 3, 7, rank, 2) for _ in range(2))
    rest.first_step = first
    assert list(rest) == list(whole)[first:]
    assert len(rest) == len(list(rest))


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(CallError, match="3 training images"):
        Schedule(3, 2, 1, 0, 0, 4)


# Augmentation

ALL_KINDS = AugmentConfig(pseudo_anomalies=0.8, flip=True, flip_vertical=True, gain=0.2)


def drawn(images: Images, seed: int, epoch: int, index: int) -> tuple[Images, Images]:
    return AugmentedImages(images, ALL_KINDS, seed)[epoch, index]


def test_what_is_shown_follows_from_seed_epoch_and_index_alone() -> None:
    images = pictures(4)
    one, again = drawn(images, 3, 2, 1), drawn(images, 3, 2, 1)
    for found, expected in zip(one, again, strict=True):
        np.testing.assert_array_equal(found, expected)
    same = np.repeat(images[:1], 4, axis=0)  # the same picture under every index
    others = [drawn(same, *place)[1].tobytes() for place in ((3, 2, 1), (3, 3, 1), (4, 2, 1), (3, 2, 0), (2, 3, 1))]
    assert len(set(others)) == 5


def test_without_augmentation_the_image_itself_is_shown() -> None:
    settings = AugmentConfig(pseudo_anomalies=0, flip=False, flip_vertical=False, gain=0)
    image = pictures(1)[0]
    for seed in range(20):
        clean, seen = augment(image, settings, np.random.default_rng(seed))
        np.testing.assert_array_equal(clean, image)
        np.testing.assert_array_equal(seen, image)


def test_pseudo_anomalies_come_as_often_as_asked_and_leave_the_clean_image_alone() -> None:
    settings = AugmentConfig(pseudo_anomalies=0.3, flip=False, flip_vertical=False, gain=0)
    image = np.full((64, 64, 3), 120, np.uint8)
    image[::4] = 60
    before, changed, areas = image.copy(), 0, []
    for seed in range(400):
        clean, seen = augment(image, settings, np.random.default_rng(seed))
        np.testing.assert_array_equal(clean, before)
        assert (seen.dtype, seen.shape) == (np.uint8, image.shape)
        if (seen != clean).any():
            changed += 1
            areas.append(float((seen != clean).any(axis=2).mean()))
    assert 85 <= changed <= 150  # 120 expected, standard deviation 9; a shift by whole periods changes nothing
    assert max(areas) < 0.5  # a patch, not the picture


@pytest.mark.parametrize(
    ("settings", "answers"),
    [
        ({"flip": True}, [lambda i: i, lambda i: i[:, ::-1]]),
        ({"flip_vertical": True}, [lambda i: i, lambda i: i[::-1]]),
        ({"gain": 0.3}, []),
    ],
    ids=["flip", "flip_vertical", "gain"],
)
def test_each_change_is_what_its_setting_says(settings: dict[str, Any], answers: list[Any]) -> None:
    image = pictures(1)[0] // 4
    plain = {"pseudo_anomalies": 0.0, "flip": False, "flip_vertical": False, "gain": 0.0}
    found = [augment(image, AugmentConfig(**{**plain, **settings}), np.random.default_rng(s))[0] for s in range(30)]
    if answers:
        kinds = {answer(image).tobytes() for answer in answers}
        assert {one.tobytes() for one in found} == kinds
    else:
        factors = [one.sum() / image.sum() for one in found]
        assert min(factors) < 0.9
        assert max(factors) > 1.1


def test_batches_hold_what_the_schedule_draws() -> None:
    images, settings = pictures(5), AugmentConfig(pseudo_anomalies=0, flip=False, flip_vertical=False, gain=0)
    schedule = Schedule(5, 2, 2, 0)
    for draws, (clean, seen) in zip(schedule, batches(images, settings, schedule, 0), strict=True):
        assert clean.dtype == torch.uint8
        np.testing.assert_array_equal(clean, images[[index for _, index in draws]])
        assert torch.equal(clean, seen)
