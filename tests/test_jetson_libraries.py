"""The libraries that each JetPack's constraints choose: the runtime inspects with them, not only with today's newest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_bundle import tiny_bundle

from dskd.jetson.wheels import TARGETS

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

# what apt gives the system there: OpenCV 4.6 is Ubuntu 24.04's, 4.8 NVIDIA's
SYSTEM = {"jp6": ["opencv-python-headless==4.8.0.76"], "jp7": ["opencv-python-headless==4.6.0.66", "numpy<2"]}


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="no NumPy 1 for this Python; the devices have 3.10 and 3.12")
@pytest.mark.parametrize("target", TARGETS)
def test_the_runtime_inspects_with_the_libraries_of_that_jetpack(target: str, tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["fleet"]]
    others = [word for word in wanted if not word.startswith("opencv")]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    limits = tmp_path / "limits"
    text = (ROOT / f"jetson/constraints-{target}.txt").read_text()
    limits.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith("opencv")))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", limits]
    subprocess.run([*pip, *others, *SYSTEM[target]], check=True)
    bundle = tiny_bundle(tmp_path / "bundle")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [python, "-m", *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    done = run("runtime", "--bundle", bundle.path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["inspected"] == bundle.manifest.golden
    checks = {
        check["name"]: check
        for check in json.loads(run("jetson", "doctor", "--json", "--bundle", bundle.path).stdout)["checks"]
    }
    assert checks["numpy"]["detail"].startswith("NumPy 1.")
    assert [name for name, check in checks.items() if check["status"] == "FAIL"] == []
