"""The pictures a calibration works on: from the run that the bundle came from, or from folders that are named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dskd.calibration.images import Inputs, readable, usable
from dskd.runtime.bundle import Bundle
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.images import list_images
from dskd.runtime.manifest import InputSpec
from dskd.train.data import TestImage, data_sha256, load_mask, read_tiles
from dskd.train.products import find_products


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
    """Good pictures for ranges, good pictures never trained on for thresholds, and test pictures if there are any."""

    inputs: Inputs
    held_out: list[Path]
    labelled: Labelled | None


def gather(bundle: Bundle, images: Path | None, held_out: Path | None, labelled: Path | None) -> Pictures:
    """Finds what is named, and for what is not what ``run.json`` beside the bundle names."""
    record = _record(bundle)
    good = list_images(images) if images else _listed(record, "training", bundle, "--images")
    out = list_images(held_out) if held_out else _listed(record, "held_out", bundle, "--held-out")
    spec = bundle.manifest.input
    inputs, unseen = usable(good, spec), readable(out, spec)
    if not unseen:
        raise DskdError("none of the held-out good images can be read; name a folder of them with --held-out")
    return Pictures(inputs, unseen, _labelled(bundle, labelled, record))


def _record(bundle: Bundle) -> dict[str, object]:
    try:
        record = json.loads((bundle.path.resolve().parent / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    same = isinstance(record, dict) and record.get("model_sha256") == bundle.manifest.provenance.checkpoint_sha256
    return record if same else {}


def _listed(record: dict[str, object], key: str, bundle: Bundle, option: str) -> list[Path]:
    names = record.get(key)
    present = [Path(str(name)) for name in names if Path(str(name)).is_file()] if isinstance(names, list) else []
    if not present:
        raise CallError(
            f"{bundle.path}: the run it came from is not beside it, or its pictures are gone; name good ones with {option}"
        )
    return present


def _labelled(bundle: Bundle, folder: Path | None, record: dict[str, object]) -> Labelled | None:
    known = record.get("data", [])
    sources = [folder] if folder else [Path(str(name)) for name in (known if isinstance(known, list) else [known])]
    if not sources or not all(source.is_dir() for source in sources):
        return None
    test, spec = find_products(sources).test, bundle.manifest.input
    if not any(item.defect == "good" for item in test) or all(item.defect == "good" for item in test):
        return None
    for item in tqdm(test, desc="checking images", unit="image", leave=False, disable=None):
        read_tiles(item.path, spec)  # one that cannot be read is better named now than after the work
        load_mask(item, spec)
    return Labelled(test, spec)
