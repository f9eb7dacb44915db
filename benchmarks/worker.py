"""``python -m benchmarks.worker``: one bundle on one backend, asked for work a line at a time.

Answers are lines of JSON. Times are milliseconds, one for each call; the first calls of every turn are not counted,
because caches and clocks were another contender's before. What a device needs is imported here and nothing else.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np

from dskd.benchmarks.results import FLAGGED, PASSED
from dskd.benchmarks.saturated import Saturated
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.capture.sources import frames, open_source
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import CallError, Parser, exit_with_code
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.inspection.network_input import network_input
from dskd.runtime.inspection.proved import open_proved
from dskd.runtime.pipeline import write_behind
from dskd.runtime.result import Frame, Image, Result, Verdict
from dskd.runtime.sinks import Sink
from dskd.runtime.sinks.by_uri import open_sinks

WARM_UP = 3  # calls of each turn that are not counted
FEWEST = 4  # calls of a turn, however long they take; always an even number, as many of either kind of frames
HELD = 16  # frames kept in memory
SPLIT = ("frame to verdict", "decision")  # which take longer where a map is asked for
LEAST = 0.0005  # ms; a stage is told to a microsecond, and nothing would have no ratio to anything
Times = dict[str, list[float]]


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(prog="python -m benchmarks.worker", description=__doc__)
    options.add_argument("--bundle", type=Path, required=True)
    options.add_argument("--backend", default="onnxruntime")
    options.add_argument("--precision")
    options.add_argument("--threads", type=int, default=0)
    options.add_argument("--source", required=True, help="where frames come from, again and again")
    options.add_argument("--sink", action="append", default=[])
    options.add_argument("--maps", action="store_true", help="give every map, also where the score does not ask for it")
    return options


class Contender:
    """Our runtime as a product uses it, with a watch in its hand."""

    def __init__(self, bundle: Bundle, options: argparse.Namespace, sinks: list[Sink]) -> None:
        precision: Precision | None = options.precision
        self._bundle, self._sinks, self._source = bundle, sinks, options.source
        self._open = lambda: open_backend(bundle, options.backend, options.threads, precision)
        self._backend, _ = open_proved(bundle, options.backend, options.threads, precision)
        self.name, self.graph = self._backend.name, self._backend.graph
        self._settings = Settings.of(bundle.manifest.graphs[self.graph].thresholds)
        self._inspector = Inspector(bundle, self._backend, self._settings, keep_maps=options.maps)
        self._held = list(islice(self._endless(), HELD))
        self._frames, self._read = self._in_turn(), self._endless()
        spec = bundle.manifest.input
        self._inputs: Image = np.stack([network_input(frame.image, spec) for frame in self._held])
        self._saturated: Saturated | None = None

    def inspect(self, seconds: float) -> dict[str, object]:
        """Frame in memory to verdict, stage by stage; nothing is stored beside it."""
        times: Times = {"frame to verdict": [], "frame to verdict, CPU": []}
        kinds = list[str]()
        for _ in _turn(seconds, times):
            frame, kind = next(self._frames)
            kinds.append(kind)
            start, cpu = time.perf_counter(), time.process_time()
            inspection = self._inspector.inspect(frame)
            end, cpu_after = time.perf_counter(), time.process_time()
            times["frame to verdict"].append(1e3 * (end - start))
            times["frame to verdict, CPU"].append(1e3 * (cpu_after - cpu))
            for stage, milliseconds in inspection.timings_ms.items():
                times.setdefault(stage, []).append(max(milliseconds, LEAST))
        for what in SPLIT:
            for kind in dict.fromkeys(kinds):
                of_kind = zip(times[what], kinds[WARM_UP:], strict=True)
                times[what + kind] = [value for value, its in of_kind if its == kind]
        del times["decision"]  # half of them took long: their median would be that of a coin
        return {"times": times}

    def stored(self, seconds: float) -> dict[str, object]:
        """From one frame to the next where frames never end and some are stored while the next are inspected."""
        watch = _Watch()

        def results() -> Iterator[Result]:
            for _ in _turn(seconds, {}):
                frame, _ = next(self._frames)
                yield frame, self._inspector.inspect(frame)

        for _ in write_behind(results(), [watch, *self._sinks]):
            pass
        return {"times": {"frame to next frame, stored": watch.times}}

    def read(self, seconds: float) -> dict[str, object]:
        """What the source takes to give a frame."""
        times: Times = {"read": []}
        for _ in _turn(seconds, times):
            start = time.perf_counter()
            next(self._read)
            times["read"].append(1e3 * (time.perf_counter() - start))
        return {"times": times}

    def network(self, seconds: float, batch: int = 1) -> dict[str, object]:
        """The backend alone, on inputs that are ready."""
        rows = [np.roll(self._inputs, k, axis=0) for k in range(2)]  # not the same bytes each time
        inputs = [np.ascontiguousarray(np.resize(r, (batch, *r.shape[1:]))) for r in rows]
        times: Times = {"bare network": [], "bare network, CPU": []}
        for k in _turn(seconds, times):
            start, cpu = time.perf_counter(), time.process_time()
            self._backend.infer(inputs[k % 2])
            end, cpu_after = time.perf_counter(), time.process_time()
            times["bare network"].append(1e3 * (end - start))
            times["bare network, CPU"].append(1e3 * (cpu_after - cpu))
        return {"times": times}

    def streams(self, seconds: float, cameras: int) -> dict[str, object]:
        """So many cameras that always have a frame, through a station's inspection thread."""
        if self._saturated is None:
            self._saturated = Saturated(self._bundle, self._open, self._held, self._settings)
        return self._saturated.run(cameras, seconds)

    def many(self, count: int) -> dict[str, object]:
        """Inspects so many frames from memory, for the memory they leave behind."""
        start = time.perf_counter()
        for frame in islice(cycle(self._held), count):
            self._inspector.inspect(frame)
        return {"seconds": time.perf_counter() - start}

    def allocations(self, count: int) -> dict[str, object]:
        """For each frame: bytes that Python and numpy held at most and left behind, and pages touched anew."""
        most, left, faults, kinds = list[int](), list[int](), list[int](), list[str]()
        self.many(WARM_UP)
        for frame, _ in islice(self._frames, count):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            self._inspector.inspect(frame)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        tracemalloc.start()
        self.many(WARM_UP)
        for frame, kind in islice(self._frames, count):
            kinds.append(kind)
            tracemalloc.reset_peak()
            held, _ = tracemalloc.get_traced_memory()
            self._inspector.inspect(frame)
            after, peak = tracemalloc.get_traced_memory()
            most.append(peak - held)
            left.append(after - held)
        tracemalloc.stop()
        frame_bytes = int(np.median([frame.image.nbytes for frame in self._held]))
        return {
            "most": most, "kinds": kinds, "left": left, "faults": faults, "frame": frame_bytes,
            "input": int(self._inputs[0].nbytes), "map": int(self._inputs[0].nbytes) // 3 * 4,
        }  # fmt: skip

    def close(self) -> None:
        """Releases the device."""
        if self._saturated is not None:
            self._saturated.close()
        self._backend.close()

    def _in_turn(self) -> Iterator[tuple[Frame, str]]:
        """One that passes and one that is flagged, in turn and for ever, however many there are of each."""
        kinds: dict[str, list[tuple[Frame, str]]] = {}
        for frame in self._held:
            kind = PASSED if self._inspector.inspect(frame).verdict is Verdict.PASS else FLAGGED
            kinds.setdefault(kind, []).append((frame, kind))
        return chain.from_iterable(zip(*map(cycle, kinds.values()), strict=False))

    def _endless(self) -> Iterator[Frame]:
        while True:
            with closing(frames(open_source(self._source))) as captured:
                found = 0
                for frame in captured:
                    if isinstance(frame, Frame):
                        found += 1
                        yield frame
            if not found:
                raise CallError(f"--source {without_password(self._source)}: gave no frame that can be inspected")


