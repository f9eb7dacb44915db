"""How many cases a test tries: few in ``make test``, all in ``make test-all``."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100  # examples of a property in the thorough profile


def cases(all_of_them: int) -> int:
    """What ``pytest --hypothesis-profile=quick`` leaves of ``all_of_them``; mark such a test ``budget``."""
    return max(1, all_of_them * settings.default.max_examples // USUAL)
