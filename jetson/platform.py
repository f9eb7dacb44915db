"""Which Jetson this is: module, L4T, JetPack. An L4T that no table knows is told as such, never a failure."""

from __future__ import annotations

import platform as python_platform
import re
from dataclasses import asdict, dataclass
from typing import Literal

from dskd.jetson.machine import Machine

Generation = Literal["jp5", "jp6", "jp7"]
Version = tuple[int, int, int]

RELEASE = "/etc/nv_tegra_release"
MODEL = "/proc/device-tree/model"
COMPATIBLE = "/proc/device-tree/compatible"

# L4T to JetPack. Sources disagree on 36.5.0 and 39.x; NVIDIA's release pages decided here. Of 39.0, said to be an early
# access of 7.2, no page of NVIDIA's was found: it is told as unknown.
JETPACKS: dict[Version, str] = {
    (35, 2, 1): "5.1",
    (35, 3, 1): "5.1.1",
    (35, 4, 1): "5.1.2",
    (35, 5, 0): "5.1.3",
    (35, 6, 0): "5.1.4",
    (35, 6, 1): "5.1.5",
    (35, 6, 4): "5.1.6",
    (36, 3, 0): "6.0",
    (36, 4, 0): "6.1",
    (36, 4, 3): "6.2",
    (36, 4, 4): "6.2.1",
    (36, 4, 7): "6.2.1",
    (36, 5, 0): "6.2.2",
    (38, 2, 0): "7.0",
    (38, 4, 0): "7.1",
    (39, 2, 0): "7.2",
    (39, 2, 1): "7.2.1",
}
GENERATIONS: dict[int, Generation] = {35: "jp5", 36: "jp6", 38: "jp7", 39: "jp7"}


@dataclass(frozen=True)
class Module:
    """What a module is by its part number. ``memory_bus`` in bits; ``dla_cores`` as built, JetPack may not serve them."""

    name: str
    sm: int
    memory_bus: int
    dla_cores: int


# By the part number in the device tree; p3701-0000 is the developer kit's, with 32 or 64 GB.
MODULES = {
    "p3701-0000": Module("AGX Orin developer kit", 16, 256, 2),
    "p3701-0002": Module("IGX Orin", 16, 256, 2),
    "p3701-0004": Module("AGX Orin 32GB", 14, 256, 2),
    "p3701-0005": Module("AGX Orin 64GB", 16, 256, 2),
    "p3701-0008": Module("AGX Orin Industrial", 16, 256, 2),
    "p3767-0000": Module("Orin NX 16GB", 8, 128, 2),
    "p3767-0001": Module("Orin NX 8GB", 8, 128, 1),
    "p3767-0003": Module("Orin Nano 8GB", 8, 128, 0),
    "p3767-0004": Module("Orin Nano 4GB", 4, 64, 0),
    "p3767-0005": Module("Orin Nano developer kit", 8, 128, 0),
    # Linux's dt-bindings (P3971-0089+P3834-0008) and NVIDIA's technical brief TB-12572-001: 20 SM, 256 bit, no DLA. The part
    # number of the T4000 (JetPack 7.1) was found in no source.
    "p3834-0008": Module("AGX Thor developer kit (T5000)", 20, 256, 0),
}


@dataclass(frozen=True)
class Platform:
    """This machine. ``jetpack`` is the nearest one known, exact where ``jetpack_known``; all None on a plain PC."""

    architecture: str
    model: str | None
    part: str | None
    module: Module | None
    l4t: Version | None
    jetpack: str | None
    jetpack_known: bool
    generation: Generation | None
    memory_bytes: int | None

    @property
    def is_jetson(self) -> bool:
        """Whether anything here says Jetson."""
        return self.l4t is not None or self.part is not None or "jetson" in (self.model or "").lower()

    def as_dict(self) -> dict[str, object]:
        """For JSON; the L4T as people write it."""
        return {**asdict(self), "l4t": written(self.l4t)}


def written(l4t: Version | None) -> str | None:
    """36.4.4 as people write it."""
    return None if l4t is None else ".".join(map(str, l4t))


def find_platform(machine: Machine | None = None) -> Platform:
    """Reads release file, package database and device tree."""
    machine = machine or Machine()
    l4t = _l4t(machine)
    part = _part(machine.text(COMPATIBLE) or "")
    jetpack = JETPACKS.get(l4t) if l4t else None
    return Platform(
        architecture=python_platform.machine(),
        model=machine.text(MODEL) or None,
        part=part,
        module=MODULES.get(part or ""),
        l4t=l4t,
        jetpack=jetpack or (nearest_jetpack(l4t) if l4t else None),
        jetpack_known=jetpack is not None,
        generation=_generation(l4t),
        memory_bytes=_memory(machine),
    )


def nearest_jetpack(l4t: Version) -> str:
    """The JetPack of the newest known L4T that is not newer than this one, else of the oldest."""
    older = [known for known in JETPACKS if known <= l4t]
    return JETPACKS[max(older) if older else min(JETPACKS)]


def bandwidth(emc_hz: int, memory_bus: int) -> float:
    """Theoretical memory bandwidth in GB/s: LPDDR5 moves two words a clock."""
    return emc_hz * 2 * memory_bus / 8 / 1e9


def _l4t(machine: Machine) -> Version | None:
    """From the release file (its date changed its form between R36 and R39 and is not read), else from dpkg."""
    text = machine.text(RELEASE) or ""
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+)\.(\d+)", text)
    if match is None:
        package = machine.run("dpkg-query", "--show", "--showformat=${Version}", "nvidia-l4t-core") or ""
        match = re.match(r"(\d+)\.(\d+)\.(\d+)", package)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _part(compatible: str) -> str | None:
    """The module's part number: ``nvidia,p3768-0000+p3767-0005-super`` is carrier board + module."""
    found: list[str] = re.findall(r"p3701-\d{4}|p3767-\d{4}|p3834-\d{4}", compatible)
    return found[0] if found else None


def _generation(l4t: Version | None) -> Generation | None:
    if l4t is None:
        return None
    return GENERATIONS.get(l4t[0]) or ("jp7" if l4t[0] > max(GENERATIONS) else None)


def _memory(machine: Machine) -> int | None:
    match = re.search(r"MemTotal:\s+(\d+) kB", machine.text("/proc/meminfo") or "")
    return int(match[1]) * 1024 if match else None