class _Watch(Sink):
    """A sink that notes what each result took, in milliseconds, since the write before."""

    def __init__(self) -> None:
        self.times = list[float]()
        self._before: float | None = None

    def write(self, results: Sequence[Result]) -> None:
        """Nothing was stored beside the first ones: they do not count."""
        now = time.perf_counter()
        if self._before is not None:
            self.times += [1e3 * (now - self._before) / len(results)] * len(results)
        self._before = now


def _turn(seconds: float, times: Times) -> Iterator[int]:
    """Calls for so long; afterwards the first of them are taken out of ``times``."""
    call, end = 0, float("inf")
    while call < WARM_UP + FEWEST or (call - WARM_UP) % 2 or time.perf_counter() < end:
        if call == WARM_UP:
            end = time.perf_counter() + seconds
        yield call
        call += 1
    for values in times.values():
        del values[:WARM_UP]


def main(arguments: list[str]) -> int:
    """Answers until nobody asks any more; returns the exit code."""
    options = parser().parse_args(arguments)
    with ExitStack() as stack:
        bundle = load_bundle(options.bundle)
        sinks = [stack.enter_context(closing(sink)) for sink in open_sinks(options.sink)]
        contender = stack.enter_context(closing(Contender(bundle, options, sinks)))
        graph = bundle.manifest.graphs[contender.graph]
        about = {"backend": contender.name, "graph": contender.graph, "macs": graph.macs, "bundle": bundle.id}
        say({**about, "max_batch": bundle.manifest.max_batch})
        work: dict[str, Callable[..., dict[str, object]]] = {
            name: getattr(contender, name)
            for name in ("inspect", "stored", "read", "network", "streams", "many", "allocations")
        }
        for line in sys.stdin:
            request = json.loads(line)
            say(work[request.pop("work")](**request))
    return 0


def say(answer: dict[str, object]) -> None:
    """One line, at once."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    exit_with_code(main)
