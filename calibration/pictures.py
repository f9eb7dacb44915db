"""The pictures a calibration works on: from the run that the bundle came from, or from folders that are named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.images import read_inputs, readable
from runtime.bundle import Bundle
from runtime.errors import CallError, DskdError
from runtime.images import list_images
from runtime.preprocess import Image
from train.data import load_mask
from train.products import find_products


@dataclass(frozen=True)
class Labelled:
    """Test pictures: files, defects ("good" or a name), masks [N, H, W] at network size."""

    paths: list[Path]
    defects: list[str]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class Pictures:
    """Good pictures for ranges, good pictures never trained on for thresholds, and test pictures if there are any.

    ``paths`` says of each of the ``inputs`` [N, H, W, 3] which file it is, or is a tile of.
    """

    paths: list[Path]
    inputs: Image
    held_out: list[Path]
    labelled: Labelled | None


def gather(bundle: Bundle, images: Path | None, held_out: Path | None, labelled: Path | None) -> Pictures:
    """Reads what is named, and for what is not what ``run.json`` beside the bundle names."""
    record = _record(bundle)
    good = list_images(images) if images else _listed(record, "training", bundle, "--images")
    out = list_images(held_out) if held_out else _listed(record, "held_out", bundle, "--held-out")
    spec = bundle.manifest.input
    paths, inputs = read_inputs(good, spec)
    unseen = readable(out, spec)
    if not unseen:
        raise DskdError("none of the held-out good images can be read; name a folder of them with --held-out")
    return Pictures(paths, inputs, unseen, _labelled(bundle, labelled, record))


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
    return Labelled(
        [item.path for item in test],
        [item.defect for item in test],
        np.stack([load_mask(item, spec) for item in test]),
    )
