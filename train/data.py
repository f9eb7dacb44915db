"""Finding images, splitting them, and keeping them ready in network size."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dskd.runtime import atomic
from dskd.runtime.bundle.loading import file_sha256
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import BadImage, list_images, read_image, read_mask
from dskd.runtime.errors import CallError, DskdError, one_line
from dskd.runtime.inspection.fixture.pose import Pose
from dskd.runtime.inspection.fixture.reference import PartNotFound
from dskd.runtime.inspection.network_input import network_input, upright
from dskd.runtime.inspection.preprocess import preprocess
from dskd.runtime.inspection.tiling import Grid, coarse
from dskd.runtime.result import Image
from dskd.train.mask_files import pair_masks, same_name
from dskd.train.progress import progress

log = logging.getLogger(__name__)
GOOD = ("good", "ok")  # folders of good parts, in any case
ALIKE = 1  # grey levels that copies of one picture differ by at most
HELD_OUT = 0.15  # share of good images set aside for thresholds,
SUPPORTING = 99  # or as many as support one false reject in a hundred,
MOST_HELD_OUT = 1 / 3  # as far as this share goes
FEWEST_GOOD = 10  # below this neither training nor a threshold means anything


@dataclass(frozen=True)
class TestImage:
    """A labelled test image. ``defect`` is "good" or the defect's name; ``mask`` is None where nothing is marked."""

    path: Path
    defect: str
    mask: Path | None


@dataclass(frozen=True)
class InspectionSet:
    """Good images for training and, in an MVTec layout, labelled test images; of one product, or of ``products``."""

    name: str
    folder: Path
    good: list[Path]
    test: list[TestImage]
    products: tuple[InspectionSet, ...] = ()

    @property
    def folders(self) -> list[Path]:
        """The folder of each product."""
        return [product.folder for product in self.products] or [self.folder]


def find_images(root: Path, category: str | None = None) -> InspectionSet:
    """Reads an MVTec layout (train/good, test/DEFECT, ground_truth/DEFECT) or a plain folder of good images.

    Raises CallError where ``root`` holds neither, or several categories of which none was named.
    """
    if not os.path.isdir(root):
        raise CallError(f"data {root}: is not a folder; name one with train/good/ or with good images")
    folder = root / category if category else root
    if training := _good_folders(folder / "train"):
        good = [path for part in training for path in list_images(part)]
        return InspectionSet(_product(folder), folder, good, find_labelled(folder / "test", folder / "ground_truth"))
    categories = categories_of(root)
    if categories:
        raise CallError(f"data {root}: name one category with --category: {', '.join(categories)}")
    if category:
        raise CallError(f"data {folder}: holds no train/good")
    good = list_images(folder)
    if not good:
        raise CallError(f"data {root}: holds no images; put good parts there as PNG or JPEG")
    below = sorted({path.relative_to(folder).parts[0] for path in good if path.parent != folder})
    if below:  # a folder beside "good" may hold the defects, and nothing would tell
        raise CallError(
            f"data {root}: has pictures in {', '.join(below[:5])}; name the one folder that holds good parts"
        )
    return InspectionSet(_product(folder), folder, good, [])


def categories_of(root: Path) -> list[str]:
    """Names of the products in MVTec layout below ``root``."""
    return sorted(path.parent.name for path in root.glob("*/train") if _good_folders(path))


def _good_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name.lower() in GOOD and path.is_dir())


def _product(folder: Path) -> str:
    """The product's name: the nearest folder's that says more than that its parts are good."""
    folder = folder.resolve()
    while folder.name.lower() in (*GOOD, "train", "images") and folder.parent != folder:
        folder = folder.parent
    return folder.name


def find_labelled(tests: Path, masks: Path) -> list[TestImage]:
    """Pictures in folders by class below ``tests``, with their masks in folders of the same names below ``masks``.

    ``good`` and ``ok``, in any case, are the class "good". Empty where there are no such folders.
    """
    found = []
    for defect in sorted(p for p in tests.glob("[!.]*") if p.is_dir()):
        pictures = list_images(defect)
        paired = pair_masks(pictures, defect, same_name(masks, defect.name))
        name = "good" if defect.name.lower() in GOOD else defect.name
        found += [TestImage(path, name, paired.get(path)) for path in pictures]
    return found


def split(good: list[Path], share: float | None, seed: int) -> tuple[list[Path], list[Path]]:
    """Sets a ``share`` of the good images aside for thresholds: (training, held out). None: as many as they need."""
    order = np.random.default_rng(seed).permutation(len(good))
    count = max(1, round(share * len(good))) if share else held_out_count(len(good))
    held_out = set(order[:count].tolist())
    return [p for k, p in enumerate(good) if k not in held_out], [p for k, p in enumerate(good) if k in held_out]


def held_out_count(good: int) -> int:
    """How many of so many good images are set aside where nobody says."""
    return max(1, round(HELD_OUT * good), min(SUPPORTING, round(MOST_HELD_OUT * good)))


def read_input(path: Path, spec: InputSpec) -> Image:
    """Network input [height, width, 3] of a file. Raises BadImage that names it, also where the crop leaves it."""
    return to_input(read_image(path), path, spec)


def to_input(image: Image, path: Path, spec: InputSpec) -> Image:
    """Network input [height, width, 3] of the picture [H, W, 3] in ``path``. Raises BadImage where the crop leaves it, or
    the part is not found.
    """
    try:
        return network_input(image, spec)
    except DskdError as error:
        raise BadImage(f"{path}: {error}") from error


def read_upright(path: Path, spec: InputSpec) -> Image:
    """The part as a fixture cuts it out of a file, or the whole picture [H, W, 3]. Raises BadImage."""
    try:
        return upright(read_image(path), spec)[0]
    except PartNotFound as error:
        raise BadImage(f"{path}: {error}") from error


