"""Kinds by name: built-in ones without a search, those of installed packages, and what a broken one costs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from plugin_site import install

from dskd.runtime.configuration import registry as module
from dskd.runtime.configuration.registry import DISABLE, Registry
from dskd.runtime.errors import CallError, DskdError


def shapes() -> Registry[object]:
    """A registry of its own, with one built-in kind."""

    def check(name: str, found: object) -> None:
        if not isinstance(found, str):
            raise TypeError("needs a text")

    return Registry("shape", "dskd.shapes", {"square": "string:digits"}, check)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_built_in_kind_is_found_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_entry_points", lambda path: pytest.fail("searched"))
    known = shapes()
    assert "square" in known
    assert known["square"] == "0123456789"


def test_a_package_brings_a_kind(site: Path) -> None:
    install(
        site,
        "round",
        "[dskd.shapes]\ncircle = round_one:SHAPE\n[console_scripts]\nx = y:z\n",
        {"round_one": "SHAPE = 'o'"},
    )
    known = shapes()
    assert list(known) == ["square", "circle"]
    assert "circle" in known
    assert known["circle"] == "o"
    assert known.all() == {"square": "0123456789", "circle": "o"}


def test_an_unknown_name_is_said_with_what_there_is(site: Path) -> None:
    install(site, "round_unknown", "[dskd.shapes]\ncircle = nowhere_at_all:SHAPE\n", {})
    known = shapes()
    with pytest.raises(CallError, match="no shape is called 'cirle'; did you mean circle"):
        known["cirle"]
    with pytest.raises(CallError, match="one of: square, circle"):
        known["hexagon"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise OSError('no licence\\nfound')", "OSError: no licence found"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("SHAPE = 7", "TypeError: needs a text"),
        ("", "AttributeError"),
        ("def", "SyntaxError"),
        ("import no_such_library", "No module named 'no_such_library'"),
    ],
)
def test_a_broken_package_costs_one_line_and_nothing_else(
    site: Path, text: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"broken_{abs(hash(text))}"
    install(site, name, f"[dskd.shapes]\nbroken = {name}:SHAPE\n", {name: text})
    known = shapes()
    assert known["square"]
    with caplog.at_level(logging.WARNING):
        assert list(known.all()) == list(known.all()) == ["square"]
    (line,) = [record.getMessage() for record in caplog.records]  # not a second time
    assert line.startswith(f"passed over: shape broken of the package {name} 1.0 cannot be used (")
    assert reason in line
    assert "\n" not in line
    with pytest.raises(DskdError, match="update or uninstall"):
        known["broken"]


def test_a_built_in_name_stays_the_products_own(site: Path) -> None:
    install(site, "thief", "[dskd.shapes]\nsquare = thief_one:SHAPE\n", {"thief_one": "SHAPE = 'mine'"})
    assert shapes()["square"] == "0123456789"
    assert list(shapes()) == ["square"]


def test_two_packages_of_one_name_are_refused_by_both_names(site: Path) -> None:
    for name in ("left", "right"):
        install(site, f"{name}_shapes", f"[dskd.shapes]\ncircle = {name}_one:SHAPE\n", {f"{name}_one": "SHAPE = 'o'"})
    with pytest.raises(DskdError, match=r"left_shapes 1\.0 and right_shapes 1\.0; uninstall all but one"):
        shapes()["circle"]


def test_a_package_whose_files_are_damaged_is_passed_over(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "good_shapes", "[dskd.shapes]\ncircle = good_one:SHAPE\n", {"good_one": "SHAPE = 'o'"})
    install(site, "damaged_shapes", "", {})
    (site / "damaged_shapes-1.0.dist-info" / "entry_points.txt").write_bytes(b"[dskd.shapes]\n\xff\xfe = x\n")
    assert list(shapes()) == ["square", "circle"]
    assert "cannot be read" in caplog.text


def test_other_packages_can_be_left_out(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "round_off", "[dskd.shapes]\ncircle = round_off_one:SHAPE\n", {"round_off_one": "SHAPE = 'o'"})
    monkeypatch.setenv(DISABLE, "1")
    assert list(shapes()) == ["square"]
