"""The suite itself: a file without a network starts at once, and each test runs in one tier."""

from __future__ import annotations

import re
import subprocess
import sys

from conftest import ROOT

HEAVY = ("torch", "onnx", "matplotlib", "scipy", "openvino", "ray")


def test_what_all_tests_share_is_light() -> None:
    script = f"import sys, conftest; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "tests", capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_no_test_file_is_imported_by_another() -> None:
    for file in (ROOT / "tests").rglob("*.py"):
        assert not re.findall(r"^\s*(?:from|import) test_\w+", file.read_text(), re.M), file.name


def test_what_runs_alone_is_thorough() -> None:
    """``make test-all`` runs it, and ``make test`` leaves it out: measured times are nothing that a person waits for."""
    for file in (ROOT / "tests").rglob("test_*.py"):
        for marks in re.findall(r"((?:^@pytest\.mark\.\w+.*\n)+)def ", file.read_text(), re.M):
            assert "mark.alone" not in marks or "mark.thorough" in marks, file.name


def test_nothing_runs_a_second_time() -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run"):
        assert "rerun" not in (ROOT / name).read_text(), name