def read_tiles(path: Path, spec: InputSpec) -> Image:
    """What the graph sees of a file: all tiles [T, height, width, 3], or the one network input. Raises BadImage."""
    if spec.tiling is None:
        return read_input(path, spec)[None]
    try:
        return cut_tiles(read_image(path), spec)
    except DskdError as error:
        raise BadImage(f"{path}: {error}") from error


def cut_tiles(frame: Image, spec: InputSpec) -> Image:
    """All tiles [T, height, width, 3] of a frame. Raises DskdError where it is smaller than one."""
    grid = Grid.of((frame.shape[0], frame.shape[1]), spec)
    return np.stack([preprocess(frame, spec.height, spec.width, box) for box in grid.boxes()])


def usable(paths: list[Path], spec: InputSpec, strict: bool) -> list[Path]:
    """The files that can be read and hold the crop or a tile. The others are named and skipped, or with ``strict`` refused."""
    kept = []
    for path in progress(paths, desc="checking images", unit="image"):
        try:
            read_tiles(path, spec)
        except BadImage as error:
            if strict:
                raise
            log.warning("skipped %s", one_line(str(error)))
        else:
            kept.append(path)
    if len(kept) < FEWEST_GOOD:
        raise DskdError(
            f"only {len(kept)} usable good images; at least {FEWEST_GOOD} are needed, some hundreds are better"
        )
    return kept


def data_sha256(paths: list[Path]) -> str:
    """One hash over the contents of all files, independent of their order and names."""
    return combined_sha256([file_sha256(path) for path in paths])


def combined_sha256(digests: list[str]) -> str:
    """The same of files whose sha256 are known."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def load_inputs(paths: list[Path], spec: InputSpec) -> Image:
    """Preprocesses files to uint8 [N, height, width, 3] in memory."""
    inputs = [read_input(path, spec) for path in paths]
    return np.stack(inputs) if inputs else np.zeros((0, spec.height, spec.width, 3), np.uint8)


def count_inputs(paths: list[Path], spec: InputSpec) -> list[int]:
    """How many network inputs each file gives: its tiles, or one."""
    if spec.tiling is None:
        return [1] * len(paths)
    bar = progress(paths, desc="counting tiles", unit="image")
    return [len(Grid.of(read_image(path).shape[:2], spec)) for path in bar]


def prepare_inputs(paths: list[Path], counts: list[int], spec: InputSpec, file: Path) -> Image:
    """Preprocesses files once to ``file`` and maps it: memory stays flat whatever the number of images.

    ``counts`` are theirs of ``count_inputs``; the inputs of a file lie one after another. A file that an earlier, killed run completed for the same images is used again.
    """
    key = hashlib.sha256(
        json.dumps([[str(p.resolve()), p.stat().st_mtime_ns] for p in paths] + [spec.model_dump()]).encode()
    )
    stamp = file.with_suffix(".json")
    if not (file.exists() and stamp.exists() and stamp.read_text() == key.hexdigest()):
        stamp.unlink(missing_ok=True)  # first: it must not vouch for another file if this run is killed half-way
        with atomic.replacing(file) as temporary:
            shape = (sum(counts), spec.height, spec.width, 3)
            target = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            bar = progress(paths, desc="preparing", unit="image")
            for path, count, end in zip(bar, counts, np.cumsum(counts), strict=True):
                target[end - count : end] = read_tiles(path, spec)
            target.flush()
        atomic.write_text(stamp, key.hexdigest())
    mapped: Image = np.load(file, mmap_mode="r", allow_pickle=False)
    return mapped


def all_alike(inputs: Image) -> bool:
    """Whether network inputs [N, H, W, 3] are copies of one picture, or each shows one even colour."""
    first = inputs[0].astype(np.int16)
    same = all(np.abs(each - first).max() <= ALIKE for each in inputs)
    return same or all(np.ptp(each, axis=(0, 1)).max() <= ALIKE for each in inputs)


def load_mask(item: TestImage, spec: InputSpec, frame: Image | None = None) -> NDArray[np.bool_]:
    """Mask at network size [height, width]: cut out and resized like the image, then true over one half. All false where
    none is.

    Of a tiled picture, whose defects would vanish like that, true wherever anything is marked. ``frame`` is the picture
    where it was read already. Raises BadImage where the mask has another size, or the part is not found.
    """
    if item.mask is None:
        return np.zeros((spec.height, spec.width), np.bool_)
    mask, frame = read_mask(item.mask), read_image(item.path) if frame is None else frame
    height, width = frame.shape[:2]
    if mask.shape != (height, width):
        raise BadImage(
            f"{item.mask}: the mask has {mask.shape[1]}x{mask.shape[0]} pixels and its picture, upright, "
            f"{width}x{height}; save it at the picture's size"
        )
    if spec.tiling:
        return coarse(mask, spec.height, spec.width)
    try:
        return at_network_size(mask, spec, upright(frame, spec)[1])
    except PartNotFound as error:
        raise BadImage(f"{item.path}: {error}") from error
    except DskdError as error:
        raise BadImage(f"{item.mask}: {error}") from error


def at_network_size(mask: NDArray[np.bool_], spec: InputSpec, pose: Pose | None = None) -> NDArray[np.bool_]:
    """[H, W] of a picture -> [height, width], cut out at ``pose`` and resized like the picture, then true over one half."""
    grey = np.repeat((mask.astype(np.uint8) * 255)[..., None], 3, axis=2)
    seen = grey if pose is None else pose.cut_out(grey)
    return np.asarray(preprocess(seen, spec.height, spec.width, spec.crop)[..., 0] > 127)
