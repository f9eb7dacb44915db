"""What is no picture of a part is told by its kind, and cheaply; what is one passes."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dskd.benchmarks.lab.station.rtsp_camera import picture
from dskd.runtime.capture.frame_health import FrameHealth, HealthLimits
from dskd.runtime.capture.picture_quality import KEPT, PERIOD, PictureQuality
from dskd.runtime.reason import NotInspected

Image = NDArray[np.uint8]


def noisy(level: float, seed: int = 0) -> Image:
    random = np.random.default_rng(seed)
    return np.clip(random.normal(level, 2.0, (240, 320, 3)), 0, 255).astype(np.uint8)


def with_clock(image: Image) -> Image:
    """As network cameras write the time into a corner."""
    image[:12, :60] = np.random.default_rng().integers(0, 256, (12, 60, 3), np.uint8)
    return image


CASES: dict[str, tuple[Callable[[], Image], str]] = {
    "sound": (lambda: picture(1), ""),
    "dark but lit": (lambda: noisy(14), ""),
    "bright but not burnt": (lambda: noisy(235), ""),
    "even surface with a sensor's noise": (lambda: noisy(128), ""),
    "lens cap": (lambda: noisy(2), "black"),
    "lens cap under a clock": (lambda: with_clock(noisy(2)), "black"),
    "zeros": (lambda: np.zeros((240, 320, 3), np.uint8), "black"),
    "burnt out": (lambda: noisy(254), "over-exposed"),
    "grey of a decoder without data": (lambda: np.full((240, 320, 3), 128, np.uint8), "blank"),
    "blue of no signal": (lambda: np.full((240, 320, 3), (255, 0, 0), np.uint8), "blank"),
    "grey, not colour": (lambda: np.zeros((240, 320), np.uint8), "size"),
    "deeper than 8 bit": (lambda: np.zeros((240, 320, 3), np.uint16), "size"),  # type: ignore[dict-item]
}


def kind_of(fault: NotInspected | None) -> str:
    return "" if fault is None else fault.reason.value


@pytest.mark.parametrize("name", CASES)
def test_first_frame(name: str) -> None:
    make, kind = CASES[name]
    assert kind_of(FrameHealth().fault(make())) == kind


def test_a_part_in_the_dark_field_passes() -> None:
    image = noisy(2)
    cv2.circle(image, (160, 120), 60, (200, 200, 200), -1)
    assert FrameHealth().fault(image) is None


def test_the_same_picture_again_is_frozen_and_a_new_one_is_not() -> None:
    health = FrameHealth()
    assert [kind_of(health.fault(p)) for p in (picture(1), picture(1), picture(1), picture(2))] == [
        "",
        "frozen",
        "frozen",
        "",
    ]


def test_one_changed_pixel_is_not_bit_for_bit_but_a_run_of_such_is_frozen() -> None:
    health, image, told = FrameHealth(), picture(1), []
    for number in range(40):
        image = image.copy()
        image[100, 100 + number] = 255
        told.append(kind_of(health.fault(image)))
    assert told[:20] == [""] * 20
    assert set(told[30:]) == {"frozen"}
    assert health.fault(picture(2)) is None


def test_a_still_part_under_a_sensor_is_not_frozen() -> None:
    health = FrameHealth()
    assert {health.fault(noisy(120, seed)) for seed in range(60)} == {None}


def test_files_may_repeat() -> None:
    health = FrameHealth()
    assert {health.fault(picture(1), live=False) for _ in range(3)} == {None}


def test_another_size_is_refused_until_the_first_comes_back() -> None:
    health = FrameHealth()
    told = [health.fault(image) for image in (picture(1), picture(2, 640, 480), picture(3, 640, 480), picture(4))]
    assert [kind_of(fault) for fault in told] == ["", "size", "size", ""]
    assert "640x480 instead of 320x240" in str(told[1])


def test_the_configured_size_holds_from_the_first_frame() -> None:
    health = FrameHealth(HealthLimits(size=(640, 480)))
    assert str(health.fault(picture(1))).startswith("size: 320x240 instead of 640x480")


def test_a_broken_first_frame_does_not_set_the_size() -> None:
    health = FrameHealth()
    assert kind_of(health.fault(np.zeros((100, 100, 3), np.uint8))) == "black"
    assert health.fault(picture(1)) is None


def test_blur_is_told_from_focus() -> None:
    sharp = picture(1, 640, 480)
    health = FrameHealth(HealthLimits(blur=100.0))
    assert health.fault(sharp) is None
    assert kind_of(health.fault(cv2.GaussianBlur(sharp, (0, 0), 5).astype(np.uint8))) == "blurred"


def test_a_check_can_be_switched_off() -> None:
    health = FrameHealth(HealthLimits(frozen=False, black=0, bright=255))
    assert {health.fault(noisy(1)), health.fault(noisy(254)), health.fault(picture(1)), health.fault(picture(1))} == {
        None
    }


def test_a_large_frame_costs_little() -> None:
    frames = [np.random.default_rng(seed).integers(0, 255, (2160, 3840, 3), np.uint8) for seed in range(3)]
    health = FrameHealth()
    spent = []
    for number in range(9):
        began = time.thread_time()
        health.fault(frames[number % 3])
        spent.append(time.thread_time() - began)
    assert sorted(spent)[4] < 0.03  # of this thread's own time: a camera gives a frame in 33 milliseconds


def test_what_a_lamp_and_a_lens_do_to_pictures_is_measured_once_a_minute() -> None:
    quality, sharp = PictureQuality(), picture(1)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 3)
    darker = (sharp * 0.7).astype(np.uint8)
    for k, image in enumerate((sharp, blurred, darker)):
        quality.look(image, 1000.0 + k * PERIOD)
        quality.look(np.zeros_like(image), 1000.0 + k * PERIOD + 1)  # too early to be measured
    usual, soft, dim = quality.measured()
    assert soft.sharpness < 0.5 * usual.sharpness
    assert soft.brightness == pytest.approx(usual.brightness, rel=0.1)
    assert dim.brightness == pytest.approx(0.7 * usual.brightness, rel=0.05)
    assert dim.contrast == pytest.approx(0.7 * usual.contrast, rel=0.05)
    quality.look(sharp, 10.0)  # the clock was set back
    assert quality.measured()[-1].at == 10.0
    for k in range(KEPT + 5):
        quality.look(sharp[:40, :40], 2000.0 + k * PERIOD)
    assert len(quality.measured()) == KEPT


def test_the_limit_for_blur_is_read_from_what_is_usual() -> None:
    quality, sharp = PictureQuality(), picture(1)
    quality.look(sharp, 0.0)
    limit = 0.5 * quality.measured()[0].sharpness
    assert FrameHealth(HealthLimits(blur=limit)).fault(sharp) is None
    assert kind_of(FrameHealth(HealthLimits(blur=limit)).fault(cv2.GaussianBlur(sharp, (0, 0), 3))) == "blurred"
