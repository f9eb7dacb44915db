"""Imports of libraries that bring along more than what is used of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(module: str) -> Iterator[None]:
    """What is imported inside finds ``module`` as not installed, unless it was imported before."""
    hide = module not in sys.modules
    if hide:
        sys.modules[module] = None  # type: ignore[assignment] # an import of it fails, a search for it finds nothing
    try:
        yield
    finally:
        if hide:
            del sys.modules[module]
