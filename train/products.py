"""Several products for one model: finding them, splitting each, and judging each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.errors import CallError
from dskd.runtime.inspection.threshold import conformal_thresholds
from dskd.train import data
from dskd.train.data import InspectionSet
from dskd.train.settings import RunConfig

if TYPE_CHECKING:
    from dskd.train.evaluate import Figures, Scored

ALL = "all"
Paths = list[Path]


def find_products(roots: Sequence[Path], categories: Sequence[str] = ()) -> InspectionSet:
    """The images of every folder, or of every category named (``all``: each one there is) below one folder.

    Several products become one set whose defects carry the product's name. Raises CallError where one cannot be read.
    """
    if categories and len(roots) > 1:
        raise CallError("--category goes with one --data folder; name each product's own folder with --data instead")
    if list(categories) == [ALL]:
        categories = data.categories_of(roots[0])
        if not categories:
            raise CallError(f"data {roots[0]}: holds no folder with train/good, so there are no categories")
    if categories:
        found = [data.find_images(roots[0], category) for category in categories]
    else:
        found = [data.find_images(root) for root in roots]
    return found[0] if len(found) == 1 else join(found)


def join(products: Sequence[InspectionSet]) -> InspectionSet:
    """One set of several products. Raises CallError where two have one name."""
    names = [product.name for product in products]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CallError(f"two products are named {twice}; a folder's name says which product it holds, rename one")
    test = [
        item if item.defect == "good" else replace(item, defect=f"{product.name}/{item.defect}")
        for product in products
        for item in product.test
    ]
    good = [path for product in products for path in product.good]
    return InspectionSet("+".join(names), products[0].folder.parent, good, test, tuple(products))


def split_products(images: InspectionSet, config: RunConfig, strict: bool) -> list[tuple[Paths, Paths]]:
    """(training, held out) of the usable good images of each product."""
    return [
        data.split(data.usable(product.good, config.input, strict), config.data.held_out, config.recipe.seed)
        for product in images.products or (images,)
    ]


def held_out_by_product(
    images: InspectionSet, sizes: Sequence[int], scores: NDArray[np.float32], config: RunConfig
) -> dict[str, dict[str, object]]:
    """Thresholds of each product from its own held-out images; ``scores`` holds ``sizes`` of each, in order."""
    limits, ends = config.thresholds, np.cumsum(sizes)
    parts = np.split(scores, ends[:-1])
    return {
        product.name: {
            "held_out_images": len(part),
            "thresholds": conformal_thresholds(part, limits.review_rate, limits.reject_rate).model_dump(),
        }
        for product, part in zip(images.products, parts, strict=True)
    }


def figures_by_product(
    images: InspectionSet, paths: Sequence[Path], defects: Sequence[str], scored: Scored, masks: NDArray[np.bool_]
) -> dict[str, Figures]:
    """Figures of each product against its own good images; products without both kinds of test image are left out."""
    # imported here: calibration finds products and has no use for torch
    from dskd.train.evaluate import Scored, figures

    found = {}
    for product in images.products:
        own = {item.path for item in product.test}
        chosen = np.array([path in own for path in paths])
        names = [defect for defect, mine in zip(defects, chosen, strict=True) if mine]
        if "good" in names and len(set(names)) > 1:
            found[product.name] = figures(Scored(scored.scores[chosen], scored.maps[chosen]), names, masks[chosen])
    return found
