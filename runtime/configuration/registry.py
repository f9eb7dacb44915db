"""What is chosen by name: the kinds that the product brings, and those that installed packages add by entry points.

A kind is imported when it is asked for. Installed packages are searched only where a name is not built in, or where
all names are wanted (help, schemas): the search reads a file of every package and would cost each start tens of
milliseconds. ``DSKD_DISABLE_PLUGINS=1`` leaves other packages out.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, distributions
from typing import Generic, TypeVar

from dskd.runtime.errors import CallError, DskdError, one_line

DISABLE = "DSKD_DISABLE_PLUGINS"
PREFIX = "dskd."  # of all entry point groups
Kind = TypeVar("Kind")
_log = logging.getLogger(__name__)


class Registry(Generic[Kind]):
    """Kinds of one sort by name.

    ``what`` is the sort's word in messages, ``group`` the entry point group, ``built_in`` the module and attribute of
    each built-in kind. ``check`` raises TypeError or ValueError where what a package brings under a name is no such kind.
    """

    def __init__(
        self, what: str, group: str, built_in: Mapping[str, str], check: Callable[[str, Kind], None] = lambda *_: None
    ) -> None:
        self.what, self.group, self.built_in = what, group, dict(built_in)
        self._check = check
        self._loaded: dict[str, Kind] = {}
        self._reported: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._installed()

    def __len__(self) -> int:
        return len(self.built_in) + len(self._installed())

    def __iter__(self) -> Iterator[str]:
        """All names, the built-in ones first; nothing is imported."""
        yield from self.built_in
        yield from sorted(self._installed())

    def __getitem__(self, name: str) -> Kind:
        """The kind of that name. Raises CallError where there is none, DskdError where its package is broken."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def all(self) -> dict[str, Kind]:
        """Every kind that can be used; one that cannot is reported in one line, once."""
        found = {}
        for name in self:
            try:
                found[name] = self[name]
            except DskdError as error:
                if name not in self._reported:
                    self._reported.add(name)
                    _log.warning("passed over: %s", one_line(str(error)))
        return found

    def unknown(self, name: str) -> CallError:
        """What is said where there is no kind of that name."""
        near = difflib.get_close_matches(name, list(self), 1)
        hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(self)}"
        return CallError(f"no {self.what} is called {one_line(name)[:64]!r}; {hint}")

    def _load(self, name: str) -> Kind:
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            kind: Kind = getattr(import_module(module), attribute)
            return kind
        installed = self._installed().get(name)
        if installed is None:
            raise self.unknown(name)
        owners = sorted({_owner(point) for point in installed})
        if len(installed) > 1:
            raise DskdError(f"{self.what} {name} is brought by {' and '.join(owners)}; uninstall all but one")
        try:
            found: Kind = installed[0].load()
            self._check(name, found)
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything
            reason = str(error) if isinstance(error, DskdError) else f"{type(error).__name__}: {error}"
            text = f"{self.what} {name} of the package {owners[0]} cannot be used ({one_line(reason)[:400]})"
            raise DskdError(f"{text}; update or uninstall the package") from error
        return found

    def _installed(self) -> dict[str, list[EntryPoint]]:
        """What packages bring, by name. A built-in name is the product's own, whatever a package says."""
        if os.environ.get(DISABLE):
            return {}
        found: dict[str, list[EntryPoint]] = {}
        for point in _entry_points(tuple(sys.path)):
            if point.group == self.group and point.name not in self.built_in:
                found.setdefault(point.name, []).append(point)
        return found


@cache
def _entry_points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of this product's groups on ``path``; a package whose own files cannot be read brings none."""
    found, seen = list[EntryPoint](), set[str]()
    for package in distributions(path=list(path)):
        try:
            points = [point for point in package.entry_points if point.group.startswith(PREFIX)]
            name = package.metadata["Name"] if points else ""
            if points and name not in seen:  # the first on the path is the one that is imported
                seen.add(name)
                found += points
        except Exception as error:
            _log.warning(
                "passed over: the entry points of an installed package cannot be read (%s)", one_line(repr(error))
            )
    return tuple(found)


def _owner(point: EntryPoint) -> str:
    package = getattr(point, "dist", None)
    return "of an unknown name" if package is None else f"{package.metadata['Name']} {package.version}"
