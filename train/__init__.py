"""Networks, methods and the loop that trains them. ``dskd.train(data)`` is the command ``dskd train`` from Python."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Command(ModuleType):
    """A package that can be called: ``dskd.train`` is the command as well as the place of its modules."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See ``dskd.train.__main__.train``."""
        from dskd.train.__main__ import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _Command
