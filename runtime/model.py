"""A bundle as a Python object: pictures in, results out. ``dskd.load`` makes it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import overload

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.loading import Bundle, default_bundle, load_bundle
from dskd.runtime.bundle.manifest import InputSpec, Precision
from dskd.runtime.capture.image_files import read_image, read_mask, write_image
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.backends import Backend
from dskd.runtime.inspection.decision import Settings, crop_box
from dskd.runtime.inspection.fixture.pose import Pose
from dskd.runtime.inspection.fixture.reference import PartNotFound
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.inspection.overlay import annotate, heat_map
from dskd.runtime.inspection.proved import open_proved
from dskd.runtime.result import Found, Frame, Image, Inspection, Region, Verdict

Picture = str | os.PathLike[str] | NDArray[np.uint8]


@dataclass(frozen=True)
class Result:
    """What a model says of one picture. Printed, it is one line."""

    inspection: Inspection = field(repr=False)
    _image: Image = field(repr=False)
    _input: InputSpec = field(repr=False)

    @property
    def image(self) -> Image:
        """The picture that was inspected: uint8, BGR [H, W, 3]."""
        return self._image

    @property
    def verdict(self) -> Verdict:
        """PASS, REVIEW (a person should look) or REJECT."""
        return self.inspection.verdict

    @property
    def score(self) -> float:
        """The anomaly map's maximum, in the model's own unit; it has no upper bound."""
        return self.inspection.score

    @property
    def threshold(self) -> float:
        """The score over which a part is rejected."""
        return self.inspection.threshold

    @property
    def ratio(self) -> float:
        """Score over reject threshold: over 1 is REJECT. Infinite where the threshold is 0."""
        ratio = self.inspection.ratio
        return float("inf") if ratio is None else ratio

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where the defects are, the worst first: ``box`` (x, y, width, height) and ``area`` in the picture's pixels."""
        return self.inspection.regions

    @property
    def found(self) -> Found | None:
        """Where the part was found: corners, angle, likeness; None where the bundle has no fixture."""
        return self.inspection.found

    @property
    def upright(self) -> Image:
        """The part as the fixture cuts it out, uint8 BGR [h, w, 3]; the whole picture where the bundle has none.

        A region of interest is painted on such a picture.
        """
        fixture = self._input.fixture
        if self.found is None or fixture is None:
            return self._image
        return Pose.of(self.found, fixture.width, fixture.height).cut_out(self._image)

    @property
    def anomaly_map(self) -> NDArray[np.float32]:
        """[H, W] at the network's size, larger is worse; it covers ``inspection.covers`` of the picture."""
        found = self.inspection.anomaly_map
        assert found is not None
        return found

    def plot(self, file: str | os.PathLike[str] | None = None) -> Image:
        """The picture with heat, boxes and a banner, uint8 BGR [H, W, 3]; also written to ``file`` as PNG."""
        image = self._image
        box = self.inspection.covers or crop_box((image.shape[0], image.shape[1]), self._input)
        heated = heat_map(image, self.anomaly_map, self.threshold, box)
        drawn = annotate(heated, self.verdict, self.score, self.threshold, self.regions, self.found)
        if file is not None:
            write_image(Path(file), drawn)
        return drawn

    def as_dict(self) -> dict[str, object]:
        """Plain values, as the command writes them to JSON; ``ratio`` is None where the threshold is 0."""
        return self.inspection.as_dict()

    def __str__(self) -> str:
        found = f", {len(self.regions)} region(s)" if self.regions else ""
        return f"{self.verdict.value} {self.score:.4g} ({self.ratio:.2f} of the reject threshold{found})"


