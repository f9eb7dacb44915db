"""A bundle and a backend that was proved to agree with it: frame in, inspection out."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from runtime.backends import Backend
from runtime.bundle import Bundle
from runtime.decision import Settings, decide
from runtime.errors import DskdError
from runtime.images import read_image
from runtime.preprocess import preprocess
from runtime.result import Frame, Inspection

BLANK_LEVELS = 4  # grey levels that noise leaves of a covered lens once it is averaged to network size


@dataclass(frozen=True)
class GoldenCheck:
    """Worst differences between this device and the trained model on the golden frames."""

    images: int
    input_levels: int
    score: float
    map: float


def golden_check(bundle: Bundle, backend: Backend) -> GoldenCheck:
    """Runs the golden frames. Raises DskdError where preprocessing or backend is outside the bundle's tolerance."""
    golden, spec = bundle.golden(), bundle.manifest.input
    tolerance = bundle.manifest.graphs[backend.graph].tolerance
    levels = score = map_ = 0.0
    for k, path in enumerate(golden.frames):
        made = preprocess(read_image(path), spec.height, spec.width, spec.crop)
        levels = max(levels, float(np.abs(made.astype(int) - golden.inputs[k]).max()))
        output = backend.infer(golden.inputs[k : k + 1])
        score = _worse(score, output.scores - golden.scores[k])
        map_ = _worse(map_, output.maps() - golden.maps[k])
    check = GoldenCheck(len(golden.frames), int(levels), score, map_)
    if levels > 1:
        raise DskdError(
            f"preprocessing differs by {check.input_levels} levels on golden frames; install another OpenCV"
        )
    if not (score <= tolerance.score and map_ <= tolerance.map):
        raise DskdError(
            f"backend {backend.name} disagrees with bundle {bundle.id} on golden frames: "
            f"score by {score:.2e} (allowed {tolerance.score:.0e}), map by {map_:.2e} (allowed {tolerance.map:.0e}); "
            "use another backend or export again on this device"
        )
    return check


def _worse(worst: float, difference: np.ndarray) -> float:
    """The larger absolute value; NaN is infinitely bad."""
    found = float(np.abs(difference).max())
    return max(worst, found if np.isfinite(found) else float("inf"))


class Inspector:
    """Inspects frames one at a time."""

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings, keep_maps: bool = False) -> None:
        self.bundle, self.backend, self.settings, self.keep_maps = bundle, backend, settings, keep_maps

    def inspect(self, frame: Frame) -> Inspection:
        """Judges one frame. Raises DskdError where it is blank, does not fit, or the backend gives no number."""
        spec = self.bundle.manifest.input
        start = time.perf_counter()
        batch = preprocess(frame.image, spec.height, spec.width, spec.crop)[None]
        if np.ptp(batch, axis=(1, 2)).max() <= BLANK_LEVELS:
            raise DskdError(
                f"blank: all of the picture lies between {batch.min()} and {batch.max()}; check lens, light and exposure"
            )
        prepared = time.perf_counter()
        output = self.backend.infer(batch)
        score = float(output.scores[0])
        if not np.isfinite(score):
            raise DskdError(f"backend {self.backend.name} gave the score {score}; check the engine and the device")
        inferred = time.perf_counter()
        size = frame.image.shape[0], frame.image.shape[1]
        decision = decide(score, lambda: output.maps()[0], size, spec, self.settings)
        anomaly_map = output.maps()[0] if self.keep_maps else None
        decided = time.perf_counter()
        return Inspection(
            source=frame.source,
            frame=frame.id,
            captured=frame.captured,
            verdict=decision.verdict,
            score=decision.score,
            threshold=self.settings.reject,
            regions=decision.regions,
            timings_ms={
                "preprocess": _milliseconds(start, prepared),
                "inference": _milliseconds(prepared, inferred),
                "decision": _milliseconds(inferred, decided),
            },
            bundle=self.bundle.id,
            backend=self.backend.name,
            anomaly_map=anomaly_map,
        )


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
