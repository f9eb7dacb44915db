"""The golden self-check: whether a backend gives what its graph says of the bundle's golden frames.

Each graph has golden answers of its own, so what is left is rounding, and the bounds are that of rounding alone. They are
shares, never absolute: scores and maps have no upper end. A few wrong pixels, a shifted map, another frame's answer and a
constant are told from rounding by what rounding does not do, rather than by tighter bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, inf, isfinite, log10

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.loading import PROBE_STEP, Bundle, Golden
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.errors import DskdError, NotExact
from dskd.runtime.inspection.backends.base import Backend
from dskd.runtime.inspection.network_input import network_input

Floats = NDArray[np.float32]
FLAT = 20.0  # a map whose spread is under this part of its values is measured by its values
STEP = 4  # pixels from one that is compared to the next where maps are told from each other: they are smooth
SHIFTS = tuple((down, right) for down in (-2, -1, 0, 1, 2) for right in (-2, -1, 0, 1, 2) if (down, right) != (0, 0))
NEARER = 0.5  # of the distance to its own answer: less is no rounding
BORDER = 2  # of compared pixels, as many as the longest shift
FEW_ROWS = 2  # in a batch: enough to see a row in another's place
EDGE_LEVELS, MEAN_LEVELS = 24, 0.25  # grey levels, at most and in the mean, by which inputs of a found part may differ
BELONGS = 2.0**-7  # a score is its map's maximum or mean but for one rounding to bfloat16 on either side


@dataclass(frozen=True)
class Limits:
    """Largest shares by which correct arithmetic of one precision is off, whoever's it is.

    ``gain`` is of all maps together; ``noise`` of a map's spread; ``pixel`` and ``score`` of value and spread.
    """

    gain: float
    noise: float
    pixel: float
    score: float


# Measured between onnxruntime and OpenVINO with the instructions of AVX2, AVX-512, VNNI and BF16, and for half precision
# against sums of 16 products that are added up in half. docs/calibration.md has the figures.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(gain=0.001, noise=0.002, pixel=0.01, score=0.002),
    "fp16": Limits(gain=0.005, noise=0.03, pixel=0.06, score=0.03),
    "bf16": Limits(gain=0.02, noise=0.3, pixel=0.4, score=0.15),
    "int8": Limits(gain=0.02, noise=0.3, pixel=0.4, score=0.15),
}


# Gain and noise of all probes together: rounding is small beside their values, so they tell what golden frames cannot.
PROBE_LIMITS: dict[Precision, tuple[float, float]] = {
    "fp32": (0.001, 0.002),
    "fp16": (0.003, 0.015),
    "bf16": (0.01, 0.12),
    "int8": (0.01, 0.15),
}


@dataclass(frozen=True)
class GoldenCheck:
    """Worst absolute differences between this device and the graph's golden answers."""

    images: int
    input_levels: int
    score: float
    map: float


def golden_check(bundle: Bundle, backend: Backend, frames: int | None = None) -> GoldenCheck:
    """Runs the golden frames, or the first ``frames`` of them: one alone, then two at a time where the backend can.

    Raises DskdError where the preprocessing differs, NotExact where the backend's answers do.
    """
    golden = bundle.golden(backend.graph)
    levels = _preprocessing_difference(bundle, golden, frames)
    most = min(FEW_ROWS, bundle.manifest.max_batch, getattr(backend, "largest", FEW_ROWS))
    answers = list(_answers(backend, golden.inputs[:frames], most))
    scores, maps = np.concatenate([some for some, _ in answers]), np.concatenate([some for _, some in answers])
    graph = bundle.manifest.graphs[backend.graph]
    check = GoldenCheck(
        len(scores), levels, _largest(scores - golden.scores[:frames]), _largest(maps - golden.maps[:frames])
    )
    if golden.own:
        fault = disagreement(scores, maps, golden.scores, golden.maps, LIMITS[graph.precision])
        probes = bundle.probes(backend.graph)
        if not fault and probes is not None and len(scores) == len(golden.scores):
            found = np.concatenate([some for _, some in _answers(backend, probes.inputs, most)])
            fault = probe_disagreement(
                found[:, ::PROBE_STEP, ::PROBE_STEP], probes.maps, *PROBE_LIMITS[graph.precision]
            )
    elif graph.tolerance is not None:  # a bundle of before graphs had answers of their own
        fault = _over(check, graph.tolerance.score, graph.tolerance.map) or _constant(maps, golden.maps)
    else:
        raise DskdError(f"{bundle.path}: holds no golden answers of {backend.graph}; make them with dskd calibration")
    if fault:
        raise NotExact(f"{backend.name} is not exact enough here on the golden frames of bundle {bundle.id} ({fault})")
    return check


