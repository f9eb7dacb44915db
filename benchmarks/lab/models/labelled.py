"""Labelled test images at network size, read once for all that is judged on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.result import Image
from dskd.train import data


@dataclass(frozen=True)
class Labelled:
    """Inputs [N, H, W, 3], masks [N, H, W]; a defect is "good" or a name."""

    paths: list[Path]
    defects: list[str]
    inputs: Image
    masks: NDArray[np.bool_]


def read_labelled(images: data.InspectionSet, spec: InputSpec) -> Labelled:
    """All test images of a set."""
    paths = [item.path for item in images.test]
    masks = np.stack([data.load_mask(item, spec) for item in images.test])
    return Labelled(paths, [item.defect for item in images.test], data.load_inputs(paths, spec), masks)


def sha256_of(images: data.InspectionSet) -> str:
    """Of all test images and masks: figures are of these and no others."""
    return data.data_sha256([path for item in images.test for path in (item.path, item.mask) if path])
