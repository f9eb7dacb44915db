"""``--help`` teaches at once: no command loads a training library for it."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT

from dskd.__main__ import COMMANDS

SCRIPT = """
import contextlib, io, json, sys
from dskd.__main__ import COMMANDS, main
from dskd.benchmarks.__main__ import NAMES
from dskd.jetson.__main__ import COMMANDS as DEVICE
told, loaded = {}, {}
def ask(*words):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    told[" ".join(words)] = text.getvalue()
ask()
for name in COMMANDS:
    ask(name)
    loaded[name] = sorted({"torch", "matplotlib", "ray", "safetensors", "onnxsim"} & set(sys.modules))
for name, (module, _) in DEVICE.items():
    if ".lab." not in module:
        ask("jetson", name)
ask("station", "test-output")
for name in NAMES:
    ask("benchmarks", name)
print(json.dumps([told, loaded]))
"""


@pytest.fixture(scope="module")
def asked() -> tuple[dict[str, str], dict[str, list[str]]]:
    """What each command says to ``--help``, by its words; and the libraries for training that were loaded by then."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, loaded = json.loads(done.stdout)
    return told, loaded


def test_no_help_waits_for_a_training_library(asked: tuple[dict[str, str], dict[str, list[str]]]) -> None:
    assert asked[1] == {name: [] for name in COMMANDS}


def test_every_help_has_examples_that_can_be_typed(asked: tuple[dict[str, str], dict[str, list[str]]]) -> None:
    told, _ = asked
    assert len(told) > 40
    for command, text in told.items():
        assert text.startswith("usage: "), command
        assert "``" not in text, command
        _, found, examples = text.partition("\nexamples")
        assert found, f"dskd {command} --help has no examples"
        word = command.split()[-1] if command else "train"
        assert re.search(rf"^  .*\b(dskd|python -m|torchrun|make)\b.*\b{re.escape(word)}\b", examples, re.M), command


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
