"""Everything that a user or another program can name: commands, options, keys, schemes, routes, metrics."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from unittest.mock import MagicMock, patch

import dskd
from dskd.__main__ import COMMANDS
from dskd.benchmarks.lab.documents.references import PAGES, sections
from dskd.runtime.capture.sources import SOURCES
from dskd.runtime.metrics import CameraNumbers, Metrics, Snapshot
from dskd.runtime.sinks import SCHEMES, SINKS
from dskd.runtime.web.app import endpoints


class Built(BaseException):
    """A command's parser was built; no part of a command takes it for a failure."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def interface() -> list[str]:
    """A line for each name, sorted."""
    names = (f"python dskd.{name}" for name in dskd.__all__)
    return sorted({*commands(), *keys(), *schemes(), *routes(), *metrics(), *names})


def commands() -> Iterator[str]:
    for name, (module, _) in COMMANDS.items():
        yield f"command dskd {name}"
        if name in ("jetson", "benchmarks"):
            yield from _inner(name)
            continue
        package = importlib.util.find_spec(f"{module}.__main__") if _is_package(module) else None
        yield from _options(name, importlib.import_module(f"{module}.__main__" if package else module).main, [])


def _inner(name: str) -> Iterator[str]:
    """Commands below a command."""
    found = importlib.import_module(f"dskd.{name}.__main__")
    names = found.COMMANDS if name == "jetson" else {**found.NAMES, **getattr(found, "LAB", {})}
    for inner in names:
        yield f"command dskd {name} {inner}"
        yield from _options(f"{name} {inner}", found.main, [inner])


def _options(name: str, main: Callable[[list[str]], int], words: list[str]) -> Iterator[str]:
    def built(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Built(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", built), patch("signal.signal"):
        try:
            main(words)
        except Built as reached:
            yield from _actions(name, reached.parser)
            return
    raise AssertionError(f"{name} reads no options")


def _actions(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner, inside in action.choices.items():
                yield f"command dskd {name} {inner}"
                yield from _actions(f"{name} {inner}", inside)
            continue
        words = action.option_strings or [action.dest]
        yield from (f"option dskd {name} {word}" for word in words)
        if action.choices is not None:
            yield from (f"option dskd {name} {words[-1]} {choice}" for choice in action.choices)


def keys() -> Iterator[str]:
    """Keys of every settings file; of a key with fixed words, the words."""
    for page, (model, _, _) in PAGES.items():
        for heading, _, rows in sections(model.model_json_schema()):
            kind = heading.partition(", kind: ")[2]
            for key, value, _, _ in rows:
                name = f"{page.removesuffix('.md')} {key.strip('`')}" + (f" ({kind})" if kind else "")
                yield f"key {name}"
                if value.startswith("`"):
                    yield from (f"key {name}: {word}" for word in re.findall(r"`([^`]+)`", value))


def schemes() -> Iterator[str]:
    """Kinds of sources and sinks that a URI can name."""
    yield from (f"source {scheme}://" for scheme in SOURCES)
    yield from (f"sink {scheme}://" for scheme in [*SINKS, *SCHEMES])


def routes() -> Iterator[str]:
    """What the page's server answers, with what each takes."""
    for endpoint in endpoints(MagicMock()):
        path = f"route {endpoint.method} {endpoint.path}"
        yield path
        body = [] if endpoint.body is None else endpoint.body.model_fields
        yield from (f"{path} {name}" for name in [*endpoint.query, *body])


def metrics() -> Iterator[str]:
    """What a scrape gives."""
    numbers = CameraNumbers(ready=True, waiting=0, missed_triggers=0, reconnects=0)
    page = Metrics(["top"], lambda: Snapshot({"top": numbers}, [], 0, 0)).page().decode()
    yield from (f"metric {name}" for name in re.findall(r"# TYPE (\w+)", page))


def _is_package(module: str) -> bool:
    found = importlib.util.find_spec(module)
    return found is not None and found.submodule_search_locations is not None


if __name__ == "__main__":
    print("\n".join(interface()))
