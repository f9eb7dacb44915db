"""Cameras of one module, simulated: when nobody aligns them, how late verdicts are and which frames are lost.

Batches are made as a station makes them: what waits when the engine is free, one frame of each camera in turn; a frame
that still waits when its camera has a newer one is dropped. The engine takes what the caller says for a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DRIFT = 1e-3  # by which cameras' clocks differ: no camera keeps its place between the others
WARM_UP = 0.1  # of the frames, not counted


@dataclass(frozen=True)
class Line:
    """What became of the frames: batches, milliseconds from capture to verdict, and the share that was dropped.

    ``worst`` is that share of the camera that loses most.
    """

    batch: float
    p50: float
    p99: float
    dropped: float
    worst: float


def simulate(
    cameras: int, rate: float, seconds_of: Callable[[int], float], most: int, frames: int = 100, seed: int = 0
) -> Line:
    """``cameras`` with ``rate`` frames a second each, ``frames`` of every one; a batch holds ``most`` at most."""
    captured, who = _arrivals(cameras, rate, frames, np.random.default_rng(seed))
    begin = captured[int(WARM_UP * len(captured))]
    waiting: dict[int, float] = {}  # the frame of each camera that has one
    waits, batches, now, next_one, turn = list[float](), list[int](), 0.0, 0, 0
    dropped, judged = np.zeros(cameras), np.zeros(cameras)
    while next_one < len(captured) or waiting:
        now = now if waiting else max(now, captured[next_one])
        while next_one < len(captured) and captured[next_one] <= now:
            camera = who[next_one]
            dropped[camera] += waiting.get(camera, 0.0) >= begin
            waiting[camera] = captured[next_one]
            next_one += 1
        batch = sorted(waiting, key=lambda camera: (camera - turn) % cameras)[:most]
        turn = batch[-1] + 1
        now += seconds_of(len(batch))
        for camera in batch:
            captured_at = waiting.pop(camera)
            if captured_at >= begin:
                judged[camera] += 1
                waits.append(now - captured_at)
        batches.append(len(batch))
    p50, p99 = (1e3 * float(value) for value in np.percentile(waits, (50, 99)))
    lost = dropped / (dropped + judged)
    return Line(float(np.mean(batches)), p50, p99, float(dropped.sum() / (dropped + judged).sum()), float(lost.max()))


def _arrivals(cameras: int, rate: float, frames: int, random: np.random.Generator) -> tuple[list[float], list[int]]:
    """When each frame of all cameras is captured, in order, and by which."""
    periods = (1 + DRIFT * random.standard_normal(cameras)) / rate
    captured = periods[:, None] * (random.random((cameras, 1)) + np.arange(frames))
    order = np.argsort(captured, axis=None)
    return captured.ravel()[order].tolist(), (order // frames).tolist()
