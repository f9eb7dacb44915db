"""docs/attacks.md names tests that are there."""

from __future__ import annotations

import re

from conftest import ROOT


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/attacks.md").read_text()))
    there = set[str]()
    for file in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE))
    assert named - there == set()
    assert len(named) > 60
