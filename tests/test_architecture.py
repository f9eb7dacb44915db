"""docs/architecture.md tells the truth about the import graph, and lists every file."""

from __future__ import annotations

import re

import grimp
import pytest
from conftest import ROOT

DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = ("runtime", "train", "calibration", "export", "jetson", "benchmarks")


def documented_imports() -> dict[str, set[str]]:
    block = re.search(r"```imports\n(.*?)```", DOCUMENT, re.S)
    assert block, "docs/architecture.md has no ```imports block"
    rows = (line.split("->") for line in block.group(1).strip().splitlines())
    return {left.strip(): {name.strip() for name in right.split(",") if name.strip()} for left, right in rows}


def test_rooms_import_what_the_document_says() -> None:
    graph = grimp.build_graph("dskd")
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            here, there = (name.removeprefix("dskd.").split(".")[0] for name in (module, imported))
            if here in ROOMS and here != there:
                found[here].add(there)
    assert documented_imports() == found


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_is_listed_and_every_listed_file_exists(room: str) -> None:
    rows = re.findall(rf"`({room}/[\w/*]+\.\w+)`", DOCUMENT)
    listed = {path.relative_to(ROOT).as_posix() for row in rows for path in ROOT.glob(row)} | {
        r for r in rows if "*" not in r
    }
    listed = {path for path in listed if not path.endswith("/__init__.py")}
    present = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / room).rglob("*")
        if p.suffix in (".py", ".yaml") and p.name != "__init__.py" and "__pycache__" not in p.parts
    }
    assert listed == present