class Model:
    """A bundle on a backend that was proved to agree with it.

    Threads may share it: one picture or batch is inspected at a time. ``with`` closes it.
    """

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings) -> None:
        self.bundle, self.backend, self.settings = bundle, backend, settings
        self._inspector = Inspector(bundle, backend, settings, keep_maps=True)
        self._one_at_a_time = threading.Lock()
        self._closed = False

    @overload
    def __call__(self, images: Picture) -> Result: ...
    @overload
    def __call__(self, images: list[Picture] | tuple[Picture, ...]) -> list[Result]: ...
    def __call__(self, images: Picture | list[Picture] | tuple[Picture, ...]) -> Result | list[Result]:
        """Inspects one picture, or a list of them in batches of as many as bundle and backend take.

        A picture is a file's name or an array: uint8, BGR [H, W, 3] as OpenCV reads it, or grey [H, W]. Raises DskdError
        with the first picture that cannot be read or judged (a blank one, say), PartNotFound where a fixture does not find the
        part.
        """
        if isinstance(images, (str, os.PathLike, np.ndarray)):
            return self._inspect([images])[0]
        most = self._inspector.most
        return [r for first in range(0, len(images), most) for r in self._inspect(images[first : first + most], first)]

    def _inspect(self, pictures: Sequence[Picture], first: int | None = None) -> list[Result]:
        frames = [frame_of(picture, 0 if first is None else first + k) for k, picture in enumerate(pictures)]
        with self._one_at_a_time:
            if self._closed:
                raise CallError("the model was closed; load it again with dskd.load")
            judged = self._inspector.inspect_batch([(frame, self.settings) for frame in frames])
        results = []
        for frame, found in zip(frames, judged, strict=True):
            if isinstance(found, PartNotFound):
                raise PartNotFound(f"{frame.id}: {found.detail}") from found
            if isinstance(found, DskdError):
                raise DskdError(f"{frame.id}: {found}") from found
            results.append(Result(found, frame.image, self.bundle.manifest.input))
        return results

    def close(self) -> None:
        """Gives the backend's memory back."""
        with self._one_at_a_time:
            if not self._closed:
                self._closed = True
                self.backend.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<dskd.Model {self.bundle.id} on {self.backend.name}>"


def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    precision: Precision | None = None,
    threads: int = 0,
    reject_threshold: float | None = None,
    review_threshold: float | None = None,
    min_area: int = 0,
    roi: str | os.PathLike[str] | NDArray[np.bool_] | None = None,
) -> Model:
    """Opens a bundle (default: ``$DSKD_BUNDLE``, else ``runs/latest/bundle``) as ``dskd runtime`` does, with its words.

    ``roi`` is a mask's file or a bool array [H, W] of the pictures' size. Raises DskdError where the bundle is damaged or
    no backend agrees with its golden frames, CallError where an option is wrong.
    """
    found = load_bundle(default_bundle() if bundle is None else Path(bundle), later=True)
    mask = roi if roi is None or isinstance(roi, np.ndarray) else read_mask(Path(roi))
    opened, _ = open_proved(found, backend, threads, precision, quick=True)
    try:
        own = Settings.of(found.manifest.graphs[opened.graph].thresholds)
        return Model(found, opened, own.changed(reject_threshold, review_threshold, min_area, mask))
    except DskdError:
        opened.close()
        raise


def frame_of(picture: Picture, number: int) -> Frame:
    """A file, or the picture of that number, as a frame. Raises BadImage or CallError where it is no picture."""
    if isinstance(picture, np.ndarray):
        return Frame("python", f"image {number}", time.time(), as_bgr(picture, number))
    if not isinstance(picture, (str, os.PathLike)):
        kind = type(picture).__name__
        raise CallError(f"image {number} is a {kind}; give a file's name or a numpy array (uint8, BGR or grey)")
    return Frame("python", os.fspath(picture), time.time(), read_image(Path(picture)))


def as_bgr(image: NDArray[np.uint8], number: int) -> Image:
    """uint8 BGR [H, W, 3] of a colour or grey array. Raises CallError that says what it is instead."""
    if image.dtype != np.uint8:
        raise CallError(f"image {number} holds {image.dtype}; scale it to uint8, 0 is black and 255 is white")
    if image.size and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)):
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    if not image.size or image.ndim != 3 or image.shape[2] != 3:
        raise CallError(f"image {number} has the shape {list(image.shape)}; give BGR [H, W, 3] or grey [H, W]")
    return image
