"""The runtime alone, in an environment that holds the device requirements and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from runtime.bundle import Bundle

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

HEAVY = ("torch", "onnx", "onnxsim", "scipy", "sklearn", "matplotlib", "PIL", "safetensors", "tqdm")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``runtime/`` and a bare virtual environment with the base requirements."""
    folder = tmp_path_factory.mktemp("device")
    shutil.copytree(ROOT / "runtime", folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pip = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    subprocess.run(pip, check=True)
    return folder


def run(device: Path, *arguments: object, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home or device)}
    words = [device / "venv/bin/python", *map(str, arguments)]
    return subprocess.run(words, cwd=device, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_runtime_inspects_where_torch_and_the_other_rooms_are_absent(
    device: Path, bundle: Bundle, small_set: Path
) -> None:
    absent = [*HEAVY, "train", "export", "calibration", "benchmarks", "jetson"]
    probe = f"from importlib.util import find_spec; print([m for m in {absent!r} if find_spec(m)])"
    assert run(device, "-c", probe).stdout.strip() == "[]"
    done = run(device, "-m", "runtime", "--bundle", bundle.path, "--source", small_set / "test", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["inspected"] == 14


@pytest.mark.slow
def test_every_runtime_module_imports_and_help_needs_no_bundle(device: Path) -> None:
    modules = [
        str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in sorted((ROOT / "runtime").rglob("*.py"))
    ]
    # the page alone needs more than the base: its web server comes with .[line]
    modules = [m.removesuffix(".__init__") for m in modules if not m.endswith("__main__") and ".web" not in m]
    done = run(device, "-c", "; ".join(f"import {m}" for m in modules))
    assert done.returncode == 0, done.stderr
    assert "examples:" in run(device, "-m", "runtime", "--help").stdout


@pytest.mark.slow
def test_onnxruntime_telemetry_is_off(device: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Where it is on, onnxruntime makes a database below the home folder before it opens sockets."""
    done = run(device, "-m", "runtime", "--bundle", bundle.path, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*onnxruntime*"))
