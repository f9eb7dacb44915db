"""How long to wait before the next attempt: doubling, bounded, and never in step with others."""

from __future__ import annotations

import random

_MOST_DOUBLINGS = 30  # 2**30 times any first delay is beyond every bound in use
_JITTER = 0.25  # share of the delay: several cameras behind one switch do not all come back in one instant


class Backoff:
    """Delays ``first``, 2 ``first``, 4 ``first`` ... up to ``most`` seconds, each a quarter more or less."""

    def __init__(self, first: float = 0.2, most: float = 10.0) -> None:
        self.first, self.most = first, most
        self._failures = 0

    def delay(self) -> float:
        """Seconds to wait now, after one more failure."""
        doubled = self.first * 2.0 ** min(self._failures, _MOST_DOUBLINGS)
        self._failures += 1
        return min(self.most, doubled) * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 no secret

    def reset(self) -> None:
        """It works again: the next failure starts at ``first``."""
        self._failures = 0
