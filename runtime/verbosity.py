"""How much a command says on standard error beside its result: ``--quiet`` and ``--verbose``."""

from __future__ import annotations

import argparse
import logging
import sys

_log = logging.getLogger("dskd")  # the parent of every module's own


def add_verbosity(options: argparse.ArgumentParser, verbose: bool = True) -> None:
    """The two options, of which a call takes one; ``--verbose`` is left out where a command has its own."""
    either = options.add_mutually_exclusive_group()
    either.add_argument(
        "--quiet", "-q", action="store_true", help="no progress and no notes: only the result, warnings and errors"
    )
    if verbose:
        either.add_argument(
            "--verbose", "-v", action="store_true", help="details of each step, and where in the code an error was met"
        )


def apply_verbosity(options: argparse.Namespace) -> None:
    """Sets the level of the product's log as ``options`` say."""
    level = logging.DEBUG if getattr(options, "verbose", False) is True else logging.INFO
    _log.setLevel(logging.WARNING if options.quiet else level)
    if not logging.getLogger().handlers:  # a program that calls us has set up its own
        logging.basicConfig(format="%(message)s")


def quiet() -> bool:
    """Whether progress and notes are not wanted."""
    return _log.level == logging.WARNING


def verbose() -> bool:
    """Whether details are wanted."""
    return _log.level == logging.DEBUG


def note(text: str) -> None:
    """One line on standard error that ``--quiet`` leaves out."""
    if not quiet():
        print(text, file=sys.stderr)
