"""Errors a user meets: one line that says what happened, where, and how to mend it, with its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class DskdError(Exception):
    """The work failed (exit code 1)."""

    exit_code = 1


class CallError(DskdError):
    """The call was wrong: an option, a configuration, a path that does not exist (exit code 2)."""

    exit_code = 2


class MissingPart(DskdError):
    """A needed part is absent: GPU, library, camera, weights (exit code 3)."""

    exit_code = 3


def exit_with_code(main: Callable[[list[str]], int]) -> None:
    """Runs a command's ``main(arguments)``; a DskdError becomes one line on stderr and its exit code."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except DskdError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader (head, less) has gone: not our failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    raise SystemExit(code)
