"""What verdicts on labelled pictures are worth: rates with their bounds, AUROC and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.inspection.tiling import coarse
from dskd.runtime.result import Verdict
from dskd.train import metrics

GOOD = "good"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Judged:
    """One labelled picture and its verdict. ``label`` is "good" or the defect's name."""

    path: Path
    label: str
    verdict: Verdict
    score: float
    ratio: float
    milliseconds: float


@dataclass(frozen=True)
class Rate:
    """``count`` of ``total``; ``low`` and ``high`` bound the true share with 95 % confidence (Clopper and Pearson 1934)."""

    count: int
    total: int

    @property
    def share(self) -> float:
        """NaN of nothing."""
        return self.count / self.total if self.total else float("nan")

    @property
    def low(self) -> float:
        """Over which the true share lies in 97.5 % of all cases."""
        return 1 - _upper(self.total - self.count, self.total)

    @property
    def high(self) -> float:
        """Under which the true share lies in 97.5 % of all cases."""
        return _upper(self.count, self.total)

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        share = self.share if self.total else None
        return {"count": self.count, "total": self.total, "share": share, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        if not self.total:
            return "no such pictures"
        return f"{self.count} of {self.total}, {self.share:.2%} (95 % confidence: {self.low:.2%} to {self.high:.2%})"


def _upper(count: int, total: int) -> float:
    """The rate at which ``count`` or fewer of ``total`` are seen with a probability of 2.5 %."""
    if count >= total:
        return 1.0
    low, high, tail = count / total, 1.0, (1 - CONFIDENCE) / 2
    for _ in range(60):  # halving: 60 times is what a float can tell apart
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(count, total, middle) > tail else (low, middle)
    return high


def _at_most(count: int, total: int, rate: float) -> float:
    """Probability of ``count`` or fewer of ``total`` at a rate between 0 and 1."""
    if rate <= 0 or rate >= 1:
        return float(rate <= 0)
    return sum(metrics.binomial(k, total, rate) for k in range(count + 1))


class Pixels:
    """Pixel figures at network size, of pictures that come one by one. Nothing is kept of a set without masks."""

    def __init__(self, pictures: int, height: int, width: int) -> None:
        self._size = height, width
        self._ranking = metrics.PixelRanking(pictures * height * width)

    def add(self, mask: NDArray[np.bool_], anomaly_map: NDArray[np.float32]) -> None:
        """A mask at network size, and a map that is as fine or, of a frame in tiles, finer."""
        fine = anomaly_map.shape != self._size
        self._ranking.add(mask, coarse(anomaly_map, *self._size) if fine else anomaly_map)

    def figures(self) -> dict[str, float]:
        """Pixel AUROC and PRO to a false-positive rate of 0.3."""
        pixel_auroc, pro = self._ranking.areas()
        return {"pixel_auroc": pixel_auroc, "pro": pro}


@dataclass(frozen=True)
class Evaluation:
    """All verdicts, and figures from them."""

    judged: list[Judged]
    pixel_figures: dict[str, float]

    @property
    def labels(self) -> list[str]:
        """The classes, good first."""
        return sorted({each.label for each in self.judged}, key=lambda label: (label != GOOD, label))

    def count(self, label: str, verdict: Verdict) -> int:
        """Pictures of a class with a verdict."""
        return sum(each.label == label and each.verdict is verdict for each in self.judged)

    @property
    def false_rejects(self) -> Rate:
        """Good parts that were rejected."""
        return self._rate(Verdict.REJECT, good=True)

    @property
    def good_in_review(self) -> Rate:
        """Good parts that a person has to look at."""
        return self._rate(Verdict.REVIEW, good=True)

    @property
    def misses(self) -> Rate:
        """Defective parts that passed."""
        return self._rate(Verdict.PASS, good=False)

    @property
    def defects_in_review(self) -> Rate:
        """Defective parts that a person has to look at."""
        return self._rate(Verdict.REVIEW, good=False)

    def _rate(self, verdict: Verdict, good: bool) -> Rate:
        chosen = [each.verdict is verdict for each in self.judged if (each.label == GOOD) == good]
        return Rate(sum(chosen), len(chosen))

    def figures(self, label: str | None = None) -> dict[str, float]:
        """Image AUROC, AP and the best F1 of all defects, or of one class of them, against all good parts."""
        chosen = [each for each in self.judged if label is None or each.label in (GOOD, label)]
        defective = np.array([each.label != GOOD for each in chosen], np.bool_)
        scores = np.array([each.score for each in chosen], np.float64)
        if defective.all() or not defective.any():
            return {}
        return {
            "image_auroc": metrics.auroc(defective, scores),
            "image_ap": metrics.average_precision(defective, scores),
            "image_f1_max": metrics.f1_max(defective, scores),
        }

    def as_dict(self) -> dict[str, object]:
        """For JSON: rates, figures, and a row for each class."""
        classes = {
            label: {
                **{verdict.value: self.count(label, verdict) for verdict in Verdict},
                **({} if label == GOOD else self.figures(label)),
            }
            for label in self.labels
        }
        rates = {
            "false_rejects": self.false_rejects, "good_in_review": self.good_in_review,
            "misses": self.misses, "defects_in_review": self.defects_in_review,
        }  # fmt: skip
        named = {name: rate.as_dict() for name, rate in rates.items() if rate.total}
        return {**self.figures(), **self.pixel_figures, **named, "classes": classes}

    def table(self) -> str:
        """Class by verdict, for a terminal."""
        wide = max(len(label) for label in [*self.labels, "class"])
        lines = [f"{'class':{wide}}" + "".join(f"{verdict.value:>8}" for verdict in Verdict) + "   AUROC"]
        for label in self.labels:
            auroc = "" if label == GOOD else f"{self.figures(label).get('image_auroc', float('nan')):8.4f}"
            counts = "".join(f"{self.count(label, verdict):8}" for verdict in Verdict)
            lines.append(f"{label:{wide}}{counts}{auroc}")
        return "\n".join(lines)