def _preprocessing_difference(bundle: Bundle, golden: Golden, frames: int | None) -> int:
    """The largest in grey levels, at most 1, or what a hair's breadth makes of it where a fixture finds the part.

    Raises DskdError, PartNotFound among them.
    """
    spec, levels, mean = bundle.manifest.input, 0, 0.0
    for path, expected in zip(golden.frames[:frames], golden.inputs, strict=False):
        off = np.abs(network_input(read_image(path), spec).astype(int) - expected)
        levels, mean = max(levels, int(off.max())), max(mean, float(off.mean()))
    if (levels > 1) if spec.fixture is None else (levels > EDGE_LEVELS or mean > MEAN_LEVELS):
        raise DskdError(f"preprocessing differs by {levels} levels on golden frames; install another OpenCV")
    return levels


def _answers(backend: Backend, inputs: NDArray[np.uint8], most: int) -> Iterator[tuple[Floats, Floats]]:
    """Scores and maps, batch by batch. Raises DskdError where they have not the shapes of scores and maps."""
    start, rows = 0, 1
    while start < len(inputs):
        batch = inputs[start : start + rows]
        output = backend.infer(batch)
        scores, maps = np.array(output.scores, np.float32), np.array(output.maps(), np.float32)
        if (scores.shape, maps.shape) != ((len(batch),), batch.shape[:3]):
            raise DskdError(
                f"backend {backend.name} answers {len(batch)} frames with scores {list(scores.shape)} and maps "
                f"{list(maps.shape)}; expected {[len(batch)]} and {list(batch.shape[:3])}; export the bundle again"
            )
        yield scores, maps
        start, rows = start + len(batch), most


def disagreement(scores: Floats, maps: Floats, expected_scores: Floats, expected_maps: Floats, limits: Limits) -> str:
    """What is off by more than rounding, in a few words with its limit; empty where nothing is.

    ``scores`` [n] and ``maps`` [n, H, W] are the first n of the expected ones [N] and [N, H, W].
    """
    count = len(scores)
    if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        return "its answers are no finite numbers"
    own, own_scores = expected_maps[:count], expected_scores[:count]
    scale = _scales(expected_maps)
    gain = _gain(maps, own)
    whole = count == len(expected_scores)  # the first frames alone say little about all
    rest = maps - (gain if whole else 1.0) * own
    noise = float((np.sqrt(np.square(rest).mean((1, 2))) / scale[:count]).max())
    pixel = float((np.abs(maps - own) / (np.abs(own) + scale[:count, None, None])).max())
    score = float((np.abs(scores - own_scores) / (np.abs(own_scores) + scale[:count])).max())
    allowed = limits.noise if whole else limits.noise + limits.gain * FLAT
    found = [
        ("maps off as a whole", abs(gain - 1) if whole else 0.0, limits.gain),
        ("a map off by noise", noise, allowed),
        ("a pixel off", pixel, limits.pixel),
        ("a score off", score, limits.score),
        ("a score off from its own map", _from_its_map(scores, maps, own_scores, own), BELONGS),
    ]
    for what, share, limit in found:
        if not share <= limit:
            return f"{what} by {_percent(share)}, at most {100 * limit:.3g} % allowed"
    return _misplaced(maps / gain, expected_maps, limits.noise / 4 * scale) if whole else ""


