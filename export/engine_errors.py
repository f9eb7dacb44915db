"""What TensorRT logs while it parses and builds, and what that means for the person who waits for an engine."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from dskd.runtime.errors import DskdError

# TensorRT's words for memory that ran out: 8.x, 10.x, CUDA's own, and the driver's on a Jetson
MEMORY = ("outofmemory", "out of memory", "could not be allocated", "insufficient memory", "bad_alloc", "nvmapmemalloc")
WORKSPACE = ("insufficient workspace", "sufficient workspace memory", "increasing the workspace")
NOISE = "CUDA driver version is insufficient"  # TensorRT-RTX repeats that there is no driver, and needs none
LONGEST = 240  # characters of TensorRT's own words that a message quotes


@dataclass
class BuildLog:
    """Warnings and errors of one build, oldest first."""

    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    file: Path | None = None  # for every word of it
    driver: list[str] = field(default_factory=list)  # what it wrote to standard error

    def write(self, severity: str, message: str) -> None:
        """To the end of ``file``, where there is one."""
        if self.file is not None:
            with suppress(OSError), self.file.open("a", errors="replace") as handle:
                handle.write(f"[{severity[:1]}] {message}\n")

    def take_driver(self, lines: list[str]) -> None:
        """The driver's own lines, which come after the build is over."""
        self.driver += lines
        for line in lines:
            self.write("driver", line)

    def blames(self, words: tuple[str, ...], warnings_too: bool) -> bool:
        """Whether an error, or a warning too, holds one of ``words``."""
        lines = [*self.errors, *self.warnings, *self.driver] if warnings_too else self.errors
        return any(word in line.casefold() for line in lines for word in words)

    def first(self, pattern: str) -> str:
        """What the pattern's first group found in the earliest error, else empty."""
        found = (re.search(pattern, line) for line in self.errors)
        return next((match.group(1) for match in found if match), "")


def collecting_logger(trt: Any, log: BuildLog) -> Any:
    """The one logger for TensorRT, from now on filling ``log``; it prints nothing."""
    logger = _logger(trt)
    logger.target = log
    return logger


@cache
def _logger(trt: Any) -> Any:
    """Lives as long as the process, for TensorRT keeps a bare pointer to the first logger that it is given."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        target: BuildLog

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the bindings do not take super()

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, also from its own threads; must not raise."""
            self.target.write(severity.name, message)
            if NOISE in message:
                return
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.target.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                self.target.warnings.append(message)

    return Logger()


def parse_failure(parser: Any, log: BuildLog, onnx: Path) -> DskdError:
    """Names node, operator and reason of the first error that the ONNX parser met."""
    if not parser.num_errors:
        return DskdError(f"{onnx}: TensorRT cannot parse it ({_first_reason(log)}); export the bundle again")
    error = parser.get_error(0)
    if error.node() < 0:
        return DskdError(f"{onnx}: TensorRT cannot read it ({_reason(error.desc())}); export the bundle again")
    operator = error.node_operator() if hasattr(error, "node_operator") else ""  # 8.6 says it in the log only
    operator = operator or log.first(r"While parsing node number \d+ \[(\w+)") or "unknown"
    name = (error.node_name() if hasattr(error, "node_name") else "") or f"number {error.node()}"
    reason = _reason(error.desc())
    return DskdError(
        f"{onnx}: TensorRT does not take operator {operator} of node {name}"
        f"{'' if reason == 'false' else f' ({reason})'}; export a graph without it or use a newer TensorRT"
    )


def build_failure(log: BuildLog, onnx: Path) -> DskdError:
    """Names what kept a parsed graph from becoming an engine, with the next step."""
    node = log.first(r"[Cc]ould not find any implementation for node (.+?)(?:\.\)|\. In |, try |\.?$)")
    stuck = bool(node)  # nothing was left to choose from: what was only a warning before is now the cause
    if log.blames(MEMORY, warnings_too=stuck):
        where = f" at node {node}" if node else ""
        return DskdError(
            f"{onnx}: not enough memory to build the engine{where}; close other programs (on a Jetson the desktop), "
            "or ask for less with --workspace 256 and a smaller --batch"
        )
    if log.blames(WORKSPACE, warnings_too=stuck):
        where = f" for node {node}" if node else ""
        return DskdError(f"{onnx}: the workspace is too small{where}; give a larger --workspace or leave it out")
    if layer := log.first(r"[Ll]ayer '?(.+?)'? is not supported on DLA"):
        return DskdError(f"{onnx}: the DLA cannot run layer {layer}; add --gpu-fallback")
    if architecture := log.first(r"Target GPU (SM \d+) is not supported"):
        return DskdError(
            f"this TensorRT has no code for this GPU ({architecture}); install the one that comes with the JetPack"
        )
    if node:
        return DskdError(
            f"{onnx}: this TensorRT has no implementation for node {node}; use a newer TensorRT or another precision"
        )
    if any(word in line.casefold() for line in log.driver for word in MEMORY):
        return DskdError(
            f"{onnx}: not enough memory to build the engine ({_first_reason(log)}); close other programs or reboot, for "
            "after days a Jetson's memory lies in pieces, or ask for less with --workspace 256 and a smaller --batch"
        )
    return DskdError(f"{onnx}: TensorRT cannot build it ({_first_reason(log)}); use another precision or export again")


def _first_reason(log: BuildLog) -> str:
    return _reason(log.errors[0]) if log.errors else "it gave no reason"


def _reason(text: str) -> str:
    """The telling part of TensorRT's words: without file names of its own sources, error numbers and repetitions."""
    lines = [line for line in text.splitlines() if line.strip() and NOISE not in line]
    telling = next((line for line in lines if not line.startswith("Invalid Node")), lines[0] if lines else "no reason")
    inner = re.search(r"Error Code \d+: [\w ]+ \((.+)\)", telling)
    words = re.sub(r"\.?\s+In \w+ at \S+$", "", inner.group(1) if inner else telling)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} ..."
