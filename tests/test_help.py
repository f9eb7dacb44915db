"""``--help`` teaches at once: no command loads a training library for it."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

SCRIPT = """
import sys
from dskd.__main__ import COMMANDS, main
for name in COMMANDS:
    before = set(sys.modules)
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert not end.code, (name, end.code)
    heavy = {"torch", "matplotlib", "ray", "safetensors", "onnxsim"} & set(sys.modules)
    assert not heavy, (name, heavy)
"""


def test_no_help_waits_for_a_training_library() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") >= 14
