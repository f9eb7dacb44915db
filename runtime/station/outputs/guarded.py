"""An output of another package: whatever it raises is logged and shown, and never stops the line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from dskd.runtime.errors import CallError, DskdError, one_line
from dskd.runtime.result import Answer
from dskd.runtime.station.control import PartStatus
from dskd.runtime.station.outputs.base import Output, OutputConfig, OutputContext, OutputKind

Given = TypeVar("Given")
log = logging.getLogger(__name__)


def open_guarded(kind: OutputKind, config: OutputConfig, context: OutputContext) -> Output:
    """Raises CallError or DskdError where it cannot be opened, whatever the package's code raises."""
    try:
        return Guarded(kind.open(config, context), context.name, config.kind)
    except DskdError:
        raise
    except Exception as error:
        raise CallError(f"output {context.name}: cannot be opened ({type(error).__name__}: {error})") from error


class Guarded:
    """Passes everything on to ``output``."""

    def __init__(self, output: Output, name: str, kind: str) -> None:
        self.name, self._kind, self._output = name, kind, output
        self._failed, self._since = "", time.time()

    def hears(self, camera: str) -> bool:
        """Not where it does not say."""
        return self._ask(lambda: self._output.hears(camera), False)

    def answer(self, answer: Answer) -> None:
        """Gives it an answer."""
        self._ask(lambda: self._output.answer(answer), None)

    def status(self) -> PartStatus:
        """Its own, with what it raised last."""
        unknown = PartStatus(self.name, self._kind, "fault", "", self._since)
        status = self._ask(self._output.status, unknown)
        return replace(status, health="fault", detail=self._failed) if self._failed else status

    def drain(self, timeout: float) -> None:
        """Lets it finish."""
        self._ask(lambda: self._output.drain(timeout), None)

    def close(self) -> None:
        """Closes it."""
        self._ask(self._output.close, None)

    def _ask(self, question: Callable[[], Given], otherwise: Given) -> Given:
        try:
            return question()
        except Exception as error:
            failed = one_line(f"{type(error).__name__}: {error}")
            if failed != self._failed:
                self._failed, self._since = failed, time.time()
                log.error("output %s: %s", self.name, failed)
            return otherwise
