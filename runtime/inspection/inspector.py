"""A bundle and a backend that was proved to agree with it: frame in, inspection out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import InputSpec, Precision
from dskd.runtime.errors import DeviceLost, DskdError, NotExact
from dskd.runtime.inspection.backends import Backend, Output, candidates, first_that
from dskd.runtime.inspection.backends.base import Overlapping, cpu_words
from dskd.runtime.inspection.decision import Map, Settings, decide
from dskd.runtime.inspection.fixture.pose import Pose
from dskd.runtime.inspection.golden import GoldenCheck, golden_check
from dskd.runtime.inspection.network_input import upright
from dskd.runtime.inspection.preprocess import preprocess
from dskd.runtime.inspection.tiling import Tiles
from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Frame, Image, Inspection
from dskd.runtime.user_cache import key_of, recall, remember

COMPUTE = ("cv2", "numpy", "onnxruntime", "openvino", "tensorrt")  # a new version of one is proved anew
SPARSE = 16  # pixels, down and across, from one that is looked at to the next
BLANK_LEVELS = 4  # grey levels that noise leaves of a covered lens once it is averaged to network size
Answer = TypeVar("Answer")
Judged = list[Inspection | DskdError]


def open_proved(
    bundle: Bundle, name: str = "auto", threads: int = 0, precision: Precision | None = None, quick: bool = False
) -> tuple[Backend, GoldenCheck]:
    """The first of ``dskd.runtime.inspection.backends.candidates`` that opens and passes its golden check.

    What is passed over is said on stderr with the reason. Raises DskdError where none is left. With ``quick``, where the
    same bundle was tried before on the same backend, libraries and CPU, one frame is enough if it passed, and none is
    run and nothing said again if it did not.
    """
    prove = _quick_check if quick else golden_check
    return first_that(partial(prove, bundle), candidates(bundle, name, threads, precision))


def _quick_check(bundle: Bundle, backend: Backend) -> GoldenCheck:
    key = key_of(bundle.id, backend.name, backend.graph, _libraries(), *sorted(cpu_words()))
    if backend.name.startswith("tensorrt"):
        return golden_check(bundle, backend)
    if (before := recall("inexact", key)) is not None:
        raise NotExact(before.tobytes().decode(errors="replace"), told=True)
    if recall("proved", key) is not None:
        return golden_check(bundle, backend, 1)
    try:
        check = golden_check(bundle, backend)
    except NotExact as error:
        remember("inexact", key, str(error).encode(), keep=64)
        raise
    remember("proved", key, b"proved", keep=64)
    return check


def _libraries() -> str:
    """What computes, with versions."""
    return " ".join(sorted(f"{name} {getattr(sys.modules.get(name), '__version__', '')}" for name in COMPUTE))


class BackendFailed(NotInspected):
    """The backend gave no answer, or one that is no number: no frame of the batch was judged."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.BACKEND_FAILED, detail)


