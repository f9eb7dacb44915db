"""docs/architecture.md tells the truth about the import graph, docs/files.md lists every file."""

from __future__ import annotations

import re

import grimp
from conftest import ROOT

from dskd.benchmarks.lab.documents.references import FILES, files_page

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


def test_the_list_of_files_is_made_from_their_docstrings() -> None:
    assert (ROOT / "docs" / FILES).read_text() == files_page(), "run: python -m benchmarks references"


def test_every_file_that_a_document_names_exists() -> None:
    for document in ("architecture.md", "decisions.md", "methods.md"):
        for name in re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w/.]+)`", (ROOT / "docs" / document).read_text()):
            assert (ROOT / name).exists(), (document, name)
