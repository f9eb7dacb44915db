"""Packages as pip would have installed them: a folder with modules and a dist-info, to be put on the path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(site: Path, name: str, entry_points: str, modules: Mapping[str, str]) -> Path:
    """Writes a package of one or more modules with its ``entry_points.txt`` into ``site``; returns ``site``."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)
    return site
