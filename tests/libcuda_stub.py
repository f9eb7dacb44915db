"""Builds libcuda_stub.c: a driver without a GPU behind it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT


def build_stub(folder: Path) -> Path:
    """``folder`` with a libcuda.so.1 in it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the stub of the driver was not built")
    source, library = ROOT / "tests/libcuda_stub.c", folder / "libcuda.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source, "-ldl"], check=True
    )
    return folder
