"""Training methods by name. Each file here but ``base`` is one, under the file's name: its ``METHOD`` says which class.

Packages bring more by the entry point group ``dskd.methods``; docs/plugins.md shows how. Nothing is imported until a
method is asked for.
"""

from __future__ import annotations

import pkgutil
from inspect import isabstract
from typing import TYPE_CHECKING

from dskd.runtime.configuration.registry import Registry

if TYPE_CHECKING:
    from dskd.train.methods.base import Method

_FILES = [file.name for file in pkgutil.iter_modules(__path__) if file.name != "base"]


def _check(name: str, found: type[Method]) -> None:
    """Raises TypeError or ValueError where a package's method would break the configuration of every run."""
    from dskd.runtime.configuration.strict_yaml import Strict
    from dskd.train.methods.base import Method
    from dskd.train.settings import RunConfig

    if not isinstance(found, type) or not issubclass(found, Method) or isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise TypeError(f"needs a class that is a Method{f', with {missing}' if missing else ''}")
    if not name.isidentifier() or name in RunConfig.model_fields:
        raise ValueError("its name is no word of its own: it names a section of the settings")
    if not (isinstance(found.Settings, type) and issubclass(found.Settings, Strict)):
        raise TypeError("its Settings are no Strict model")
    if unknown := found.recipe.keys() - RunConfig.model_fields.keys():
        raise ValueError(f"its recipe holds unknown sections: {', '.join(sorted(unknown))}")


METHODS: Registry[type[Method]] = Registry(
    "method", "dskd.methods", {name: f"{__name__}.{name}:METHOD" for name in _FILES}, _check
)

__all__ = ["METHODS"]
