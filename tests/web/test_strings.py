"""The page's strings: each in three languages, with the same values in each, and none that nobody shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

STATIC = Path(__file__).parents[2] / "runtime" / "web" / "static"
LITERAL = r'"(?:[^"\\]|\\.)*"'
FROM_THE_STATION = {
    "PASS", "REVIEW", "REJECT", "review", "reject", "camera", "sink", "output", "store", "disk", "clock", "drift",
    "held-out good images", "first 200 passes",
}  # fmt: skip


def table() -> dict[str, list[str]]:
    rows = re.findall(rf"^  ({LITERAL}): \[({LITERAL}), ({LITERAL})\],$", (STATIC / "strings.js").read_text(), re.M)
    found = {ast.literal_eval(english): [ast.literal_eval(word) for word in words] for english, *words in rows}
    assert len(found) == len(rows) > 200
    return found


def shown() -> set[str]:
    found = set(FROM_THE_STATION)
    for script in STATIC.glob("*.js"):
        found |= {ast.literal_eval(word) for word in re.findall(rf"\bt\(({LITERAL})", script.read_text())}
    page = (STATIC / "index.html").read_text()
    found |= {word.strip() for word in re.findall(r"<[^>]*\bdata-t\b[^>]*>([^<]*[^<\s][^<]*)<", page)}
    return found | set(re.findall(r'aria-label="([^"]+)" data-t-label', page))


def test_every_string_that_is_shown_is_in_the_table_and_no_other() -> None:
    assert shown() ^ set(table()) == set()


def test_translations_name_the_same_values() -> None:
    for english, others in table().items():
        for other in others:
            assert other.strip()
            assert sorted(re.findall(r"\{\w+\}", other)) == sorted(re.findall(r"\{\w+\}", english)), english


def test_no_words_stand_outside_the_table() -> None:
    """Neither between tags of the page nor as what an element made by a script holds."""
    page = re.sub(r"(?s)<head>.*</head>|<noscript>.*</noscript>", "", (STATIC / "index.html").read_text())
    for tag, word in re.findall(r"(<[^>]*>)([^<]*[A-Za-z]{2}[^<]*)<", page):
        assert "data-t" in tag or 'id="station"' in tag, word
    for script in STATIC.glob("*.js"):
        assert re.findall(r'\}, "[A-Z][a-z]+[^"]*"\)', script.read_text()) == [], script.name
