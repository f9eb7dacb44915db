"""Who is measured: a bundle's graphs on every backend that is here, each a worker of its own."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from dskd.benchmarks import yardstick
from dskd.benchmarks.environment import describe
from dskd.benchmarks.processes import Worker
from dskd.benchmarks.results import WORK, Results, as_json, table
from dskd.runtime.bundle.loading import Bundle, default_bundle, load_bundle
from dskd.runtime.bundle.manifest import PRECISIONS, Precision
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.capture.sources import frames, open_source
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import CallError, DskdError, MissingPart, Parser
from dskd.runtime.inspection.backends import BACKENDS as KNOWN
from dskd.runtime.result import Frame, Image

Workers = dict[str, Worker]
WORKER = (sys.executable, "-m", "dskd.benchmarks.worker")

BACKENDS = tuple(name for name in KNOWN if name != "auto")
OFFERS = ("bundle", "source", "size", "backend", "precision", "threads", "launches", "rounds", "seconds")
MOST_STILLS = 16  # frames of a source that are kept to be shown to several contenders


@dataclass(frozen=True)
class Contestant:
    """One graph on one backend."""

    bundle: Path
    backend: str
    precision: Precision
    threads: int

    @property
    def name(self) -> str:
        """As it is called in every table."""
        return f"{self.backend} {self.precision}"

    def worker(self, source: str, *more: object) -> Worker:
        """Its process, ready to work. Raises MissingPart or DskdError."""
        words = ["--bundle", self.bundle, "--backend", self.backend, "--precision", self.precision]
        words += ["--threads", self.threads, "--source", source, *more]
        return Worker([*WORKER, *words], name=self.name)


def add_options(
    parser: Parser, offers: Sequence[str] = OFFERS, rounds: int = 7, seconds: float = 0.6, launches: int = 3
) -> None:
    """Those of the shared options that a measurement reads; the others are refused rather than taken without effect."""
    known: dict[str, dict[str, Any]] = {
        "bundle": {"type": Path, "help": "bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)"},
        "source": {"help": "where frames come from (default: the bundle's golden frames at --size)"},
        "size": {"default": "1024x1024", "help": "of the golden frames (default: %(default)s)"},
        "backend": {"default": "", "help": f"separated by commas: {', '.join(BACKENDS)} (default: all that work here)"},
        "precision": {
            "default": "", "help": f"separated by commas: {', '.join(PRECISIONS)} (default: all in the bundle)"
        },
        "threads": {"type": int, "default": 0, "help": "CPU threads (default: the backend's choice)"},
        "launches": {
            "type": int, "default": launches, "help": "processes of each contender in turn (default: %(default)s)"
        },
        "rounds": {"type": int, "default": rounds, "help": "turns of each launch (default: %(default)s)"},
        "seconds": {"type": float, "default": seconds, "help": "of a contender's turn (default: %(default)s)"},
    }  # fmt: skip
    for name in offers:
        parser.add_argument(f"--{name}", **known[name])
    add_output(parser)


def add_output(parser: Parser) -> None:
    """Where results go."""
    parser.add_argument("--out", type=Path, help="write the results here as JSON, and a picture beside it (.svg)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def check(options: argparse.Namespace) -> None:
    """Raises CallError where a number that the command offers is senseless."""
    given = vars(options)
    for name in ("launches", "rounds"):
        if not 1 <= given.get(name, 1) <= 10_000:
            raise CallError(f"--{name} {given[name]} must lie between 1 and 10000")
    if not 0 < given.get("seconds", 1.0) <= 3600 or not 0 <= options.threads <= 1024:
        raise CallError("--seconds must lie between 0 and 3600, --threads between 0 (the backend's choice) and 1024")
    check_output(options.out)


def check_output(out: Path | None) -> None:
    """Before hours are measured: raises CallError where ``out`` cannot take results."""
    if out is None:
        return
    if out.suffix == ".svg":
        raise CallError(f"--out {out}: takes JSON, and the picture goes beside it; name it .json")
    if out.exists() and not out.is_file():
        raise CallError(f"--out {out}: is no file; name one")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise CallError(f"--out {out}: nothing can be written in {parent}; name another folder")


def own_bundle(options: argparse.Namespace) -> Bundle:
    """The bundle that is measured, every byte checked."""
    return load_bundle((options.bundle or default_bundle()).absolute())


def contestants(bundle: Bundle, options: argparse.Namespace, results: Results) -> list[Contestant]:
    """Those that open here; ``results`` learn what each really runs as, and why others do not open.

    Raises the first reason where none does.
    """
    backends = _chosen("--backend", options.backend, BACKENDS)
    precisions = _chosen("--precision", options.precision, PRECISIONS)
    had = {graph.precision for graph in bundle.manifest.graphs.values()}
    found, reasons = list[Contestant](), list[DskdError]()
    for backend in backends:
        for precision in (p for p in PRECISIONS if p in precisions and (options.precision or p in had)):
            contestant = Contestant(bundle.path, backend, precision, options.threads)
            try:
                with contestant.worker(golden_source(bundle)) as worker:
                    results.backends[contestant.name] = str(worker.ready["backend"])
            except DskdError as error:
                if str(error) not in map(str, reasons) and f"{contestant.name}: {error}" not in results.notes:
                    results.notes.append(f"{contestant.name}: {error}")  # of a missing GPU all its graphs say the same
                reasons.append(error)
            else:
                found.append(contestant)
    if not found:
        raise reasons[0]
    results.environment.update({name: shown(getattr(options, name, None)) for name in WORK} | {"bundle": bundle.id})
    return found


@contextmanager
def working(chosen: Sequence[Contestant], source: str, *more: object, store: Path | None = None) -> Iterator[Workers]:
    """All of them, by name, ready; each with a store of its own in the folder ``store``."""
    with ExitStack() as stack, tempfile.TemporaryDirectory(dir=store) as folder:
        workers: Workers = {}
        for each in chosen:
            sink = [] if store is None else ["--sink", f"sqlite://{quote(folder)}/{quote(each.name)}.db"]
            workers[each.name] = stack.enter_context(each.worker(source, *more, *sink))
        yield workers


def pictures(bundle: Bundle, options: argparse.Namespace, folder: Path) -> str:
    """The source to measure with: the one asked for, else the golden frames at ``--size``, written to ``folder``."""
    return written(enlarged(bundle, options.size), folder) if options.source is None else str(options.source)


def stills(bundle: Bundle, options: argparse.Namespace) -> list[Image]:
    """Frames of one size that several sides can be shown: the source's first, else the golden ones at ``--size``."""
    if options.source is None:
        return enlarged(bundle, options.size)
    with closing(frames(open_source(options.source))) as captured:
        found = list(islice((frame.image for frame in captured if isinstance(frame, Frame)), MOST_STILLS))
    if len({picture.shape for picture in found}) != 1:
        named = without_password(options.source)
        raise CallError(f"--source {named}: gave {len(found)} frames; some are needed, and all of one size")
    return found


