"""``--help`` teaches at once: no command loads a training library for it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT

from dskd.__main__ import COMMANDS

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


def parser_of(command: str) -> argparse.ArgumentParser | None:
    """The options of a command, where it has one set of them."""
    module = import_module(COMMANDS[command][0])
    if not hasattr(module, "parser") and hasattr(module, "__path__"):
        module = import_module(f"{module.__name__}.__main__")
    return module.parser() if hasattr(module, "parser") else None


@pytest.mark.parametrize("command", [name for name in COMMANDS if parser_of(name)])
def test_help_tells_what_an_option_takes_and_what_it_is_without(command: str) -> None:
    options = parser_of(command)
    assert options is not None
    text = options.format_help()
    assert "``" not in text
    for action in options._actions:
        if action.option_strings and action.nargs != 0:
            shown = action.metavar or action.choices or ""
            assert shown != action.dest.upper(), f"{action.option_strings}: says its name again"
            if action.default not in (None, [], False):
                assert "default" in str(action.help), f"{action.option_strings}: its default is {action.default}"