class Inspector:
    """Inspects frames, one at a time or in batches. One thread uses it at a time.

    ``overlaps``: a second batch may be begun before the first is finished, and is prepared while that is computed.
    """

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings, keep_maps: bool = False) -> None:
        self.bundle, self.backend, self.settings, self.keep_maps = bundle, backend, settings, keep_maps
        self._id = bundle.id  # a hash over the manifest: not once per frame
        spec, most = bundle.manifest.input, bundle.manifest.max_batch
        self._beside = backend if isinstance(backend, Overlapping) else None
        self.overlaps = self._beside is not None and spec.tiling is None  # tiles overlap within their frame
        self._tiles: Tiles | None = None  # for frames of the last one's size
        self._inputs = np.empty((0 if spec.tiling else most, spec.height, spec.width, 3), np.uint8)  # of one call

    def inspect(self, frame: Frame) -> Inspection:
        """Judges one frame. Raises DskdError where it is blank, does not fit, or the backend gives no number."""
        judged = self.inspect_batch([(frame, self.settings)])[0]
        if isinstance(judged, DskdError):
            raise judged
        return judged

    def inspect_batch(self, batch: Sequence[tuple[Frame, Settings]]) -> Judged:
        """Judges frames, each by its own settings, with one call of the backend; at most the bundle's ``max_batch``.

        Where the bundle has tiles, the frames go one by one, each in batches of its tiles.

        A frame that cannot be judged is answered by its error, in its place. Raises BackendFailed.
        """
        return self.begin(batch)()

    def begin(self, batch: Sequence[tuple[Frame, Settings]]) -> Callable[[], Judged]:
        """The first half of ``inspect_batch``; what is returned is the second one, to be called once and in turn.

        Frames are prepared and a device that works beside the host has them when this returns. Raises BackendFailed.
        """
        spec = self.bundle.manifest.input
        if spec.tiling:
            return lambda: [self._inspect_tiled(frame, settings) for frame, settings in batch]
        if len(batch) > len(self._inputs):
            raise BackendFailed(f"{len(batch)} frames at once are more than the bundle's {len(self._inputs)}")
        prepared, rows = list[_Prepared | DskdError](), 0
        for frame, _ in batch:
            prepared.append(_prepare(frame, spec, self._inputs[rows]))
            rows += not isinstance(prepared[-1], DskdError)
        start = time.perf_counter()
        answer = self._start(self._inputs[:rows]) if rows else None
        return partial(self._finish, batch, prepared, start, answer)

    def _finish(
        self, batch: Sequence[tuple[Frame, Settings]], prepared: list[_Prepared | DskdError], start: float,
        answer: Callable[[], Output] | None,
    ) -> Judged:  # fmt: skip
        output = answer() if answer else None
        inference = _milliseconds(start, time.perf_counter())
        judged, row = Judged(), 0
        maps = _Maps(output) if output else None
        for (frame, settings), took in zip(batch, prepared, strict=True):
            if isinstance(took, DskdError):
                judged.append(took)
            elif output and maps:
                timings = {**took.timings, "inference": inference}
                score, fetch = float(output.scores[row]), partial(maps.of, row)
                judged.append(self._judge(frame, settings, score, fetch, timings, took.pose))
                row += 1
        return judged

    def _inspect_tiled(self, frame: Frame, settings: Settings) -> Inspection | DskdError:
        """One frame, its tiles in batches. Its score is the merged map's maximum."""
        levels = _Levels()
        try:
            seen = self._tiles_of(frame.image.shape).infer(self._start, frame.image, levels.look)
        except (BackendFailed, DeviceLost):
            raise
        except DskdError as error:
            return error
        if levels.blank:
            return _blank(levels.low.min(), levels.high.max())
        timings = {"preprocess": round(seen.preprocess, 3), "inference": round(seen.inference, 3)}
        return self._judge(frame, settings, float(seen.anomaly_map.max()), lambda: seen.anomaly_map, timings)

    def _tiles_of(self, shape: tuple[int, ...]) -> Tiles:
        if self._tiles is None or self._tiles.size != shape[:2]:
            self._tiles = None  # before the next one: a large frame's map is large
            self._tiles = Tiles((shape[0], shape[1]), self.bundle.manifest.input, self.bundle.manifest.max_batch)
        return self._tiles

    def _start(self, images: Image) -> Callable[[], Output]:
        """Begins inference where the device works beside the host; what is returned waits for the answer.

        Other backends compute when that is called.
        """
        if self._beside is None:
            return partial(self._answer, partial(self.backend.infer, images))
        ticket = _asked(partial(self._beside.submit, images))
        return partial(self._answer, partial(self._beside.collect, ticket))

    def _answer(self, ask: Callable[[], Output]) -> Output:
        output = _asked(ask)
        for score in output.scores.tolist():
            if not isfinite(score):
                raise BackendFailed(
                    f"backend {self.backend.name} gave the score {score}; check the engine and the device"
                )
        return output

    def _judge(
        self, frame: Frame, settings: Settings, score: float, fetch: Callable[[], Map], timings: dict[str, float],
        pose: Pose | None = None,
    ) -> Inspection | DskdError:  # fmt: skip
        """The decision on one frame of a batch; ``fetch`` gives its map."""
        start = time.perf_counter()
        try:
            size = frame.image.shape[0], frame.image.shape[1]
            decision = decide(score, fetch, size, self.bundle.manifest.input, settings, pose)
            anomaly_map = None
            if self.keep_maps:  # a copy: else it is the next frame's, or all of a batch
                anomaly_map = fetch().copy() if pose is None else pose.on_frame(fetch(), size)
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
            covers=self.bundle.manifest.input.crop if pose is None else pose.covers(size),
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


def _asked(ask: Callable[[], Answer]) -> Answer:
    """What a backend says. Raises BackendFailed whatever it is that a driver raises: these frames have no verdict.

    DeviceLost stays what it is: the process must end.
    """
    try:
        return ask()
    except DeviceLost:
        raise
    except Exception as error:
        raise BackendFailed(str(error) or type(error).__name__) from error


@dataclass(frozen=True)
class _Prepared:
    """A network input that was written: milliseconds of each stage, and where the part was found."""

    timings: dict[str, float]
    pose: Pose | None


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