def written(shown: Sequence[Image], folder: Path) -> str:
    """Frames in files that lose nothing, as a source that gives them in their order."""
    for k, picture in enumerate(shown):
        cv2.imwrite(str(folder / f"frame_{k:03}.png"), picture)
    return f"folder://{quote(str(folder.resolve()))}"


def enlarged(bundle: Bundle, size: str) -> list[Image]:
    """The golden frames, uint8 BGR, as a camera of that size would give them."""
    width, x, height = size.partition("x")
    if not (
        x and width.isdecimal() and height.isdecimal() and 16 <= int(width) <= 16384 and 16 <= int(height) <= 16384
    ):
        raise CallError(f"--size {size}: write 1024x1024, between 16 and 16384 pixels a side")
    target = int(width), int(height)
    frames = [read_image(path) for path in bundle.golden().frames]
    if bundle.manifest.input.fixture is not None:  # a part of another size would not be found
        return [_surrounded(frame, target) for frame in frames]
    return [np.asarray(cv2.resize(frame, target, interpolation=cv2.INTER_LINEAR), np.uint8) for frame in frames]


def _surrounded(frame: Image, size: tuple[int, int]) -> Image:
    """The frame amid more of its background, as a camera that sees more would give it; never smaller than it is."""
    right, below = (max(wanted - side, 0) for wanted, side in zip(size, frame.shape[1::-1], strict=True))
    return np.asarray(cv2.copyMakeBorder(frame, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)


def finish(results: Results, options: argparse.Namespace) -> int:
    """Writes what was asked for and prints it, also where it cannot be written."""
    try:
        if options.out:
            results.write(options.out)
            from dskd.benchmarks.plots import draw  # matplotlib is not on a device

            try:
                draw(results, options.out.with_suffix(".svg"))
            except MissingPart as error:
                results.notes.append(f"picture: {error}")
    finally:
        print(as_json(results) if options.json else table(results))
    return 0


def blank(command: list[str]) -> Results:
    """Results of this machine, still empty."""
    return Results(environment=describe(), command=[_portable(word) for word in command], yardstick=yardstick.NAME)


def shown(value: object) -> str | None:
    """An option's value as it may stand in results."""
    return None if value is None else _portable(str(value))


def _portable(word: str) -> str:
    """Without secrets and the folders of the machine that it was measured on; a bundle with the run that it came from."""
    option, equals, value = word.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={_portable(value)}"
    if "://" in word:
        return without_password(word)
    path = Path(word)
    if not path.is_absolute():
        return word
    return "/".join(path.parts[-3:]) if path.name == "bundle" else path.name


def golden_source(bundle: Bundle) -> str:
    """The bundle's golden frames as a source."""
    return f"folder://{quote(str((bundle.path / 'golden').resolve()))}"


def _chosen(option: str, given: str, known: Sequence[str]) -> list[str]:
    names = [name for name in given.split(",") if name]
    if unknown := next((name for name in names if name not in known), None):
        raise CallError(f"{option} {unknown}: is not known; choose among {', '.join(known)}")
    return names or list(known)
