"""PyGObject of the operating system, also from a virtual environment that does not see the system's packages.

GStreamer and Aravis come with the distribution, as does PyGObject, built for the distribution's Python. A virtual
environment of the same Python version can load it; only this one package is taken from there, so that no other package
of the system shadows the environment's.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from dskd.runtime.errors import MissingPart

SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")  # of Debian and Ubuntu, JetPack included
_lock = threading.Lock()


def typelib(name: str, version: str, package: str) -> ModuleType:
    """The library ``name`` through GObject introspection. Raises MissingPart that names the system ``package``."""
    gi = _gi(package)
    try:
        gi.require_version(name, version)
        return importlib.import_module(f"gi.repository.{name}")
    except (ValueError, ImportError) as error:
        raise MissingPart(f"{name} {version} is not installed; apt install {package}") from error


def _gi(package: str) -> ModuleType:
    with _lock, suppress(OSError):
        # GStreamer brings libunwind, for all of the process, and C++ libraries loaded later would throw by its functions
        # and catch by the compiler's: a crash (OpenVINO). First come, first served: the compiler's own come first.
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)
    with _lock:
        try:
            return importlib.import_module("gi")
        except ImportError:
            return _load_system_gi(SYSTEM_PACKAGES / "gi", package)


def _load_system_gi(folder: Path, package: str) -> ModuleType:
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    if not any(folder.glob(f"_gi.cpython-{version}-*.so")):
        raise MissingPart(
            f"PyGObject for Python {sys.version_info.major}.{sys.version_info.minor} is not installed; "
            f"apt install python3-gi {package}, and use the system's python3 for the virtual environment"
        )
    spec = importlib.util.spec_from_file_location(
        "gi", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gi"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["gi"]
        raise
    return module
