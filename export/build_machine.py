"""What of the machine decides how good an engine is, beside GPU and TensorRT: L4T, driver, power mode at the build."""

from __future__ import annotations

import re
from pathlib import Path

from dskd.runtime.inspection.engine import BuiltOn

LARGEST = 1 << 16  # bytes of a file that are looked at


def built_on(root: Path = Path("/")) -> BuiltOn:
    """Of the machine whose files lie below ``root``; None for what it does not say."""
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    driver = re.search(r"Kernel Module[^\n]*?\s(\d+\.[\d.]+)", _text(root / "proc/driver/nvidia/version"))
    number = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    modes = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", _text(root / "etc/nvpmodel.conf"), re.M)
    names = {int(identity): name for identity, name in modes}
    return BuiltOn(
        l4t=f"{release[1]}.{release[2]}" if release else None,
        driver=driver[1] if driver else None,
        power_mode=names.get(int(number[1])) if number else None,
    )


def _text(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return handle.read(LARGEST).decode(errors="replace")
    except OSError:
        return ""
