"""From a trained run to a bundle, and from a bundle to an engine. ``dskd.export(run)`` is ``dskd export.onnx`` from Python."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Command(ModuleType):
    """A package that can be called: ``dskd.export`` is the command as well as the place of its modules."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See ``dskd.export.onnx.export_run``."""
        from dskd.export.onnx import export_run

        return export_run(*arguments, **options)


sys.modules[__name__].__class__ = _Command