def probe_disagreement(maps: Floats, expected: Floats, most_gain: float, most_noise: float) -> str:
    """What of probes' maps [P, h, w] is off by more than rounding, as ``disagreement`` says it."""
    if not np.isfinite(maps).all():
        return "its answers to probes are no finite numbers"
    gain, scale = _gain(maps, expected), _scales(expected)
    noise = float(np.sqrt((np.square(maps - gain * expected).mean((1, 2)) / np.square(scale)).mean()))
    for what, share, limit in (
        ("maps of probes off as a whole", abs(gain - 1), most_gain),
        ("maps of probes off by noise", noise, most_noise),
    ):
        if not share <= limit:
            return f"{what} by {_percent(share)}, at most {100 * limit:.3g} % allowed"
    return ""


def _scales(maps: Floats) -> Floats:
    """[N]: what a difference in each map is measured by: its spread, and at least a part of its values."""
    values = np.sqrt(np.square(maps).mean((1, 2))) / FLAT
    scale: Floats = np.hypot(maps.std((1, 2)), values) + np.float32(1e-30)
    return scale


def _gain(maps: Floats, expected: Floats) -> float:
    """The factor that brings the expected maps nearest to ``maps``. Large values count most: rounding adds to small ones,
    which is noise, but hardly to these.
    """
    length = float(np.square(expected, dtype=float).sum())
    return float((maps.astype(float) * expected).sum()) / length if length > 0 else 1.0


def _from_its_map(scores: Floats, maps: Floats, expected_scores: Floats, expected_maps: Floats) -> float:
    """By what share scores are not what the graph makes of a map, its maximum or mean; 0 where it makes another."""
    for of_map in (np.max, np.mean):
        expected = of_map(expected_maps, axis=(1, 2))
        if np.abs(expected - expected_scores).max() <= 1e-3 * np.abs(expected_scores).max():
            made = of_map(maps, axis=(1, 2))
            return float((np.abs(scores - made) / np.maximum(np.abs(made), 1e-30)).max())
    return 0.0


def _misplaced(maps: Floats, expected: Floats, apart: Floats) -> str:
    """Whether a map is far nearer to another frame's, or to its own shifted, than to its own.

    Asked only of golden maps [N, H, W] that are ``apart`` [N] or more. Rounding leads away from all of them alike.
    """
    few, others = maps[:, ::STEP, ::STEP], expected[:, ::STEP, ::STEP]
    if min(few.shape[1:]) <= 2 * BORDER:
        return ""
    inner = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    for k, found in enumerate(few):
        own = others[k][inner]
        shifted = [np.roll(others[k], shift, (0, 1))[inner] for shift in SHIFTS]
        candidates = [("another frame's", others[j][inner]) for j in range(len(others)) if j != k]
        candidates += [("one that is shifted", there) for there in shifted]
        distance = _distance(found[inner], own)
        for what, there in candidates:
            if _distance(own, there) > apart[k] and _distance(found[inner], there) < NEARER * distance:
                return f"the map of golden frame {k} is nearer to {what} than to its own"
    return ""


def _distance(a: Floats, b: Floats) -> float:
    return float(np.sqrt(np.square(a - b).mean()))


def _over(check: GoldenCheck, score: float, map_: float) -> str:
    """What is over the absolute limits of an older bundle."""
    for what, found, allowed in (("a score", check.score, score), ("a map", check.map, map_)):
        if not found <= allowed:
            return f"{what} off by {found:.3g}, at most {allowed:.3g} allowed"
    return ""


def _constant(maps: Floats, expected: Floats) -> str:
    """Whether all maps are one map although the golden ones are not: older limits are too wide to see it."""
    if len(maps) > 1 and not np.ptp(maps, axis=0).any() and np.ptp(expected[: len(maps)], axis=0).any():
        return "it gives one answer to all frames"
    return ""


def _largest(difference: Floats) -> float:
    """The largest absolute value; NaN is infinitely bad."""
    found = float(np.abs(difference).max())
    return found if isfinite(found) else inf


def _percent(share: float) -> str:
    """Two digits, rounded up: what is over a limit never reads as if it were not."""
    step = 10.0 ** (floor(log10(100 * share)) - 1)
    return f"{ceil(100 * share / step) * step:.3g} %"
