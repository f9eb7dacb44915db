"""A backend for a bundle, opened and proved on the golden frames."""

from __future__ import annotations

import sys
from functools import partial

from dskd.runtime import user_cache
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import NotExact
from dskd.runtime.inspection.backends import Backend, candidates, first_that
from dskd.runtime.inspection.backends.base import cpu_words
from dskd.runtime.inspection.golden import GoldenCheck, golden_check

COMPUTE = ("cv2", "numpy", "onnxruntime", "openvino", "tensorrt")  # a new version of one is proved anew


def open_proved(
    bundle: Bundle, name: str = "auto", threads: int = 0, precision: Precision | None = None, quick: bool = False
) -> tuple[Backend, GoldenCheck]:
    """The first of ``dskd.runtime.inspection.backends.candidates`` that opens and passes its golden check.

    What is passed over is said on stderr with the reason. Raises DskdError where none is left. With ``quick``, where the
    same bundle was tried before on the same backend, libraries and CPU, one frame is enough if it passed, and none is
    run and nothing said again if it did not.
    """
    prove = _quick_check if quick else golden_check
    return first_that(partial(prove, bundle), candidates(bundle, name, threads, precision))


def _quick_check(bundle: Bundle, backend: Backend) -> GoldenCheck:
    key = user_cache.key_of(bundle.id, backend.name, backend.graph, _libraries(), *sorted(cpu_words()))
    if backend.name.startswith("tensorrt"):
        return golden_check(bundle, backend)
    if (before := user_cache.get("inexact", key)) is not None:
        raise NotExact(before.tobytes().decode(errors="replace"), told=True)
    if user_cache.get("proved", key) is not None:
        return golden_check(bundle, backend, 1)
    try:
        check = golden_check(bundle, backend)
    except NotExact as error:
        user_cache.put("inexact", key, str(error).encode(), keep=64)
        raise
    user_cache.put("proved", key, b"proved", keep=64)
    return check


def _libraries() -> str:
    """What computes, with versions."""
    return " ".join(sorted(f"{name} {getattr(sys.modules.get(name), '__version__', '')}" for name in COMPUTE))
