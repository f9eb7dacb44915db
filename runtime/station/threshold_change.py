"""A change of thresholds as a sentence of the audit log, and back, so that it can be undone."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?)"
_SENTENCE = re.compile(
    rf"(.+): review {_NUMBER} to {_NUMBER}, reject {_NUMBER} to {_NUMBER}; bundle (.+?), camera (.+)", re.DOTALL
)
Pair = tuple[float, float]  # review and reject


@dataclass(frozen=True)
class ThresholdChange:
    """``old`` and ``new``: review and reject threshold, in six digits. ``cameras`` by commas."""

    recipe: str
    old: Pair
    new: Pair
    bundle: str
    cameras: str

    def __str__(self) -> str:
        review, reject = (f"{old:g} to {new:g}" for old, new in zip(self.old, self.new, strict=True))
        return f"{self.recipe}: review {review}, reject {reject}; bundle {self.bundle}, camera {self.cameras}"

    @classmethod
    def parse(cls, text: str) -> ThresholdChange | None:
        """What such a sentence says; None for any other."""
        found = _SENTENCE.fullmatch(text)
        if found is None:
            return None
        recipe, *numbers, bundle, cameras = found.groups()
        try:
            old_review, new_review, old_reject, new_reject = map(float, numbers)
        except ValueError:
            return None
        return cls(recipe, (old_review, old_reject), (new_review, new_reject), bundle, cameras)
