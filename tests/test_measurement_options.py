"""Every option that a measurement offers is read by it: one without effect is refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
from jetson_trees import jetson
from tiny_bundle import tiny_bundle

from dskd.benchmarks import coldstart, contenders, energy, latency, memory, parity, throughput, tiles
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import CallError


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


class Watched(argparse.Namespace):
    """Options that know which of them were read."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> object:
        Watched.read.add(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("part", [parity, memory, coldstart, energy, throughput, latency, tiles])
def test_every_option_is_read_and_others_are_refused(part: ModuleType, small: Bundle, tmp_path: Path) -> None:
    short = {"frames": "100", "launches": "1", "rounds": "1", "seconds": "0.02", "batches": "1", "cameras": "1"}
    given = {"bundle": str(small.path), "backend": "onnxruntime", **short, "size": "64x64", "sides": "64"}
    offered = set(vars(part.parser().parse_args([]))) - {"out", "json"}
    words = [word for name in sorted(offered & set(given)) for word in (f"--{name}", given[name])]
    options = part.parser().parse_args([*words, "--json"], Watched())
    options.no_floor = True
    Watched.read.clear()
    more = [jetson(tmp_path / "nx", "nx", "jp6")] if part is energy else []
    part.run(options, contenders.blank([]), *more)
    assert offered - {"no_floor"} <= Watched.read
    for name in set(contenders.OFFERS) - offered:
        with pytest.raises(CallError, match="unrecognized arguments"):
            part.parser().parse_args([f"--{name}", "1"])
