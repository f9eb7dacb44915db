"""Two probes of a model for several products: pictures that belong to none of them and should be flagged.

Mixtures of two products and patches of one product pasted into another. A student that has learned all products at
once may rebuild both without a word (Deng & Li 2024, arXiv 2402.17091, name the probes; their sizes are ours).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dskd.runtime.result import Image

PATCH = (0.15, 0.4)  # side of a pasted patch, as a share of the picture's


def mixup(one: Image, other: Image, rng: np.random.Generator) -> Image:
    """The two pictures [H, W, 3] on top of each other."""
    share = rng.uniform(0.4, 0.6)
    return np.asarray(np.rint(share * one + (1 - share) * other), np.uint8)


def cut_paste(one: Image, other: Image, rng: np.random.Generator) -> Image:
    """``one`` [H, W, 3] with a rectangle of ``other`` from the same place."""
    height, width = one.shape[:2]
    rows, columns = (max(1, int(side * rng.uniform(*PATCH))) for side in (height, width))
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    pasted = one.copy()
    pasted[top : top + rows, left : left + columns] = other[top : top + rows, left : left + columns]
    return pasted


PROBES: dict[str, Callable[[Image, Image, np.random.Generator], Image]] = {"mixup": mixup, "cut_paste": cut_paste}


def probe_images(products: Sequence[Image], count: int, kind: str, seed: int = 0) -> Image:
    """``count`` probes [N, H, W, 3] of one kind from good images [M, H, W, 3] of at least two products."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        a, b = rng.choice(len(products), 2, replace=False)
        one, other = (products[k][int(rng.integers(len(products[k])))] for k in (a, b))
        found.append(PROBES[kind](one, other, rng))
    return np.stack(found)
