"""Power mode by name and locked clocks. Without ``apply`` it only says what it would do."""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
from dataclasses import dataclass

from dskd.jetson.machine import Machine
from dskd.jetson.telemetry import read_telemetry
from dskd.runtime.errors import CallError, DskdError, MissingPart, Parser, exit_with_code

CONFIGURATION = "/etc/nvpmodel.conf"
STATUS = "/var/lib/nvpmodel/status"
PATIENCE = 60.0  # seconds; changing a mode takes a few


@dataclass(frozen=True)
class PowerState:
    """Modes by name with the id they have on this module and JetPack, the present one, and whether clocks are locked."""

    modes: dict[str, int]
    mode: str | None
    clocks_locked: bool | None


def read_power(machine: Machine | None = None) -> PowerState:
    """What the machine says; no mode and no modes on a plain PC."""
    machine = machine or Machine()
    modes = _modes(machine)
    return PowerState(modes, _mode(machine, modes), read_telemetry(machine).gpu_clock.locked)


def largest_mode(modes: dict[str, int]) -> str | None:
    """The name of the mode with the most power: MAXN_SUPER, MAXN, else the most watts; None where there are none."""
    ranked = {name: {"MAXN_SUPER": 1e6, "MAXN": 1e5}.get(name, _watts(name)) for name in modes}
    return max(ranked, key=lambda name: ranked[name]) if ranked else None


def _watts(name: str) -> float:
    match = re.search(r"(\d+)W", name)
    return float(match[1]) if match else 0.0


def plan(state: PowerState, mode: str | None, clocks: str | None) -> list[list[str]]:
    """The commands that lead from this state to mode and clocks (``lock`` or ``free``). Raises CallError, MissingPart."""
    steps: list[list[str]] = []
    if mode is not None:
        if not state.modes:
            raise MissingPart(f"no power modes here ({CONFIGURATION} is missing): this is no Jetson with JetPack")
        if mode not in state.modes:
            near = difflib.get_close_matches(mode.upper(), state.modes, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CallError(f"no power mode {mode!r}; this module has {', '.join(sorted(state.modes))}{hint}")
        if mode != state.mode:
            steps.append(["nvpmodel", "-m", str(state.modes[mode])])
    if clocks is not None and state.clocks_locked is None and not state.modes:
        raise MissingPart("no GPU clocks here: this is no Jetson with JetPack")
    # a new mode sets its own clock range, so a lock must follow it even where clocks are locked now
    if clocks == "lock" and (steps or state.clocks_locked is not True):
        steps.append(["jetson_clocks"])
    if clocks == "free" and state.clocks_locked is not False:
        steps.append(["jetson_clocks", "--restore"])
    return steps


def apply(machine: Machine, steps: list[list[str]]) -> None:
    """Runs the commands in order. Raises MissingPart or DskdError with what the command said."""
    for words in steps:
        command = machine.which(words[0])
        if command is None:
            raise MissingPart(
                f"{words[0]} is not installed; it comes with JetPack (nvidia-l4t-nvpmodel, nvidia-l4t-tools)"
            )
        try:  # "no": a mode that needs a reboot asks, and must not reboot a running line by itself
            done = subprocess.run(  # noqa: S603
                [command, *words[1:]], capture_output=True, text=True, timeout=PATIENCE, check=False, input="no\n"
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DskdError(f"{' '.join(words)}: {error}") from error
        said = f"{done.stdout} {done.stderr}"
        if "reboot" in said.lower():
            raise DskdError(f"{' '.join(words)}: this mode needs a reboot; run it by hand and reboot the device")
        if done.returncode != 0:
            rights = "" if os.geteuid() == 0 else "; run it with sudo"
            raise DskdError(f"{' '.join(words)} failed: {said.strip()[:200]}{rights}")


def _modes(machine: Machine) -> dict[str, int]:
    """Ids differ by module and JetPack, so a mode is always looked up by its name."""
    text = machine.text(CONFIGURATION) or ""
    found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", text, re.M)
    return {name: int(number) for number, name in found}


def _mode(machine: Machine, modes: dict[str, int]) -> str | None:
    match = re.search(r"NV Power Mode:\s*(\S+)", machine.run("nvpmodel", "-q") or "")
    if match:
        return (
            match[1].removeprefix("MODE_")
            if match[1] not in modes and match[1].removeprefix("MODE_") in modes
            else match[1]
        )
    match = re.search(r"pmode:(\d+)", machine.text(STATUS) or "")
    return next((name for name, number in modes.items() if match and number == int(match[1])), None)


EXAMPLES = """dskd jetson power                                 which mode it is in, and which there are
dskd jetson power --mode MAXN --clocks lock       what that would run
sudo dskd jetson power --mode MAXN --clocks lock --apply"""


def main(arguments: list[str]) -> int:
    """``dskd jetson power``."""
    options = Parser(prog="dskd jetson power", description=__doc__, examples=EXAMPLES)
    options.add_argument("--mode", help="power mode by name, as MAXN_SUPER or 15W")
    options.add_argument(
        "--clocks", choices=("lock", "free"), help="lock GPU and memory at their highest, or free them"
    )
    options.add_argument("--apply", action="store_true", help="do it (needs root); otherwise only say it")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = options.parse_args(arguments)
    machine = Machine()
    state = read_power(machine)
    steps = plan(state, chosen.mode, chosen.clocks)
    if chosen.apply:
        apply(machine, steps)
        state = read_power(machine)
    if chosen.json:
        fields = {"mode": state.mode, "modes": state.modes, "clocks_locked": state.clocks_locked}
        print(json.dumps({**fields, "steps": [" ".join(words) for words in steps], "applied": chosen.apply}))
        return 0
    locked = {True: "locked", False: "free", None: "unknown"}[state.clocks_locked]
    print(f"power mode {state.mode or 'unknown'} of {', '.join(sorted(state.modes)) or 'none'}; clocks {locked}")
    for words in steps:
        print(f"{'did' if chosen.apply else 'would run'}: {' '.join(words)}")
    if steps and not chosen.apply:
        print("nothing was changed; add --apply")
    return 0


if __name__ == "__main__":
    exit_with_code(main)
