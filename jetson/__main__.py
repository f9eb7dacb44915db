"""``python -m jetson COMMAND``: everything that belongs to the device rather than to a picture."""

from __future__ import annotations

import importlib
import sys

from runtime.errors import CallError, exit_with_code

COMMANDS = {
    "doctor": ("jetson.doctor.command", "what is wrong here, and how to mend it"),
    "power": ("jetson.power", "power mode by name, clocks; says what it would do without --apply"),
    "telemetry": ("jetson.telemetry_command", "power, temperatures, load, clocks, throttling"),
    "wheels": ("jetson.wheels", "a folder of wheels that installs on a device without a network"),
}


def main(arguments: list[str]) -> int:
    """Hands over to the command that the first word names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m jetson COMMAND [options]   (COMMAND --help tells more)\n")
        print("\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()))
        return 0
    if arguments[0] not in COMMANDS:
        raise CallError(f"no command {arguments[0]!r}; one of: {', '.join(COMMANDS)}")
    module = importlib.import_module(COMMANDS[arguments[0]][0])
    code: int = module.main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.argv[0] = "python -m jetson"
    exit_with_code(main)
