"""The pictures a calibration works on: from the run that the bundle came from, or from folders that are named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dskd.calibration.images import Inputs, readable, usable
from dskd.runtime.bundle.loading import Bundle, file_sha256
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import list_images
from dskd.runtime.errors import CallError, DskdError
from dskd.train.data import TestImage, data_sha256, load_mask, read_tiles
from dskd.train.products import find_products
from dskd.train.progress import progress

SAME_SCORE = 0.02  # of a score and the scores' spread: the same picture on another device


@dataclass(frozen=True)
class Labelled:
    """Test pictures and their masks, read when they are asked for."""

    items: list[TestImage]
    spec: InputSpec

    @property
    def paths(self) -> list[Path]:
        """Files of the pictures."""
        return [item.path for item in self.items]

    @property
    def defective(self) -> NDArray[np.bool_]:
        """[N]: whether a picture shows a defect."""
        return np.array([item.defect != "good" for item in self.items])

    def masks(self) -> Iterator[NDArray[np.bool_]]:
        """Masks [H, W] at network size, one after the other."""
        return (load_mask(item, self.spec) for item in self.items)

    def sha256(self) -> str:
        """Of all pictures and masks and of what is made of them."""
        files = [path for item in self.items for path in (item.path, item.mask) if path]
        return hashlib.sha256(f"{data_sha256(files)} {self.spec.model_dump_json()}".encode()).hexdigest()


@dataclass(frozen=True)
class Pictures:
    """Good pictures for ranges, good pictures never trained on for thresholds, and test pictures if there are any.

    ``new`` says what of the run's own pictures changed and was taken as new. ``expected`` are the scores [N] that the
    held-out ones must have, where an older run recorded no hashes of them.
    """

    inputs: Inputs
    held_out: list[Path]
    labelled: Labelled | None
    new: list[str] = field(default_factory=list)
    expected: list[float] | None = None

    def require_same(self, scores: NDArray[np.float32]) -> None:
        """Raises CallError where the float graph's ``scores`` [N] of the held-out pictures are not the expected ones."""
        if self.expected is None:
            return
        expected = np.array(self.expected)
        if len(expected) == len(scores):
            off = np.abs(expected - scores) > SAME_SCORE * (np.abs(expected) + expected.std())
            different = [path for path, other in zip(self.held_out, off, strict=True) if other]
        else:
            different = self.held_out
        if different:
            raise _changed(different[0], "has another score than in training", len(different), len(scores), "held-out")


def gather(
    bundle: Bundle, images: Path | None, held_out: Path | None, labelled: Path | None, as_new: bool = False
) -> Pictures:
    """Finds what is named, and for what is not what ``run.json`` beside the bundle names.

    What the run names must hold what it held then; ``as_new`` takes what is there. Raises CallError.
    """
    record, new = _record(bundle), list[str]()
    good = list_images(images) if images else _listed(record, "training", bundle, "--images", as_new, new)
    out = list_images(held_out) if held_out else _listed(record, "held_out", bundle, "--held-out", as_new, new)
    spec = bundle.manifest.input
    inputs, unseen = usable(good, spec), readable(out, spec)
    if not unseen:
        raise DskdError("none of the held-out good images can be read; name a folder of them with --held-out")
    older = held_out is None and not as_new and "held_out_sha256" not in record
    scores = record.get("held_out_scores") if older else None
    expected = [float(score) for score in scores] if isinstance(scores, list) else None
    return Pictures(inputs, unseen, _labelled(bundle, labelled, record), new, expected)


def _record(bundle: Bundle) -> dict[str, object]:
    try:
        record = json.loads((bundle.path.resolve().parent / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    same = isinstance(record, dict) and record.get("model_sha256") == bundle.manifest.provenance.checkpoint_sha256
    return record if same else {}


def _listed(
    record: dict[str, object], key: str, bundle: Bundle, option: str, as_new: bool, new: list[str]
) -> list[Path]:
    """The pictures that the run names. What changed is said in ``new`` or, unless taken ``as_new``, raised."""
    names = record.get(key)
    paths = [Path(str(name)) for name in names] if isinstance(names, list) else []
    present = [path for path in paths if path.is_file()]
    if not present:
        raise CallError(
            f"{bundle.path}: the run it came from is not beside it, or its pictures are gone; name good ones with {option}"
        )
    changed = _changes(record, key, paths)
    kind = key.replace("_", "-")
    if changed and not as_new:
        raise _changed(*changed[0], len(changed), len(paths), kind)
    if changed:
        new.append(f"{len(changed)} of {len(paths)} {kind} pictures")
    return present


def _changes(record: dict[str, object], key: str, paths: list[Path]) -> list[tuple[Path, str]]:
    """Pictures that are not what they were in training, each with the reason. Older runs know less of it."""
    digests = record.get(f"{key}_sha256")
    if isinstance(digests, list) and len(digests) == len(paths):
        return [(path, why) for path, digest in zip(paths, digests, strict=True) if (why := _why_changed(path, digest))]
    missing = [(path, why) for path in paths if (why := _why_changed(path, None))]
    if key == "training" and not missing and data_sha256(paths) != record.get("training_data_sha256"):
        return [(path, "is one of pictures that were changed since training") for path in paths]
    return missing


def _why_changed(path: Path, digest: object) -> str:
    try:
        found = file_sha256(path)
    except OSError:
        return "is missing"
    return "" if digest in (None, found) else "was changed since training"


def _changed(first: Path, why: str, count: int, total: int, kind: str) -> CallError:
    return CallError(
        f"{first}: {why}, as {count} of {total} {kind} pictures; put them back, "
        "or take what is there as new good parts with --new-pictures"
    )


def _labelled(bundle: Bundle, folder: Path | None, record: dict[str, object]) -> Labelled | None:
    known = record.get("data", [])
    sources = [folder] if folder else [Path(str(name)) for name in (known if isinstance(known, list) else [known])]
    if not sources or not all(source.is_dir() for source in sources):
        return None
    test, spec = find_products(sources).test, bundle.manifest.input
    if not any(item.defect == "good" for item in test) or all(item.defect == "good" for item in test):
        return None
    for item in progress(test, desc="checking images", unit="image"):
        read_tiles(item.path, spec)  # one that cannot be read is better named now than after the work
        load_mask(item, spec)
    return Labelled(test, spec)
