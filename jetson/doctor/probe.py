"""What a Python finds when it imports a library: each in a process of its own, for a wrong ABI can crash it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass

LIBRARIES = ("numpy", "cv2", "tensorrt", "onnxruntime", "cuda.bindings", "pycuda")
PATIENCE = 60.0  # seconds; the first import on a cold SD card takes several
_SCRIPT = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
gstreamer = None
if sys.argv[1] == "cv2":
    lines = [line for line in module.getBuildInformation().splitlines() if "GStreamer:" in line]
    gstreamer = bool(lines) and "YES" in lines[0]
json.dump([str(getattr(module, "__version__", "")), str(module.__file__), gstreamer], sys.stdout)
"""


@dataclass(frozen=True)
class Library:
    """A library: ``version`` and ``file``, or ``error`` where it does not import (``missing`` where it is absent)."""

    version: str = ""
    file: str = ""
    gstreamer: bool | None = None
    error: str = ""
    missing: bool = False


_CUDA = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
status = driver.cuInit(0)
if status:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    raise SystemExit(f"cuInit gives {status} {(name.value or b'').decode()}")
"""


def cuda_refusal(python: str, user: str | None) -> str:
    """Why CUDA does not start for that user (None: this one), empty where it does."""
    words = [python, "-c", _CUDA] if user is None else ["runuser", "-u", user, "--", python, "-c", _CUDA]
    try:
        done = subprocess.run(  # noqa: S603
            words, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]


def probe(python: str) -> dict[str, Library]:
    """Imports each library with that Python."""
    return {name: _look(python, name) for name in LIBRARIES}


def _look(python: str, name: str) -> Library:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(  # noqa: S603
            [python, "-c", _SCRIPT, name], capture_output=True, text=True, errors="replace", timeout=PATIENCE,
            check=False, cwd="/", env={**environment, "ORT_DISABLE_TELEMETRY": "1"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Library(error=f"{python}: {error}")
    if done.returncode == 0:
        version, file, gstreamer = json.loads(done.stdout.splitlines()[-1])
        return Library(version, file, gstreamer)
    lines = done.stderr.strip().splitlines() or [f"Python ended with {done.returncode}"]
    # numpy's ABI complaint stands many lines above the ImportError that follows from it
    abi = next((line for line in lines if "_ARRAY_API" in line or "compiled using NumPy 1" in line), "")
    return Library(
        error=" ".join(filter(None, (abi, lines[-1])))[:300], missing=f"No module named '{name}'" in lines[-1]
    )
