"""DSKD Edge: visual inspection that learns from good parts only.

    import dskd

    model = dskd.load("runs/latest/bundle")
    result = model("part.png")
    print(result.verdict, result.ratio)

``load`` inspects; ``train``, ``export`` and ``calibrate`` are the commands of those names and return the path of what
they made. These, ``Model``, ``Result``, ``Verdict``, ``Region`` and the errors are the public interface; modules below
``dskd`` may change from version to version.

In a checkout the entries beside this file are links to the folders at the top; installed, they are its packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "CallError": "dskd.runtime.errors", "DskdError": "dskd.runtime.errors", "MissingPart": "dskd.runtime.errors",
    "Model": "dskd.runtime.model", "Result": "dskd.runtime.model", "load": "dskd.runtime.model",
    "Region": "dskd.runtime.result", "Verdict": "dskd.runtime.result",
    "calibrate": "dskd.calibration.__main__",
}  # fmt: skip
__all__ = ["CallError", "DskdError", "MissingPart", "Model", "Region", "Result", "Verdict", "calibrate", "export", "load", "train"]  # fmt: skip

if TYPE_CHECKING:
    from dskd.calibration.__main__ import calibrate as calibrate
    from dskd.export.onnx import export_run as export
    from dskd.runtime.errors import CallError as CallError
    from dskd.runtime.errors import DskdError as DskdError
    from dskd.runtime.errors import MissingPart as MissingPart
    from dskd.runtime.model import Model as Model
    from dskd.runtime.model import Result as Result
    from dskd.runtime.model import load as load
    from dskd.runtime.result import Region as Region
    from dskd.runtime.result import Verdict as Verdict
    from dskd.train.__main__ import train as train

    __version__: str


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then: ``import dskd`` alone takes no time."""
    if name in ("train", "export"):  # packages that can be called, see their __init__
        return import_module(f"dskd.{name}")
    if name == "__version__":
        return import_module("dskd.runtime.imports").version()
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dskd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
