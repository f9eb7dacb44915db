"""One verdict out of several frames, for cameras that nothing triggers."""

from __future__ import annotations

from collections import deque

from dskd.runtime.result import Verdict

_SEVERITY = {Verdict.PASS: 0, Verdict.REVIEW: 1, Verdict.REJECT: 2}


class Debounce:
    """The worst verdict that at least ``need`` of the last ``window`` frames reach; a frame not judged counts too."""

    def __init__(self, need: int, window: int) -> None:
        self._need, self._last = need, deque[Verdict](maxlen=window)
        self.verdict = Verdict.PASS

    def add(self, verdict: Verdict) -> bool:
        """Takes one frame's verdict; whether the debounced verdict changed."""
        self._last.append(verdict)
        before, self.verdict = self.verdict, Verdict.PASS
        for candidate in (Verdict.REVIEW, Verdict.REJECT):
            if sum(_SEVERITY[seen] >= _SEVERITY[candidate] for seen in self._last) >= self._need:
                self.verdict = candidate
        return self.verdict is not before
