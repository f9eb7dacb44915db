"""``dskd station test-output NAME``: pulses on a station's GPIO line while somebody looks at what it moves."""

from __future__ import annotations

import time
from pathlib import Path

from dskd.runtime.errors import CallError, DskdError, Parser
from dskd.runtime.station.load import load_station
from dskd.runtime.station.outputs.gpio import GpioOutput
from dskd.runtime.station.outputs.gpio_lines import LineUnusable, open_output

STATION = Path("/etc/dskd/station.yaml")
UNSEEN = (
    "nothing moved? The kernel takes the order whether or not the pin is a GPIO: on JetPack 6 and later set the pin in "
    "/opt/nvidia/jetson-io/jetson-io.py and reboot; see GPIO in docs/jetson.md"
)
EXAMPLES = """dskd station test-output gate
dskd station test-output gate --station line.yaml --pulses 20 --ms 50 --pause 0.5"""


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = Parser(prog="dskd station test-output", description=__doc__, examples=EXAMPLES)
    options.add_argument("output", help="its name in the station file")
    options.add_argument("--station", type=Path, default=STATION, help=f"station file (default: {STATION})")
    options.add_argument("--pulses", type=int, default=5, help="how many (default: 5)")
    options.add_argument("--ms", type=int, help="width of a pulse (default: the station file's)")
    options.add_argument("--pause", type=float, default=1.0, help="seconds between two (default: 1)")
    chosen = options.parse_args(arguments)
    if not (1 <= chosen.pulses <= 1000 and 0 <= chosen.pause <= 60 and 1 <= (chosen.ms or 1) <= 60_000):
        raise CallError("--pulses goes from 1 to 1000, --ms from 1 to 60000, --pause from 0 to 60 seconds")
    outputs = load_station(chosen.station).outputs
    output = outputs.get(chosen.output)
    if not isinstance(output, GpioOutput):
        names = [name for name, one in outputs.items() if isinstance(one, GpioOutput)]
        raise CallError(f"no GPIO output {chosen.output!r} in {chosen.station}; it has: {', '.join(names) or 'none'}")
    pulse(output, chosen.pulses, (chosen.ms or output.pulse_ms) / 1000, chosen.pause)
    print(UNSEEN)
    return 0


def pulse(output: GpioOutput, number: int, width: float, pause: float) -> None:
    """Makes ``number`` pulses of ``width`` seconds. Raises DskdError where the line cannot be had."""
    try:
        line = open_output(output.chip, output.line, output.active == "low", "dskd-test-output")
    except LineUnusable as error:
        raise DskdError(f"{error}; a running station holds its lines: stop it first") from error
    try:
        for k in range(1, number + 1):
            print(f"pulse {k} of {number}: line {output.line} of {output.chip} is {output.active} for {1000 * width:.0f} ms", flush=True)  # fmt: skip
            line.set(True)
            time.sleep(width)
            line.set(False)
            time.sleep(pause if k < number else 0.0)
    finally:  # Ctrl-C too
        line.set(False)
        line.close()
