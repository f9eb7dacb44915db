"""A process that owns one output line and makes its pulses, so that a dead station leaves no valve open.

The station writes ``pulse START WIDTH`` (seconds of the monotonic clock, which all processes share) to its standard
input. Pulses that overlap become one. However the station ends, the pipe closes: the guard makes the pulses that were
ordered (those parts are on the belt), sets the safe level and goes. It ignores SIGTERM, which systemd sends to both.
It imports nothing heavy. Only a SIGKILL of the guard itself leaves the line to the driver.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from dskd.runtime.station.outputs.gpio_lines import LineUnusable, OutputLine, open_output

LONGEST_AHEAD, LONGEST_PULSE = 120.0, 60.0  # seconds; beyond it an order is no order
MOST_PENDING = 10_000


def serve(line: OutputLine, orders: int) -> None:
    """Makes the pulses ordered on the file descriptor ``orders`` until it ends; leaves the line inactive."""
    pulses: list[tuple[float, float]] = []
    active, ended, rest = False, False, b""
    try:
        while not (ended and not pulses):
            now = time.monotonic()
            pulses = [pulse for pulse in pulses if pulse[1] > now]
            wanted = any(start <= now for start, _ in pulses)
            if wanted != active:
                line.set(wanted)
                active = wanted
            edges = [moment for pulse in pulses for moment in pulse if moment > now]
            wait = max(min(edges) - time.monotonic(), 0.0) if edges else None
            if ended:
                time.sleep(wait or 0.0)
            elif select.select([orders], [], [], wait)[0]:
                data = os.read(orders, 4096)
                ended = not data
                *lines, rest = (rest + data).split(b"\n")
                rest = rest[-256:]
                pulses += [pulse for text in lines if (pulse := parse(text)) and len(pulses) < MOST_PENDING]
    finally:
        line.set(False)
        line.close()


def parse(order: bytes) -> tuple[float, float] | None:
    """Start and end of a pulse, None where the order makes no sense."""
    try:
        word, start, width = order.decode().split()
        begin, length = float(start), float(width)
    except ValueError:
        return None
    if word != "pulse" or not 0 < length <= LONGEST_PULSE or not begin < time.monotonic() + LONGEST_AHEAD:
        return None
    now = time.monotonic()
    return (begin, begin + length) if begin >= now else (now, now + length)  # a late pulse has its full width


def main(arguments: list[str]) -> int:
    """``gpio_guard CHIP LINE high|low NAME``; prints ``ready`` or why not."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    chip, line, level, name = arguments
    try:
        output = open_output(chip, int(line), level == "low", name)
    except LineUnusable as error:
        print(str(error), flush=True)
        return 1
    print("ready", flush=True)
    serve(output, sys.stdin.fileno())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
