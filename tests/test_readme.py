"""The README's commands and code do what it says, in the order it says, in an empty folder."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, SMALL
from documented import run
from numpy.typing import NDArray

from dskd.__main__ import COMMANDS
from dskd.runtime.capture.image_files import read_image, write_image

README = (ROOT / "README.md").read_text()


def fenced(language: str, holding: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.S)
    found = [block for block in blocks if holding in block]
    assert len(found) == 1, f"the README has {len(found)} {language} blocks with {holding!r}"
    return str(found[0])


def python_pictures(small_set: Path) -> list[NDArray[np.uint8]]:
    """A colour picture and a grey one."""
    colour = read_image(next((small_set / "test" / "crack").glob("*.png")))
    return [colour, cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)]


@pytest.mark.slow
def test_the_path_in_five_commands_and_the_python_example(small_set: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "good").symlink_to(small_set / "train" / "good")
    (tmp_path / "parts" / "test").symlink_to(small_set / "test")
    (tmp_path / "pictures").symlink_to(small_set / "test")
    lines = [shlex.split(line, comments=True) for line in fenced("sh", "dskd train").splitlines()]
    assert lines[0][:2] == ["pip", "install"]
    commands = [words for words in lines if words[:1] == ["dskd"]]
    assert [words[1] for words in commands] == ["train", "export.onnx", "export.verify", "runtime", "evaluate"]
    small = [part for setting in SMALL for part in ("--set", setting)]  # the README's own settings take an hour here
    for words in commands:
        output = run([sys.executable, "-m", *words, *(small if words[1] == "train" else [])], tmp_path)
        if words[1] == "runtime":
            assert "captured 14 inspected 14 dropped 0" in output
    assert list((tmp_path / "overlays").rglob("*.png"))
    assert (tmp_path / "line.db").exists()
    assert (tmp_path / "evaluation" / "report.html").exists()
    for picture in python_pictures(small_set):
        write_image(tmp_path / "part.png", picture)
        verdict, ratio = run([sys.executable, "-c", fenced("python", "dskd.load")], tmp_path).split()
        assert verdict in ("PASS", "REVIEW", "REJECT")
        assert (float(ratio) > 1) == (verdict == "REJECT")


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_documents_of_the_readme_exist() -> None:
    for target in re.findall(r"\]\(([\w/.-]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 100


def test_every_link_and_command_of_the_how_to_pages_exists() -> None:
    for page in (ROOT / "docs" / "howto").glob("*.md"):
        text = page.read_text()
        for target in re.findall(r"\]\(([\w/.-]+)\)", text):
            assert (page.parent / target).exists(), (page.name, target)
        for command in re.findall(r"^dskd ([\w.]+)", text, re.M):
            assert command in COMMANDS, (page.name, command)
