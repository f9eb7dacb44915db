"""A bundle and a backend that was proved to agree with it: frame in, inspection out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from runtime.backends import Backend, Output
from runtime.bundle import Bundle
from runtime.decision import Map, Settings, decide
from runtime.errors import DskdError
from runtime.images import read_image
from runtime.manifest import InputSpec
from runtime.preprocess import Image, preprocess
from runtime.result import Frame, Inspection
from runtime.tiling import infer_tiles

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


class BackendFailed(DskdError):
    """The backend gave no answer, or one that is no number: no frame of the batch was judged."""


class Inspector:
    """Inspects frames, one at a time or in batches. One thread uses it at a time."""

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings, keep_maps: bool = False) -> None:
        self.bundle, self.backend, self.settings, self.keep_maps = bundle, backend, settings, keep_maps
        self._id = bundle.id  # a hash over the manifest: not once per frame

    def inspect(self, frame: Frame) -> Inspection:
        """Judges one frame. Raises DskdError where it is blank, does not fit, or the backend gives no number."""
        judged = self.inspect_batch([(frame, self.settings)])[0]
        if isinstance(judged, DskdError):
            raise judged
        return judged

    def inspect_batch(self, batch: Sequence[tuple[Frame, Settings]]) -> list[Inspection | DskdError]:
        """Judges frames, each by its own settings, with one call of the backend; at most the bundle's ``max_batch``.

        Where the bundle has tiles, the frames go one by one, each in batches of its tiles.

        A frame that cannot be judged is answered by its error, in its place. Raises BackendFailed.
        """
        spec = self.bundle.manifest.input
        if spec.tiling:
            return [self._inspect_tiled(frame, settings) for frame, settings in batch]
        prepared = [_prepare(frame, spec) for frame, _ in batch]
        images = [image for image in prepared if not isinstance(image, DskdError)]
        start = time.perf_counter()
        output = self._infer(np.stack([image for image, _ in images])) if images else None
        inference = _milliseconds(start, time.perf_counter())
        judged, row = list[Inspection | DskdError](), 0
        maps = cache(output.maps) if output else None  # off the device once, and only where a frame needs them
        for (frame, settings), image in zip(batch, prepared, strict=True):
            if isinstance(image, DskdError):
                judged.append(image)
            elif output and maps:
                timings = {"preprocess": image[1], "inference": inference}
                judged.append(self._judge(frame, settings, float(output.scores[row]), _Row(maps, row), timings))
                row += 1
        return judged

    def _inspect_tiled(self, frame: Frame, settings: Settings) -> Inspection | DskdError:
        """One frame, its tiles in batches. Its score is the merged map's maximum."""
        manifest = self.bundle.manifest
        try:
            seen = infer_tiles(self._infer, frame.image, manifest.input, manifest.max_batch)
        except BackendFailed:
            raise
        except DskdError as error:
            return error
        if (seen.high - seen.low).max() <= BLANK_LEVELS:
            return _blank(seen.low.min(), seen.high.max())
        timings = {"preprocess": round(seen.preprocess, 3), "inference": round(seen.inference, 3)}
        return self._judge(frame, settings, float(seen.anomaly_map.max()), lambda: seen.anomaly_map, timings)

    def _infer(self, images: Image) -> Output:
        try:
            output = self.backend.infer(images)
        except Exception as error:  # a driver's own types: whatever it is, these frames have no verdict
            raise BackendFailed(str(error) or type(error).__name__) from error
        if not np.isfinite(output.scores).all():
            score = output.scores[~np.isfinite(output.scores)][0]
            raise BackendFailed(f"backend {self.backend.name} gave the score {score}; check the engine and the device")
        return output

    def _judge(
        self, frame: Frame, settings: Settings, score: float, fetch: Callable[[], Map], timings: dict[str, float]
    ) -> Inspection | DskdError:
        """The decision on one frame of a batch; ``fetch`` gives its map."""
        start = time.perf_counter()
        try:
            size = frame.image.shape[0], frame.image.shape[1]
            decision = decide(score, fetch, size, self.bundle.manifest.input, settings)
            anomaly_map = fetch() if self.keep_maps else None
        except DskdError as error:
            return error
        return Inspection(
            source=frame.source,
            frame=frame.id,
            captured=frame.captured,
            verdict=decision.verdict,
            score=decision.score,
            threshold=settings.reject,
            regions=decision.regions,
            timings_ms={**timings, "decision": _milliseconds(start, time.perf_counter())},
            bundle=self._id,
            backend=self.backend.name,
            anomaly_map=anomaly_map,
            part=frame.part,
        )


@dataclass(frozen=True)
class _Row:
    """Fetches one map of a batch."""

    maps: Callable[[], NDArray[np.float32]]
    row: int

    def __call__(self) -> Map:
        found: Map = self.maps()[self.row]
        return found


def _prepare(frame: Frame, spec: InputSpec) -> tuple[Image, float] | DskdError:
    """Network input [height, width, 3] and the milliseconds it took, or why there is none."""
    start = time.perf_counter()
    try:
        image = preprocess(frame.image, spec.height, spec.width, spec.crop)
    except DskdError as error:
        return error
    if np.ptp(image, axis=(0, 1)).max() <= BLANK_LEVELS:
        return _blank(image.min(), image.max())
    return image, _milliseconds(start, time.perf_counter())


def _blank(lowest: np.integer, highest: np.integer) -> DskdError:
    return DskdError(f"blank: all of the picture lies between {lowest} and {highest}; check lens, light and exposure")


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
