"""docs/jetson.md keeps its word: its desktop commands here; the device's run in test_jetson_install.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from jetson_commands import DOCUMENT, blocks
from tiny_bundle import tiny_bundle

from dskd.jetson.doctor.command import CHECKS


@pytest.mark.thorough
@pytest.mark.slow
def test_the_desktops_commands(tmp_path: Path) -> None:
    """In a folder of its own beside the packages, with a bundle where training leaves one."""
    for name in (
        "dskd",
        "runtime",
        "train",
        "export",
        "calibration",
        "jetson",
        "benchmarks",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):
        (tmp_path / name).symlink_to(ROOT / name)
    tiny_bundle(tmp_path / "runs/latest/bundle")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    python = Path(sys.executable).parent
    for block in blocks("desktop"):
        commands = block.replace("python -m", f"{python}/python -m")
        done = subprocess.run(
            ["bash", "-euc", commands], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    assert (tmp_path / "release/install.sh").stat().st_mode & 0o100
    assert list((tmp_path / "release").glob("dskd_edge-*.whl"))
    assert (tmp_path / "host/bracket/bracket.update").exists()


def test_every_block_says_where_it_runs() -> None:
    marked = sum(len(blocks(where)) for where in ("desktop", "device", "hardware"))
    assert marked == DOCUMENT.count("```sh")
    assert len(blocks("device")) >= 4


def test_its_figures() -> None:
    assert f"looks at {len(CHECKS)} things" in DOCUMENT


def test_commands_that_need_hardware_exist() -> None:
    """As far as can be told here: their options are known."""
    for block in blocks("hardware"):
        for words in (line.removeprefix("sudo ").split() for line in block.splitlines()):
            if words[:1] != ["dskd"]:
                continue
            module = ["dskd", *words[1:3]] if words[1] in ("jetson", "station") else ["dskd", words[1]]
            done = subprocess.run(
                [sys.executable, "-m", *module, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0
            for option in (word for word in words if word.startswith("--")):
                assert option in done.stdout, f"{words}: no {option}"
