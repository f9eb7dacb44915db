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

from dskd.jetson.wheels import TARGETS, pip_words
from dskd.runtime.bundle.loading import Bundle

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
OF_VENV = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
LIMIT = 320  # MB, OpenCV included
HEAVY = ("torch", "onnx", "onnxsim", "scipy", "sklearn", "matplotlib", "PIL", "safetensors", "tqdm")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``dskd/runtime/`` and a bare virtual environment with the base requirements."""
    folder = tmp_path_factory.mktemp("device")
    shutil.copytree(ROOT / "runtime", folder / "dskd/runtime", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dskd/__init__.py", folder / "dskd")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    subprocess.run([folder / "venv/bin/python", *PIP, *base()], check=True)
    return folder


def base() -> list[str]:
    """What the runtime requires."""
    found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return found


def megabytes(folder: Path, without: str = "") -> float:
    """Of the files in a folder of packages, those of Python's own venv aside; ``without`` those of one suffix."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.relative_to(folder).parts[0].startswith(OF_VENV)]
    return sum(p.lstat().st_size for p in files if p.suffix != without) / 1e6


def run(device: Path, *arguments: object, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home or device)}
    words = [device / "venv/bin/python", *map(str, arguments)]
    return subprocess.run(words, cwd=device, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_runtime_inspects_where_torch_and_the_other_rooms_are_absent(
    device: Path, bundle: Bundle, small_set: Path
) -> None:
    absent = [*HEAVY, "dskd.train", "dskd.export", "dskd.calibration", "dskd.benchmarks", "dskd.jetson"]
    probe = f"from importlib.util import find_spec; print([m for m in {absent!r} if find_spec(m)])"
    assert run(device, "-c", probe).stdout.strip() == "[]"
    done = run(device, "-m", "dskd.runtime", "--bundle", bundle.path, "--source", small_set / "test", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["inspected"] == 14


@pytest.mark.slow
def test_every_runtime_module_imports_and_help_needs_no_bundle(device: Path) -> None:
    modules = [
        "dskd." + str(p.relative_to(ROOT).with_suffix("")).replace("/", ".")
        for p in sorted((ROOT / "runtime").rglob("*.py"))
    ]
    # the page alone needs more than the base: its web server comes with .[line]
    modules = [m.removesuffix(".__init__") for m in modules if not m.endswith("__main__") and ".web" not in m]
    done = run(device, "-c", "; ".join(f"import {m}" for m in modules))
    assert done.returncode == 0, done.stderr
    assert "examples:" in run(device, "-m", "dskd.runtime", "--help").stdout


@pytest.mark.slow
def test_onnxruntime_telemetry_is_off(device: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Where it is on, onnxruntime makes a database below the home folder before it opens sockets."""
    done = run(device, "-m", "dskd.runtime", "--bundle", bundle.path, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*onnxruntime*"))


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_base_of_a_device_is_small(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The device's own wheels, unpacked here; this Python's bytecode stands for the device's."""
    constraints = ROOT / "jetson" / f"constraints-{target}.txt"
    words = ["--target", tmp_path / "site", *pip_words(*TARGETS[target]), "--constraint", constraints]
    subprocess.run([sys.executable, *PIP, *words, *base()], check=True, capture_output=True)
    size = megabytes(tmp_path / "site")
    with capsys.disabled():
        print(f"\n{target}, aarch64: {size:.0f} MB, {megabytes(tmp_path / 'site', '.pyc'):.0f} MB of it not bytecode")
    assert size <= LIMIT


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the bound for devices is the one above")
def test_the_base_on_a_pc_is_small_but_for_bytecode(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """OpenCV's and onnxruntime's x86-64 wheels are half as large again as those for aarch64."""
    (site,) = (device / "venv").glob("lib/python3*/site-packages")
    size = megabytes(site, ".pyc")
    with capsys.disabled():
        print(f"\nx86-64: {megabytes(site):.0f} MB, {size:.0f} MB of it not bytecode")
    assert size <= LIMIT
