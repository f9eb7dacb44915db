"""Completion in a real shell: commands, a command's options, file names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from dskd.__main__ import COMMANDS

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dskd; printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    tool = tmp_path / "dskd"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dskd "$@"\n')
    tool.chmod(0o755)
    script = tmp_path / "script"
    script.write_bytes(subprocess.check_output([tool, "completion", "bash"], env=environment))

    def completed(*words: str) -> list[str]:
        call = ["bash", "--norc", "-c", BASH, "bash", script, *words]
        return subprocess.check_output(call, env=environment, text=True).split()

    assert completed("dskd", "ev") == ["evaluate"]
    assert set(completed("dskd", "")) == set(COMMANDS)
    assert completed("dskd", "pack", "--pre") == ["--precision"]
    assert completed("dskd", "pack", "part") == []  # file names are the shell's own


def test_zsh_gets_the_same_with_its_bridge(capsys: pytest.CaptureFixture[str]) -> None:
    from dskd.completion import main

    main(["zsh"])
    assert capsys.readouterr().out.startswith("autoload -Uz compinit bashcompinit")
