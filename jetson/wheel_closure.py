"""What a set of packages lacks on the device. pip chooses wheels for another Python, but reads "only on Python 3.10" and
"only on aarch64" as of the Python that it runs on itself.
"""

from __future__ import annotations

import email
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dskd.runtime.errors import MissingPart


def _packaging() -> tuple[Any, Any, Any]:
    try:
        from packaging.markers import default_environment
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ImportError as error:
        raise MissingPart("packaging is not installed; pip install 'dskd-edge[fleet]'") from error
    return Requirement, canonicalize_name, default_environment


def requirements_of(folder: Path) -> dict[str, list[str]]:
    """What each wheel in ``folder`` requires, by the package's name."""
    found = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = email.message_from_bytes(archive.read(name))
        found[str(metadata["Name"])] = [str(line) for line in metadata.get_all("Requires-Dist", [])]
    return found


def lacking(packages: Mapping[str, Iterable[str]], wanted: Iterable[str], python: str) -> list[str]:
    """Requirements of ``wanted``, and of what they require, that are not in ``packages`` on aarch64 with that Python."""
    requirement, canonical, default_environment = _packaging()
    device = {
        **default_environment(), "python_version": python, "python_full_version": f"{python}.0", "platform_machine": "aarch64",
        "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    known = {canonical(name): list(lines) for name, lines in packages.items()}
    missing: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    ahead = [(requirement(line), "") for line in wanted]
    while ahead:
        needed, asked_by = ahead.pop()
        if needed.marker and not needed.marker.evaluate({**device, "extra": asked_by}):
            continue
        name = canonical(needed.name)
        if name not in known:
            missing[name] = f"{needed.name}{needed.specifier}"
        for extra in ("", *needed.extras):
            if name in known and (name, extra) not in seen:
                seen.add((name, extra))
                ahead += [(requirement(line), extra) for line in known[name]]
    return sorted(missing.values())
