"""Plain YAML, read by libyaml and by Python alike: data only, no aliases, no key twice, and any fault is a YAMLError."""

from __future__ import annotations

import os

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from dskd.runtime.configuration import strict_yaml
from dskd.runtime.configuration.strict_yaml import LOADER, PlainYaml, dump_yaml, parse_yaml


@pytest.fixture(params=[PlainYaml, LOADER], ids=["python", "as installed"])
def _reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_yaml, "LOADER", request.param)


both = pytest.mark.usefixtures("_reader")


def test_the_wheels_of_pyyaml_have_libyaml() -> None:
    assert yaml.__with_libyaml__
    assert LOADER is not PlainYaml


@both
def test_data_is_plain_and_only_true_and_false_are_switches() -> None:
    text = "on: [REJECT]\nno: yes\ntrue: [true, False, 1, 0x10, 1.5e3, ~, '1', 2026-01-01]\nä: |\n  two\n  lines\n"
    found = parse_yaml(text)
    assert found == yaml.safe_load(text.replace("on:", "'on':").replace("no: yes", "'no': 'yes'"))
    assert isinstance(found, dict)
    assert list(found) == ["on", "no", True, "ä"]


@both
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x\n", "an alias; write the value out"),
        ("a: 1\nb: {c: 1, c: 2}\n", "the key c twice"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("a:\n\t- 1\n", "cannot start any token"),
        ("a: [1, 2\n", "expected ',' or ']'"),
        ("a: \x00\n", "acter"),
        ("a: \udce4\n", "acter"),
        ("a: 2026-13-45\n", "month"),
    ],
)
def test_what_is_wrong_is_a_yaml_error_that_says_what(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message.replace("[", r"\[").replace("]", r"\]")):
        parse_yaml(text)


@both
def test_endless_nesting_is_refused() -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml("[" * 100_000)


def outcome(loader: type[PlainYaml], text: str) -> object:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(strict_yaml, "LOADER", loader)
        try:
            return repr(parse_yaml(text))
        except yaml.YAMLError:
            return yaml.YAMLError


@given(st.text("abn:-[]{}'\"#&*|>?,.01 \n\t", max_size=24))
@example("a: 1\nb: [x, {y: 2}]\n")
def test_where_both_take_a_text_they_take_it_for_the_same(text: str) -> None:
    """libyaml bears a tab here and there that Python's reader refuses; a bare exclamation mark is text to it, not nothing."""
    told = outcome(PlainYaml, text), outcome(LOADER, text)
    assert yaml.YAMLError in told or told[0] == told[1]


def test_bytes_of_a_name_that_are_no_text_are_written_escaped() -> None:
    name = os.fsdecode(b"pr\xfcfling")
    for options in ({}, {"allow_unicode": True, "width": 20}):
        for text in (name, f"\\{name}", f"\\\\{name} \U0001f600 a b c d e f", f"{name}{name}"):
            told = parse_yaml(dump_yaml({"a": text, "b": [text]}, **options))
            escaped = text.replace("\udcfc", "\\uDCFC")
            assert told == {"a": escaped, "b": [escaped]}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_all_text_comes_back(value: object) -> None:
    assert parse_yaml(dump_yaml({"a": value})) == {"a": value}
