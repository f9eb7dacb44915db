"""Golden frames: pictures with the trained model's own answers, which every device must reproduce."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from dskd.export.verify import PARITY_IMAGES
from dskd.runtime.bundle.loading import PROBE_STEP, PROBES
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import read_image, write_image
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.fixture.reference import PartNotFound
from dskd.runtime.inspection.network_input import network_input, upright
from dskd.runtime.result import Image
from dskd.train.augment import pseudo_anomaly
from dskd.train.evaluate import score
from dskd.train.trained_run import TrainedRun

COUNT = 8
LARGEST_SIDE = 1024  # pixels of a stored frame: enough to exercise the resize, little to carry
GRAINS, PIECE = (1, 3, 8), 16  # pixels: how smooth a probe's noise is, and the side of its pieces
TRIES = 20  # pseudo-anomalies of which one leaves the part to be found


def held_out_images(run: TrainedRun) -> list[Path]:
    """The good images that thresholds come from."""
    held_out = [Path(str(path)) for path in run.record["held_out"]]  # type: ignore[attr-defined]
    present = [path for path in held_out if path.is_file()]
    if not present:
        raise DskdError(f"{held_out[0]}: the held-out images are gone, and golden frames come from them; put them back")
    return present


def _frames(run: TrainedRun, count: int) -> list[Image]:
    """``count`` different frames of the held-out images: in turn plain and with a pseudo-anomaly, all with one from the
    second round on. Where a crop or a fixture is trained, frames keep the camera's size, else they are made small. A model of tiles
    proves itself on single tiles.
    """
    present = held_out_images(run)
    rng, tiling = np.random.default_rng(run.config.recipe.seed), run.config.input.tiling
    frames = []
    for k in range(count):
        again, index = divmod(k // 2, len(present))
        frame = read_image(present[index])
        if tiling:
            frame = _cut(frame, tiling.side, rng)
        elif not run.config.input.crop and not run.config.input.fixture:
            frame = _shrink(frame)
        frames.append(_changed(frame, run.config.input, rng) if k % 2 or again else frame)
    return frames


def _changed(frame: Image, spec: InputSpec, rng: np.random.Generator) -> Image:
    """The frame with a pseudo-anomaly through which a fixture still finds the part."""
    for _ in range(TRIES):
        changed = pseudo_anomaly(frame, rng)
        try:
            upright(changed, spec)
        except PartNotFound:
            continue
        return changed
    return frame


def _cut(image: Image, side: int, rng: np.random.Generator) -> Image:
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _shrink(image: Image) -> Image:
    factor = LARGEST_SIDE / max(image.shape[:2])
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def parity_inputs(run: TrainedRun, count: int = PARITY_IMAGES) -> Image:
    """Network inputs [count, height, width, 3] on which all forms of a model are compared."""
    spec = run.config.input
    return np.stack([network_input(frame, spec) for frame in _frames(run, count)])


def probe_inputs(picture: Image) -> Image:
    """Pictures [4, H, W, 3] of no part: smooth noise of three grains, and ``picture`` [H, W, 3] in pieces of another order."""
    rng, (height, width, _) = np.random.default_rng(0), picture.shape
    found = []
    for grain in GRAINS:
        noise = np.dstack([cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), grain) for _ in range(3)])
        found.append(np.clip(127 + 60 * noise / noise.std((0, 1)), 0, 255).astype(np.uint8))
    rows, columns = height // PIECE, width // PIECE  # sides are multiples of 32
    pieces = picture.reshape(rows, PIECE, columns, PIECE, 3).swapaxes(1, 2).reshape(-1, PIECE, PIECE, 3)
    mixed = pieces[rng.permutation(len(pieces))].reshape(rows, columns, PIECE, PIECE, 3)
    return np.stack([*found, mixed.swapaxes(1, 2).reshape(picture.shape)])


def write_golden(run: TrainedRun, reading: str, folder: Path) -> int:
    """Writes ``frame_K.png``, ``inputs.npy``, ``scores.npy`` and ``maps.npy``, and probes with their maps; returns the number
    of frames.
    """
    folder.mkdir()
    spec = run.config.input
    frames = _frames(run, COUNT)
    inputs = np.stack([network_input(frame, spec) for frame in frames])
    probes = probe_inputs(inputs[0])
    graph, cpu = run.graph(reading), torch.device("cpu")
    answers, of_probes = score(graph, inputs, cpu, "golden frames"), score(graph, probes, cpu, "probes")
    for k, frame in enumerate(frames):
        write_image(folder / f"frame_{k}.png", frame)
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "scores.npy", answers.scores)
    np.save(folder / "maps.npy", answers.maps)
    np.save(folder.parent / PROBES, probes)
    np.save(folder / "probe_maps.npy", of_probes.maps[:, ::PROBE_STEP, ::PROBE_STEP])
    return len(frames)
