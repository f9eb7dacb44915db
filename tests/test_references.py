"""The references of settings in docs/ are those of the code, and say everything."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from dskd.benchmarks.lab.documents.references import PAGES, addresses, page, sections
from dskd.runtime.errors import Parser
from dskd.runtime.station.config import StationConfig


@pytest.mark.parametrize("name", PAGES)
def test_the_page_in_docs_is_made_from_the_code(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == page(name), "run: python -m benchmarks references"


@pytest.mark.parametrize("name", PAGES)
def test_every_key_has_a_value_a_default_and_a_meaning(name: str) -> None:
    rows = [row for _, _, rows in sections(PAGES[name][0].model_json_schema()) for row in rows]
    assert len(rows) > 10
    assert [row for row in rows if not all(row)] == []


def test_every_option_of_a_source_has_a_value_a_default_and_a_meaning() -> None:
    found = {heading: rows for heading, text, rows in addresses() if text}
    assert {heading.partition(", ")[2] for heading in found} == {
        "v4l2:///dev/video0?key=value", "csi://0?key=value", "gige://ADDRESS?key=value", "test://pattern?key=value",
        "folder:///PATH?key=value",
    }  # fmt: skip
    assert [row for rows in found.values() for row in rows if not all(row)] == []


def test_a_key_of_each_depth_is_there() -> None:
    keys = {row[0] for _, _, rows in sections(StationConfig.model_json_schema()) for row in rows}
    assert {"`name`", "`web.listen`", "`cameras.NAME.trigger.deadline_ms`", "`sinks.NAME.header_token`"} <= keys


def test_the_schema_is_printed_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    options = Parser()
    options.add_argument("file")
    options.add_schema(lambda: StationConfig)
    with pytest.raises(SystemExit) as ended:
        options.parse_args(["--print-schema"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == StationConfig.model_json_schema()
