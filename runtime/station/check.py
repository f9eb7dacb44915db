"""``dskd station FILE --check-config``: what would run, what is wrong in the file, which address is taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dskd.runtime.atomic import writer_of
from dskd.runtime.bundle.loading import load_bundle
from dskd.runtime.configuration.fields import split_address
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.listening import listen_at, listener_of
from dskd.runtime.station.config import StationConfig
from dskd.runtime.station.load import read_station


def check(file: Path) -> int:
    """Prints what would run and every fault, each on its line; returns the exit code."""
    config, faults = read_station(file)
    for fault in faults:
        print(fault)
    if config is None:
        return 2
    failed = bool(faults)
    for name, recipe in config.recipes.items():
        try:
            bundle = load_bundle(recipe.bundle)
            print(f"recipe {name}: bundle {bundle.id}, fail-safe {recipe.fail_safe}")
        except DskdError as error:
            failed = True
            print(one_line(f"recipe {name}: {error}"))
    for line in describe(config):
        print(one_line(line))
    taken = list(_taken(config))
    for line in taken:
        print(one_line(line))
    if failed:
        print("the file is wrong")
        return 2
    print(
        "the file is right, and an address is taken: the station would not start now" if taken else "the file is right"
    )
    return 1 if taken else 0


def _taken(config: StationConfig) -> Iterator[str]:
    """Listening addresses that cannot be had now, except those that this station itself listens at while it runs."""
    runs = writer_of(config.data)
    for setting, address in _addresses(config):
        host, port = split_address(address)
        try:
            listen_at(host, port, setting, setting).close()
        except DskdError as error:
            owner = listener_of(host, port)
            if runs is None or owner not in (None, runs):
                yield str(error)


def _addresses(config: StationConfig) -> Iterator[tuple[str, str]]:
    if config.web:
        yield "web.listen", config.web.listen
    if config.metrics:
        yield "metrics.listen", config.metrics.listen
    for name, output in config.outputs.items():
        for key, claim in output.claims():
            if key == "listen":
                yield f"outputs.{name}.listen", str(claim)


def describe(config: StationConfig) -> list[str]:
    """What would run, a line each; variables are not replaced."""
    lines = [f"station {config.name}, data in {config.data}"]
    lines += [
        f"camera {n}: {without_password(c.source)}, recipe {c.recipe}, trigger {c.trigger.kind}"
        for n, c in config.cameras.items()
    ]
    lines += [f"output {name}: {output.kind}" for name, output in config.outputs.items()]
    lines += [f"sink {name}: {sink.kind}" for name, sink in config.sinks.items()]
    lines += [f"page on {config.web.listen}"] if config.web else ["no page"]
    return lines + ([f"metrics on {config.metrics.listen}"] if config.metrics else [])
