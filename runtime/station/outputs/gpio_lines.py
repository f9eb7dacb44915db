"""GPIO lines: through the kernel's character device (gpiod 2), or header pins through Jetson.GPIO where ``chip`` is board.

When a process dies, however it dies, the kernel closes its line and frees it. What level the line has from then on is
the driver's choice: most leave the last one. That is why outputs are driven by ``gpio_guard``.
"""

from __future__ import annotations

import importlib
import time
from typing import Any, Protocol

BOARD = "board"


class LineUnusable(Exception):
    """The line cannot be had: message says why and what to do."""


class OutputLine(Protocol):
    """An output that this process owns."""

    def set(self, active: bool) -> None:
        """Drives the line."""
        ...

    def close(self) -> None:
        """Gives the line back."""
        ...


def open_output(chip: str, line: int, active_low: bool, consumer: str) -> OutputLine:
    """An output line, inactive from the start. Raises LineUnusable."""
    return _JetsonOutput(line, active_low) if chip == BOARD else _GpiodOutput(chip, line, active_low, consumer)


class _GpiodOutput:
    def __init__(self, chip: str, line: int, active_low: bool, consumer: str) -> None:
        gpiod = _gpiod()
        self._value, self._line = gpiod.line.Value, line
        settings = gpiod.LineSettings(
            direction=gpiod.line.Direction.OUTPUT, active_low=active_low, output_value=self._value.INACTIVE
        )
        self._request = _requested(gpiod, chip, line, settings, consumer)

    def set(self, active: bool) -> None:
        self._request.set_value(self._line, self._value.ACTIVE if active else self._value.INACTIVE)

    def close(self) -> None:
        self._request.release()


class _JetsonOutput:
    def __init__(self, pin: int, active_low: bool) -> None:
        try:
            gpio: Any = importlib.import_module("Jetson.GPIO")
        except Exception as error:  # it raises at import where it finds no Jetson, or one it may not touch
            raise LineUnusable(f"Jetson.GPIO cannot be used ({error}); name a chip such as /dev/gpiochip0") from error
        self._gpio, self._pin, self._low = gpio, pin, active_low
        gpio.setwarnings(False)
        gpio.setmode(gpio.BOARD)
        gpio.setup(pin, gpio.OUT, initial=gpio.HIGH if active_low else gpio.LOW)

    def set(self, active: bool) -> None:
        self._gpio.output(self._pin, self._gpio.HIGH if active != self._low else self._gpio.LOW)

    def close(self) -> None:
        self._gpio.cleanup(self._pin)


class InputEdges:
    """Edges on an input line, each with the time since it came."""

    def __init__(self, chip: str, line: int, rising: bool, bounce: float, consumer: str) -> None:
        import datetime

        gpiod = _gpiod()
        edge = gpiod.line.Edge.RISING if rising else gpiod.line.Edge.FALLING
        settings = gpiod.LineSettings(
            direction=gpiod.line.Direction.INPUT,
            edge_detection=edge,
            debounce_period=datetime.timedelta(seconds=bounce),
        )
        self._request = _requested(gpiod, chip, line, settings, consumer)

    def wait(self, timeout: float) -> list[float]:
        """Ages in seconds of the edges that came, oldest first; empty after ``timeout`` seconds."""
        if not self._request.wait_edge_events(timeout):
            return []
        events = self._request.read_edge_events()
        return [max(time.monotonic_ns() - event.timestamp_ns, 0) / 1e9 for event in events]

    def close(self) -> None:
        """Gives the line back."""
        self._request.release()


def _gpiod() -> Any:
    try:
        import gpiod
        import gpiod.line
    except ImportError as error:
        raise LineUnusable("gpiod is not installed; pip install 'dskd-edge[line]'") from error
    if not hasattr(gpiod, "request_lines"):
        raise LineUnusable("gpiod 1 is installed, 2 is needed; pip install 'gpiod>=2'")
    return gpiod


def _requested(gpiod: Any, chip: str, line: int, settings: Any, consumer: str) -> Any:
    try:
        return gpiod.request_lines(chip, consumer=consumer, config={line: settings})
    except FileNotFoundError as error:
        raise LineUnusable(f"there is no {chip}; gpiodetect lists the chips") from error
    except PermissionError as error:
        raise LineUnusable(f"{chip} is not yours to use; add the user to group gpio") from error
    except (OSError, ValueError) as error:
        raise LineUnusable(f"line {line} of {chip} cannot be had ({error}); gpioinfo shows who holds it") from error
