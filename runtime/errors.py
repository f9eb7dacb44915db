"""Errors a user meets: one line that says what happened, where, and how to mend it, with its exit code."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any, NoReturn

from dskd.runtime.verbosity import verbose


class DskdError(Exception):
    """The work failed (exit code 1)."""

    exit_code = 1


class CallError(DskdError):
    """The call was wrong: an option, a configuration, a path that does not exist (exit code 2)."""

    exit_code = 2


class NotExact(DskdError):
    """A backend computes, and not exactly enough for this bundle. ``told`` says whether a person was told before."""

    def __init__(self, message: str, told: bool = False) -> None:
        super().__init__(message)
        self.told = told


class DeviceLost(DskdError):
    """The GPU failed in a way that stays with the process: only a new process can use it again."""


class MissingPart(DskdError):
    """A needed part is absent: GPU, library, camera, weights (exit code 3)."""

    exit_code = 3


class _ByType(argparse.HelpFormatter):
    """Shows what an option takes, not its name again: ``--licence TEXT``."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return {Path: "PATH", int: "N", float: "NUMBER"}.get(action.type, "TEXT")  # type: ignore[call-overload, no-any-return]


class Parser(argparse.ArgumentParser):
    """argparse that says a wrong option in one line like every other wrong call."""

    def __init__(self, *, formatter_class: Any = argparse.HelpFormatter, examples: str = "", **options: Any) -> None:
        if examples:  # one call a line
            options["epilog"] = "examples:\n" + indent(examples.strip(), "  ")
            formatter_class = argparse.RawTextHelpFormatter
        formatter: Any = type("Formatter", (_ByType, formatter_class), {})
        super().__init__(formatter_class=formatter, **options)
        self.description = (self.description or "").replace("``", "")  # a docstring's marks mean nothing in a terminal
        self._later: list[tuple[argparse.Action, Callable[[], str]]] = []

    def error(self, message: str) -> NoReturn:
        """Raises CallError instead of printing the usage."""
        raise CallError(f"{message}; {self.prog} --help tells more")

    def add_later(self, *names: str, text: Callable[[], str], **options: Any) -> None:
        """An option whose help lists what is installed: it is made where help is shown, not at every start."""
        action = self.add_argument(*names, help="", **options)
        self._later.append((action, text))

    def format_help(self) -> str:
        """The help, with what is only looked up for it."""
        for action, text in self._later:
            action.help = text().replace("%", "%%")
        return super().format_help()

    def add_schema(self, settings: Callable[[], Any]) -> None:
        """The option ``--print-schema``; ``settings`` gives the pydantic model of a settings file when it is asked for."""

        class PrintSchema(argparse.Action):
            def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
                print(json.dumps(settings().model_json_schema(), indent=1))
                parser.exit()

        text = "print the JSON schema of the settings, for an editor, and exit"
        self.add_argument("--print-schema", action=PrintSchema, nargs=0, help=text)


def as_words(**options: Any) -> list[str]:
    """Options of a call as the words of a command line: ``out="x"`` is ``--out=x``, a list gives its option again and again.

    None, False and empty lists are left out.
    """
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [f"{option}={os.fspath(v) if isinstance(v, os.PathLike) else v}" for v in values]
    return words


def one_line(text: str) -> str:
    """``text`` without line breaks, terminal escapes or bytes that are no text: file names may hold anything."""
    joined = " ".join(text.split())
    return joined if joined.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in joined)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def exit_with_code(main: Callable[[list[str]], int]) -> None:
    """Runs a command's ``main(arguments)``; a DskdError becomes one line on stderr and its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a file name that the terminal's encoding lacks is no failure
    try:
        code = main(sys.argv[1:])
        if sys.stdout:  # None where the caller closed it
            sys.stdout.flush()
    except DskdError as error:
        if verbose():
            traceback.print_exc()
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader (head, less) has gone: not our failure
        _discard_output()
        code = 0
    except MemoryError:
        print(
            "error: memory is short; free some, or give the work less (fewer threads, smaller pictures)",
            file=sys.stderr,
        )
        code = 1
    except OSError as error:  # a disk that is full or gone, wherever it was met
        print(f"error: {one_line(str(error))}; check the disk, the path and its rights", file=sys.stderr)
        _discard_output()
        code = 1
    raise SystemExit(code)


def _discard_output() -> None:
    """Lets Python's last flush succeed where standard output no longer takes anything."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
