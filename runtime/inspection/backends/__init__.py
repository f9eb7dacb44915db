"""What runs a bundle's graph. Each backend is a module here; ``candidates`` says which to try, best first.

Packages bring more by the entry point group ``dskd.backends``; docs/plugins.md shows how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from dskd.runtime.bundle.loading import FLOAT, Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.configuration.registry import Registry
from dskd.runtime.errors import CallError, DeviceLost, DskdError, MissingPart, NotExact, one_line
from dskd.runtime.inspection.backends.base import Backend, Output, cpu_words
from dskd.runtime.inspection.engine import engine_paths, read_facts
from dskd.runtime.verbosity import note

BEST_FIRST: tuple[Precision, ...] = ("int8", "fp16", "fp32")
Proof = TypeVar("Proof")


@dataclass(frozen=True)
class Candidate:
    """A backend that was not opened yet."""

    library: str
    open: Callable[[], Backend]


@dataclass(frozen=True)
class BackendKind:
    """What is registered under a backend's name.

    ``candidates`` gets bundle, threads (0: all cores that this process may use) and precision (None: the backend's
    choice) and gives what to try in turn. It imports no library of the device: that is for a candidate's ``open``.
    """

    candidates: Callable[[Bundle, int, Precision | None], list[Candidate]]


def _check(name: str, found: BackendKind) -> None:
    """Raises TypeError where what a package brings is no kind of backend."""
    if not isinstance(found, BackendKind):
        raise TypeError("needs a BackendKind")


BACKENDS: Registry[BackendKind] = Registry(
    "backend",
    "dskd.backends",
    {name: f"{__name__}:{name.upper()}" for name in ("auto", "onnxruntime", "openvino", "tensorrt")},
    _check,
)


def candidates(bundle: Bundle, name: str, threads: int = 0, precision: Precision | None = None) -> list[Candidate]:
    """Backends to try in turn. ``threads`` 0 is all cores that this process may use; ``precision`` None the backend's.

    * ``tensorrt``: the fastest precision whose engine is in the bundle.
    * ``openvino``: float, in bf16 where the CPU has it and the bundle records what that changes, else fp32. INT8 when
      asked for; what its graph leaves in float is then in bf16 where the CPU has it.
    * ``onnxruntime``: fp32.
    * ``auto``: tensorrt where the bundle has engines, onnxruntime where it computes on a GPU, openvino where it is
      installed, onnxruntime. A backend that a package brings is tried where it is named.
    """
    return BACKENDS[name].candidates(bundle, threads, precision or _only_one(bundle))


def _only_one(bundle: Bundle) -> Precision | None:
    """The precision of a bundle that was packed without its float graph; None where a backend may choose."""
    if FLOAT in bundle.manifest.files or not bundle.manifest.graphs:
        return None
    found = {graph.precision for graph in bundle.manifest.graphs.values()}
    return next((precision for precision in BEST_FIRST if precision in found), None)


def open_backend(
    bundle: Bundle, name: str = "onnxruntime", threads: int = 0, precision: Precision | None = None
) -> Backend:
    """The first of the ``candidates`` that opens; what is passed over is said on stderr with the reason.

    Nothing is proved of it: see ``dskd.runtime.inspection.proved.open_proved``.
    """
    return first_that(lambda backend: None, candidates(bundle, name, threads, precision))[0]


def first_that(
    prove: Callable[[Backend], Proof],
    tried: list[Candidate],
    again: bool = False,
    passed: Callable[[Candidate, DskdError], None] | None = None,
) -> tuple[Backend, Proof]:
    """The first backend that opens and for which ``prove`` raises nothing, with what it gave.

    ``passed`` hears of each that is passed over, with the reason. Where a library or its device is missing, the rest of
    what needs it is not tried. Raises the last DskdError; DeviceLost
    at once where this process had a backend before (``again``), since a new process may use the device.
    """
    inexact = list[NotExact]()
    while True:
        candidate, *tried = tried
        try:
            backend = _opened(candidate)
            try:
                proof = prove(backend)
            except BaseException:
                backend.close()
                raise
        except DskdError as error:
            if isinstance(error, MissingPart):
                tried = [other for other in tried if other.library != candidate.library]
            if not tried or (again and isinstance(error, DeviceLost)):
                raise
            if passed is not None:
                passed(candidate, error)
            if isinstance(error, NotExact):
                inexact.append(error)
            else:
                note(f"passed over: {one_line(str(error))}")
        else:
            for wrong in inexact:
                if not wrong.told:
                    note(f"{one_line(str(wrong))}; using {backend.name} instead")
            return backend, proof


def _opened(candidate: Candidate) -> Backend:
    try:
        return candidate.open()
    except (DskdError, OSError):
        raise
    except Exception as error:  # a package's code may raise anything
        raise DskdError(f"backend {candidate.library}: cannot be opened ({type(error).__name__}: {error})") from error


def _auto(bundle: Bundle, threads: int, precision: Precision | None) -> list[Candidate]:
    found = _tensorrt(bundle, threads, precision) if _engines(bundle, precision) else []
    if find_spec("openvino") and not _onnxruntime_on_gpu():
        found += _openvino(bundle, threads, precision)
    return found if found and precision == "bf16" else found + _onnxruntime(bundle, threads, precision)


def _tensorrt(bundle: Bundle, threads: int, precision: Precision | None) -> list[Candidate]:
    def opened(chosen: Precision) -> Backend:
        from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend

        return TensorRtBackend(bundle, chosen)

    _refuse_bf16("tensorrt", precision)
    return [
        Candidate("tensorrt", partial(opened, chosen))
        for chosen in _engines(bundle, precision) or [precision or "fp16"]
    ]


def _openvino(bundle: Bundle, threads: int, precision: Precision | None) -> list[Candidate]:
    def opened(chosen: Precision, rest: Precision = "fp32") -> Backend:
        from dskd.runtime.inspection.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(bundle, chosen, threads, rest)

    fast = _cpu_has_bf16()
    if precision == "int8":
        tried = [partial(opened, "int8", "bf16")] if fast else []
        tried.append(partial(opened, "int8"))
    elif precision is None and fast and "model.onnx@bf16" in bundle.manifest.graphs:
        tried = [partial(opened, "bf16"), partial(opened, "fp32")]
    else:
        tried = [partial(opened, precision or "fp32")]
    return [Candidate("openvino", found) for found in tried]


def _onnxruntime(bundle: Bundle, threads: int, precision: Precision | None) -> list[Candidate]:
    def opened() -> Backend:
        from dskd.runtime.inspection.backends.onnx_runtime import GRAPHS, OnnxRuntimeBackend

        return OnnxRuntimeBackend(bundle, GRAPHS[precision or "fp32"], threads)

    _refuse_bf16("onnxruntime", precision)
    return [Candidate("onnxruntime", opened)]


def _refuse_bf16(name: str, precision: Precision | None) -> None:
    if precision == "bf16":
        raise CallError(f"{name} does not compute in bf16; use --backend openvino, or another --precision")


def _engines(bundle: Bundle, precision: Precision | None) -> list[Precision]:
    """Precisions that were asked for and have a plan, whether it fits or not; the fastest first, as far as measured."""
    wanted = BEST_FIRST if precision is None else (precision,)
    found = [candidate for candidate in wanted if engine_paths(bundle, candidate)[0].is_file()]
    times = {candidate: _measured(bundle, candidate) for candidate in found if len(found) > 1}
    compared = sorted((one for one in found if times.get(one)), key=lambda one: times[one] or 0.0)
    return [*compared, *(one for one in found if one not in compared)] if len(compared) > 1 else found


def _measured(bundle: Bundle, precision: Precision) -> float | None:
    """A picture's milliseconds, where ``export.trt --best`` compared this engine with another."""
    try:
        return read_facts(engine_paths(bundle, precision)[1]).latency_ms
    except DskdError:
        return None


def _onnxruntime_on_gpu() -> bool:
    """Whether the onnxruntime that is installed brings CUDA; its import, which would tell too, takes long."""
    package = find_spec("onnxruntime")
    if package is None or package.origin is None:
        return False
    return any(Path(package.origin).parent.glob("capi/*onnxruntime_providers_cuda*"))


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself (AVX512-BF16, AMX, Arm's BF16)."""
    return not cpu_words().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


AUTO, TENSORRT = BackendKind(_auto), BackendKind(_tensorrt)
OPENVINO, ONNXRUNTIME = BackendKind(_openvino), BackendKind(_onnxruntime)

__all__ = ["BACKENDS", "Backend", "BackendKind", "Candidate", "Output", "candidates", "first_that", "open_backend"]
