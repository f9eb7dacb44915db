"""A bundle and a backend that was proved to agree with it: frame in, inspection out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.errors import CallError, DeviceLost, DskdError
from dskd.runtime.inspection.backends import Backend, Output
from dskd.runtime.inspection.backends.base import Overlapping
from dskd.runtime.inspection.decision import Map, Settings, decide
from dskd.runtime.inspection.fixture.pose import Pose
from dskd.runtime.inspection.network_input import upright
from dskd.runtime.inspection.preprocess import preprocess
from dskd.runtime.inspection.tiling import Tiles
from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Frame, Image, Inspection

SPARSE = 16  # pixels, down and across, from one that is looked at to the next
BLANK_LEVELS = 4  # grey levels that noise leaves of a covered lens once it is averaged to network size


class BackendFailed(NotInspected):
    """The backend gave no answer, or one that is no number: no frame of the batch was inspected."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.BACKEND_FAILED, detail)


@dataclass(frozen=True)
class _Prepared:
    """A network input that was written: milliseconds of each stage, and where the part was found."""

    timings: dict[str, float]
    pose: Pose | None


@dataclass
class Batch:
    """Frames on their way: prepared, or why not, and given to the backend. ``Inspector.finish`` takes it, once."""

    frames: Sequence[tuple[Frame, Settings]]
    prepared: list[_Prepared | DskdError] = field(default_factory=list)
    ticket: Any = None  # the backend's; None where it has nothing to compute
    submitted: float = 0.0  # by time.perf_counter


class Inspector:
    """Inspects frames, one at a time or in batches. One thread uses it at a time.

    ``overlaps``: a second batch may be begun before the first is finished, and is prepared while that is computed.
    ``most``: frames of one batch.
    """

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings, keep_maps: bool = False) -> None:
        self.bundle, self.backend, self.settings, self.keep_maps = bundle, backend, settings, keep_maps
        self._id = bundle.id  # a hash over the manifest: not once per frame
        self._spec, promised = bundle.manifest.input, bundle.manifest.max_batch
        self.most = min(promised, getattr(backend, "largest", promised))  # an engine may be built for fewer
        self._device = backend if isinstance(backend, Overlapping) else None  # None: it computes when it is collected
        self.overlaps = self._device is not None and self._spec.tiling is None  # tiles overlap within their frame
        self._tiles: Tiles | None = None  # for frames of the last one's size
        rows = 0 if self._spec.tiling else self.most
        self._inputs = np.empty((rows, self._spec.height, self._spec.width, 3), np.uint8)  # of one batch

    def inspect(self, frame: Frame) -> Inspection:
        """Inspects one frame. Raises DskdError where it is blank, does not fit, or the backend gives no number."""
        if not isinstance(frame, Frame):  # who calls this from a program of their own is not checked by a type checker
            kind = type(frame).__name__
            raise CallError(
                f"Inspector.inspect takes a Frame, not a {kind}; for a picture call dskd.load(BUNDLE)(image)"
            )
        (found,) = self.finish(self.begin([(frame, self.settings)]))
        if isinstance(found, DskdError):
            raise found
        return found

    def inspect_batch(self, frames: Sequence[tuple[Frame, Settings]]) -> list[Inspection | DskdError]:
        """Inspects frames, each by its own settings, with one call of the backend; at most ``most``.

        A frame that cannot be inspected is answered by its error, in its place. Raises BackendFailed.
        """
        return self.finish(self.begin(frames))

    def begin(self, frames: Sequence[tuple[Frame, Settings]]) -> Batch:
        """Prepares frames and gives them to the backend, which computes now where it works beside the host.

        Where the bundle has tiles nothing happens yet. Raises BackendFailed.
        """
        batch = Batch(frames)
        if self._spec.tiling:
            return batch
        if len(frames) > len(self._inputs):
            raise BackendFailed(
                f"{len(frames)} frames at once are more than the {len(self._inputs)} that backend and bundle take"
            )
        rows = 0
        for frame, _ in frames:
            prepared = _prepare(frame, self._spec, self._inputs[rows])
            batch.prepared.append(prepared)
            rows += isinstance(prepared, _Prepared)
        batch.submitted = time.perf_counter()
        if rows:
            batch.ticket = self.submit(self._inputs[:rows])
        return batch

    def finish(self, batch: Batch) -> list[Inspection | DskdError]:
        """Waits for the backend and decides on each frame. Batches finish in the order they were begun.

        Where the bundle has tiles, the frames go one by one, each in batches of its tiles. Raises BackendFailed.
        """
        if self._spec.tiling:
            return [self._inspect_tiled(frame, settings) for frame, settings in batch.frames]
        if batch.ticket is None:
            return [prepared for prepared in batch.prepared if isinstance(prepared, DskdError)]
        output = self.collect(batch.ticket)
        inference = _milliseconds(batch.submitted, time.perf_counter())
        maps, row = _Maps(output), 0
        found: list[Inspection | DskdError] = []
        for (frame, settings), prepared in zip(batch.frames, batch.prepared, strict=True):
            if isinstance(prepared, DskdError):
                found.append(prepared)
                continue
            timings, fetch_map = {**prepared.timings, "inference": inference}, partial(maps.of, row)
            found.append(self._decide(frame, settings, float(output.scores[row]), fetch_map, timings, prepared.pose))
            row += 1
        return found

    def submit(self, images: Image) -> Any:
        """Gives network inputs [N, height, width, 3] to the backend; its ticket. Raises BackendFailed or DeviceLost."""
        if self._device is None:
            return images
        try:
            return self._device.submit(images)
        except DeviceLost:  # the process must end
            raise
        except Exception as error:  # a driver may raise anything
            raise BackendFailed(str(error) or type(error).__name__) from error

    def collect(self, ticket: Any) -> Output:
        """The answer to what was submitted. Raises BackendFailed also where a score is no finite number."""
        try:
            output = self.backend.infer(ticket) if self._device is None else self._device.collect(ticket)
        except DeviceLost:
            raise
        except Exception as error:
            raise BackendFailed(str(error) or type(error).__name__) from error
        for score in output.scores.tolist():
            if not isfinite(score):
                name = self.backend.name
                raise BackendFailed(f"backend {name} gave the score {score}; check the engine and the device")
        return output

    def _inspect_tiled(self, frame: Frame, settings: Settings) -> Inspection | DskdError:
        """One frame, its tiles in batches. Its score is the merged map's maximum."""
        levels = _Levels()
        try:
            seen = self._tiles_of(frame.image.shape).infer(self, frame.image, levels.look)
        except (BackendFailed, DeviceLost):
            raise
        except DskdError as error:
            return error
        if levels.blank:
            return _blank(levels.low.min(), levels.high.max())
        timings = {"preprocess": round(seen.preprocess, 3), "inference": round(seen.inference, 3)}
        return self._decide(frame, settings, float(seen.anomaly_map.max()), lambda: seen.anomaly_map, timings)

    def _tiles_of(self, shape: tuple[int, ...]) -> Tiles:
        if self._tiles is None or self._tiles.size != shape[:2]:
            self._tiles = None  # before the next one: a large frame's map is large
            self._tiles = Tiles((shape[0], shape[1]), self._spec, self.most)
        return self._tiles

    def _decide(
        self, frame: Frame, settings: Settings, score: float, fetch_map: Callable[[], Map], timings: dict[str, float],
        pose: Pose | None = None,
    ) -> Inspection | DskdError:  # fmt: skip
        """The decision on one frame of a batch."""
        start = time.perf_counter()
        try:
            size = frame.image.shape[0], frame.image.shape[1]
            decision = decide(score, fetch_map, size, self._spec, settings, pose)
            anomaly_map = None
            if self.keep_maps:  # a copy: else it is the next frame's, or all of a batch
                anomaly_map = fetch_map().copy() if pose is None else pose.on_frame(fetch_map(), size)
        except DeviceLost:
            raise
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
            covers=self._spec.crop if pose is None else pose.covers(size),
            found=None if pose is None else pose.found,
        )


