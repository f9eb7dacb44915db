"""One line of ``tegrastats``, read by token and not by column: JetPack 5, 6 and 7 print different fields."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

OFFLINE = -256.0  # degrees a sensor gives that is switched off
# brackets with blanks inside are one token; a killed tegrastats leaves them open
_TOKEN = re.compile(r"\((?:[^)]*)(?:\)|$)|(?:[^\s\[(]+)?\[[^\]]*(?:\]|$)|[^\s\[(]+")
_MEMORY = re.compile(r"(\d+)/(\d+)MB")
_TEMPERATURE = re.compile(r"(\w+)@(-?\d+(?:\.\d+)?)C(?:/-?\d+(?:\.\d+)?C)*")
_RAIL = re.compile(r"(\d+)mW(?:/\d+mW)*")
_LOAD = re.compile(r"(?:(\d+)%)?@(?:\[([\d,]*)\]|(\d+))")
_CORE = re.compile(r"(\d+)%@(\d+)")
_CLOCK_NAME = re.compile(r"\w+_FREQ|VIC|APE|OFA|NV\w+|PVA\w*")
# A total where the board measures one; else the three rails that together are all of an AGX Orin.
TOTAL = "VDD_IN"
PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


@dataclass(frozen=True)
class Load:
    """An engine: load in percent and clocks in MHz, as far as the line gives them; ``on`` False for ``off``."""

    on: bool
    percent: int | None = None
    mhz: tuple[int, ...] = ()


@dataclass
class Sample:
    """What a line says. Memory in MB, temperatures in °C (None: sensor offline), rails in mW at this moment."""

    ram: tuple[int, int] | None = None
    swap: tuple[int, int] | None = None
    cpus: list[Load] = field(default_factory=list)
    engines: dict[str, Load] = field(default_factory=dict)
    temperatures: dict[str, float | None] = field(default_factory=dict)
    rails: dict[str, int] = field(default_factory=dict)

    @property
    def gpu(self) -> Load | None:
        """The GPU's load and clocks."""
        return self.engines.get("GR3D")

    @property
    def emc(self) -> Load | None:
        """The memory controller's load and clock."""
        return self.engines.get("EMC")

    @property
    def total_mw(self) -> int | None:
        """Power of the whole module in mW, None where the line does not hold it."""
        return total_power(self.rails)


def total_power(rails: dict[str, int]) -> int | None:
    """``VDD_IN``, or on AGX Orin its three parts (``VDDQ_VDD2_1V8AO`` is behind ``VIN_SYS_5V0``); mW."""
    if TOTAL in rails:
        return rails[TOTAL]
    return sum(rails[part] for part in PARTS) if all(part in rails for part in PARTS) else None


def parse_line(line: str) -> Sample:
    """Reads a line, whole or cut short; what it does not know it leaves out. Never raises."""
    sample = Sample()
    tokens = _TOKEN.findall(line)
    if tokens and not tokens[-1].endswith(("C", "mW")):
        tokens.pop()  # a whole line ends in a temperature or a rail: this token was cut, and its number may be too small
    for key, value in zip(tokens, [*tokens[1:], ""], strict=False):
        _read(sample, key, value)
    return sample


def _read(sample: Sample, key: str, value: str) -> None:
    """One token with the one after it."""
    if temperature := _TEMPERATURE.fullmatch(key):
        degrees = float(temperature[2])
        sample.temperatures[temperature[1].lower()] = None if degrees == OFFLINE else degrees
    elif key == "CPU" and value.startswith("["):
        sample.cpus = _cores(value)
    elif key in ("RAM", "SWAP") and (memory := _MEMORY.fullmatch(value)):
        setattr(sample, key.lower(), (int(memory[1]), int(memory[2])))
    elif rail := _RAIL.fullmatch(value):
        if key != "NC":
            sample.rails[key] = int(rail[1])
    elif _CLOCK_NAME.fullmatch(key) and (load := _load(value)):
        sample.engines[key.removesuffix("_FREQ")] = load


def _cores(text: str) -> list[Load]:
    """``[0%@729,off,3%@1510]``; a core that was cut short is left out."""
    cores = []
    parts = text[1:-1].split(",") if text.endswith("]") else text[1:].split(",")[:-1]
    for part in parts:
        if part.strip() == "off":
            cores.append(Load(on=False))
        elif match := _CORE.fullmatch(part.strip()):
            cores.append(Load(True, int(match[1]), (int(match[2]),)))
    return cores


def _load(text: str) -> Load | None:
    """``off``, ``729``, ``3%``, ``3%@2133``, ``3%@[0,0]`` or ``@[0,0]``."""
    if text == "off":
        return Load(on=False)
    if text.isdecimal():
        return Load(True, None, (int(text),))
    if re.fullmatch(r"\d+%", text):
        return Load(True, int(text[:-1]))
    match = _LOAD.fullmatch(text)
    if match is None:
        return None
    clocks = match[2] if match[2] is not None else match[3]
    return Load(True, None if match[1] is None else int(match[1]), tuple(int(c) for c in clocks.split(",") if c))
