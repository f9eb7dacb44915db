"""``dskd jetson COMMAND``: everything that belongs to the device rather than to a picture."""

from __future__ import annotations

import sys

from dskd.runtime.errors import CallError, exit_with_code
from dskd.runtime.imports import LABORATORY, import_command

COMMANDS = {
    "doctor": ("dskd.jetson.doctor.command:main", "what is wrong here, and what to do about it"),
    "power": ("dskd.jetson.power:main", "power mode by name, clocks; says what it would do without --apply"),
    "telemetry": ("dskd.jetson.telemetry_command:main", "power, temperatures, load, clocks, throttling"),
    "wheels": ("dskd.jetson.wheels:main", "a folder of wheels that installs on a device without a network"),
    "keys": ("dskd.jetson.publish:keys_main", "a pair of keys: one signs updates, the other goes to the devices"),
    "publish": ("dskd.jetson.publish:main", "a bundle becomes a signed update"),
    "update": ("dskd.jetson.fleet_commands:update", "take the newest update now"),
    "slots": ("dskd.jetson.fleet_commands:slots", "what serves, what is on trial; confirm or roll back by hand"),
    "agent": ("dskd.jetson.fleet_commands:agent", "take updates, watch them, tell the fleet; runs as a service"),
    "drill": (f"{LABORATORY}.fleet.power_drill:main", "take the power from an update at random points (in a checkout)"),
    "fleet-sim": (f"{LABORATORY}.fleet.fleet_sim:main", "many simulated devices take three updates (in a checkout)"),
    "inventory": ("dskd.jetson.fleet_commands:show_inventory", "what this device is and runs"),
}

EXAMPLES = """examples:
  dskd jetson doctor                 what is missing or wrong on this device
  dskd jetson power                  its power mode
  dskd jetson telemetry --watch 5    its sensors, every five seconds
  dskd jetson slots status           which bundle serves"""


def main(arguments: list[str]) -> int:
    """Hands over to the command that the first word names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: dskd jetson COMMAND [options]   (COMMAND --help tells more)\n")
        print("\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()))
        print(f"\n{EXAMPLES}")
        return 0
    if arguments[0] not in COMMANDS:
        raise CallError(f"no command {arguments[0]!r}; one of: {', '.join(COMMANDS)}")
    module, _, function = COMMANDS[arguments[0]][0].partition(":")
    code: int = getattr(import_command(module, f"jetson {arguments[0]}"), function)(arguments[1:])
    return code


if __name__ == "__main__":
    sys.argv[0] = "dskd jetson"
    exit_with_code(main)
