"""Pictures of brackets that lie anywhere, what finds them, and a bundle that does; see ``tiny_bundle``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from tiny_bundle import SIDE, tiny_bundle

from dskd.runtime.bundle.loading import Bundle, hash_files, load_bundle, write_manifest
from dskd.runtime.bundle.manifest import Fixture, InputSpec
from dskd.runtime.capture.image_files import write_image
from dskd.runtime.inspection.fixture.pose import Pose
from dskd.runtime.inspection.network_input import network_input
from dskd.runtime.result import Image
from dskd.train.fixture_contour import learn_contour
from dskd.train.synthetic import TABLE, stamped_bracket

SIZE = (240, 320)
PART = (101, 144)  # height and width of the upright bracket
GROUND = tuple(float(level) for level in TABLE)


def bracket(pose: tuple[float, float, float], seed: int = 0, light: float = 1.0, upright: Image | None = None) -> Image:
    """A frame in which the bracket's middle lies at x, y, turned by an angle clockwise."""
    rng = np.random.default_rng(seed)
    part = stamped_bracket(rng, *PART) if upright is None else upright
    matrix = Pose(*pose, PART[1], PART[0], 1.0).to_frame
    frame = cv2.warpAffine(part, matrix, SIZE[::-1], flags=cv2.INTER_LINEAR, borderValue=GROUND)
    return np.clip(light * frame + rng.normal(0, 2, (*SIZE, 1)), 0, 255).astype(np.uint8)


def poses(count: int, seed: int = 0) -> list[tuple[float, float, float]]:
    """Where brackets lie whole in a frame, at any angle."""
    rng = np.random.default_rng(seed)
    room = np.array(SIZE[::-1]) / 2 - np.hypot(*PART) / 2 - 3
    places = np.array(SIZE[::-1]) / 2 + rng.uniform(-1, 1, (count, 2)) * room
    return [(float(x), float(y), float(rng.uniform(-180, 180))) for x, y in places]


def write_brackets(folder: Path, count: int = 12, seed: int = 1) -> list[Path]:
    """Good pictures of brackets."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k:02}.png" for k in range(count)]
    for k, (path, pose) in enumerate(zip(paths, poses(count, seed), strict=True)):
        write_image(path, bracket(pose, seed=k + 100 * seed))
    return paths


def learnt(folder: Path) -> Fixture:
    """The contour fixture that training learns from such pictures."""
    return learn_contour(write_brackets(folder), 180.0, 0.06, 0.0)[0]


def located_bundle(folder: Path, fixture: Fixture) -> Bundle:
    """``tiny_bundle`` that finds the part first: its map is how far a pixel of the part is from grey 128."""
    bundle = tiny_bundle(folder)
    spec = InputSpec(height=SIDE, width=SIDE, fixture=fixture)
    frames = [bracket(pose, seed=k) for k, pose in enumerate(poses(len(list((folder / "golden").glob("*.png"))), 7))]
    for k, frame in enumerate(frames):
        write_image(folder / "golden" / f"frame_{k}.png", frame)
    inputs = np.stack([network_input(frame, spec) for frame in frames])
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    scores, maps = session.run(None, {"image": inputs})
    for name, values in (("inputs", inputs), ("scores", scores), ("maps", maps)):
        np.save(folder / "golden" / f"{name}.npy", values)
    kept = bundle.manifest.model_copy(update={"input": spec, "files": hash_files(folder)})
    write_manifest(folder, replace(bundle, manifest=kept).manifest)
    return load_bundle(folder)
