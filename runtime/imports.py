"""Imports of libraries without what they bring along and nobody uses, and of modules that only a checkout has."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from dskd.runtime.errors import MissingPart

LABORATORY = "dskd.benchmarks.lab"


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


def version() -> str:
    """Which dskd this is."""
    from importlib import metadata

    try:
        return metadata.version("dskd-edge")
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"


def import_command(module: str, called: str) -> ModuleType:
    """The module of a command. Raises MissingPart where it belongs to the laboratory, which is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if module.startswith(f"{LABORATORY}.") and LABORATORY.startswith(error.name or "-"):
            raise MissingPart(
                f"{called} proves the product and is not installed; run it in a checkout of dskd"
            ) from error
        raise