class _Maps:
    """A batch's maps: off the device once, and only where a frame needs its own."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._maps: NDArray[np.float32] | None = None

    def of(self, row: int) -> Map:
        """One frame's."""
        if self._maps is None:
            self._maps = self._output.maps()
        found: Map = self._maps[row]
        return found


class _Levels:
    """The lowest and highest level of each channel, looked at until they tell that a picture is not blank."""

    def __init__(self) -> None:
        self.low, self.high = np.full(3, 255), np.zeros(3, int)

    @property
    def blank(self) -> bool:
        """Whether all that was looked at so far shows nothing."""
        return bool((self.high - self.low).max() <= BLANK_LEVELS)

    def look(self, images: Image) -> None:
        """At images [N, height, width, 3]: few pixels first, because all of them cost as much as a quick network."""
        for some in (images[:, ::SPARSE, ::SPARSE], images):
            if self.blank:
                self.low = np.minimum(self.low, some.min((0, 1, 2)))
                self.high = np.maximum(self.high, some.max((0, 1, 2)))


def _prepare(frame: Frame, spec: InputSpec, image: Image) -> _Prepared | DskdError:
    """Writes the network input into ``image`` [height, width, 3]; what it took, or why there is none."""
    start = time.perf_counter()
    try:
        picture, pose = upright(frame.image, spec)
        found = time.perf_counter()
        preprocess(picture, spec.height, spec.width, spec.crop, out=image)
    except DskdError as error:
        return error
    few = image[::SPARSE, ::SPARSE, 1]  # of one channel: they tell that nearly every picture is not blank
    if int(few.max()) - int(few.min()) <= BLANK_LEVELS and np.ptp(image, axis=(0, 1)).max() <= BLANK_LEVELS:
        return _blank(image.min(), image.max())
    fixture = {} if pose is None else {"fixture": _milliseconds(start, found)}
    return _Prepared({**fixture, "preprocess": _milliseconds(found, time.perf_counter())}, pose)


def _blank(lowest: np.integer, highest: np.integer) -> NotInspected:
    detail = f"all of the picture lies between {lowest} and {highest}; check lens, light and exposure"
    return NotInspected(Reason.BLANK, detail)


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
