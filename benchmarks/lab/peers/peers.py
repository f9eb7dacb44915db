"""``python -m benchmarks peers``: the same frames through us and through anomalib, in the same rounds, end to end.

anomalib comes into a virtual environment of its own (``--peers-venv``), made from ``peers_requirements.txt`` beside this file
when it is not there. Its models are built with random weights and exported by its own means: torch, ONNX, OpenVINO, and
OpenVINO in INT8 as its INT8_PTQ does. Both sides take the same frames, read once (the first of ``--source``, else the
golden ones at ``--size``), from memory and give score and map.

  openvino         as it comes: it computes in bfloat16 wherever the CPU can, without saying so
  openvino-f32     the same, told to compute in float32
  onnxruntime      anomalib has no inferencer for it: its OpenVINO one's preprocessing, its exported graph
  trtexec          on a device: NVIDIA's tool on our own engine (``--trtexec``)

Cold start is from the start of a Python to the first score of a picture on disk: as usual, with what earlier starts left
in caches (ours a compiled INT8 graph and the proof of all golden frames, so that one of them is run; OpenVINO's compiled
graphs on anomalib's side), and with empty caches on both sides. See ``python -m benchmarks coldstart --help``.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dskd.benchmarks import coldstart
from dskd.benchmarks.contenders import (
    Contestant,
    Workers,
    add_options,
    blank,
    check,
    contestants,
    finish,
    own_bundle,
    pictures,
    stills,
    working,
    written,
)
from dskd.benchmarks.lab.peers import trtexec
from dskd.benchmarks.lab.peers.peer_worker import FILES, INFERENCERS, MODELS
from dskd.benchmarks.processes import Reply, Worker
from dskd.benchmarks.results import CPU, END_TO_END, Results, ratio, row
from dskd.benchmarks.rounds import Tasks, measure
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import CallError, DskdError, MissingPart, Parser, exit_with_code

HERE = Path(__file__).parent
REQUIREMENTS, WORKER = HERE / "peers_requirements.txt", HERE / "peer_worker.py"
CALM = {"HF_HUB_OFFLINE": "1", "ANOMALIB_TELEMETRY": "0", "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "ignore"}
STARTED = ("torch", "openvino")  # inferencers of anomalib's own, whose start is measured
EXAMPLES = """examples:
  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu \\
  python -m benchmarks peers --bundle runs/latest/bundle --models rd --out runs/peers.json
  python -m benchmarks peers --models rd,stfpm,efficientad,patchcore --inferencers torch,openvino
  python -m benchmarks peers --trtexec --backend tensorrt      on a device with an engine"""


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks peers", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_options(options)
    add = options.add_argument
    add("--peers-venv", type=Path, default=Path("runs/peers"), help="folder of it and of models (default: %(default)s)")
    add("--models", default="rd", help=f"separated by commas: {', '.join(MODELS)} (default: %(default)s)")
    add("--inferencers", default=",".join(INFERENCERS), help="separated by commas (default: %(default)s)")
    add("--starts", type=int, default=5, help="starts of each contender, 0 for none (default: %(default)s)")
    add("--trtexec", action="store_true", help="trtexec on the bundle's engines instead of anomalib")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    return finish(run(options, blank(["peers", *arguments])), options)


def run(options: argparse.Namespace, results: Results) -> Results:
    """Measures and adds to ``results``."""
    check(options)
    models, kinds = (
        listed("--models", options.models, MODELS),
        listed("--inferencers", options.inferencers, INFERENCERS),
    )
    bundle = own_bundle(options)
    chosen = contestants(bundle, options, results)
    if options.trtexec:
        return beside_trtexec(bundle, chosen, options, results)
    python = environment(options.peers_venv.absolute())
    results.environment["peers"] = dict(said_of(python))
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        bench = Bench(python, options.peers_venv.absolute(), Path(folder), bundle, options)
        for model in models:
            found = bench.exported(model, kinds, results)
            bench.latency(model, found, chosen, results)
            if options.starts:
                bench.starts(model, {kind: file for kind, file in found.items() if kind in STARTED}, chosen, results)
    return results


def environment(folder: Path) -> Path:
    """The Python of the peers' virtual environment, made and filled where it is not. Raises DskdError."""
    python, stamp = folder / "venv" / "bin" / "python", folder / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if python.exists() and stamp.is_file() and stamp.read_text().strip() == wanted:
        return python
    print(f"installing {REQUIREMENTS.name} into {folder / 'venv'}; some gigabytes, some minutes", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    for words in (
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)],
    ):
        if subprocess.run(words, check=False, stdout=sys.stderr.fileno()).returncode:  # noqa: S603
            raise DskdError(f"peers: {' '.join(words[1:4])} failed, its message stands above; check network and disk")
    atomic.write_text(stamp, wanted + "\n")
    return python


def made_by() -> str:
    """What exports of anomalib's hang on, as a name: made by other versions, or by another worker, they are others."""
    return hashlib.sha256(REQUIREMENTS.read_bytes() + WORKER.read_bytes()).hexdigest()[:8]


def said_of(python: Path) -> dict[str, str]:
    """Versions of what matters there."""
    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in %r}))"
    names = ("anomalib", "torch", "onnxruntime", "openvino", "nncf")
    with Worker([python, "-c", code % (names,)]) as worker:
        return {str(name): str(version) for name, version in worker.ready.items()}


class Bench:
    """Both sides on the same pictures."""

    def __init__(self, python: Path, folder: Path, scratch: Path, bundle: Bundle, options: argparse.Namespace) -> None:
        self._python, self._folder, self._scratch, self._options = python, folder, scratch, options
        shown = scratch / "frames"
        shown.mkdir()
        frames = stills(bundle, options)
        self.source = written(frames, shown)  # for us
        self.frames, self._picture = scratch / "frames.npy", scratch / "frame.png"
        np.save(self.frames, np.stack(frames))  # for anomalib
        cv2.imwrite(str(self._picture), frames[0])

    def exported(self, model: str, kinds: list[str], results: Results) -> dict[str, Path]:
        """The model's file for each inferencer, made where it is not there yet; notes say what anomalib cannot make."""
        folder = self._folder / "models" / f"{model}-{made_by()}"
        if not folder.is_dir():
            print(f"exporting {model} by anomalib", file=sys.stderr)
            with atomic.replacing_directory(folder) as made, self._worker("make", model, made, self.frames):
                pass
        results.notes.extend(f"{model}: {file.read_text()}" for file in sorted(folder.glob("failed-*.txt")))
        found = {}
        for kind in kinds:
            file = folder / FILES[kind]
            if file.is_file():
                try:
                    coldstart.started(self._words("once", kind, file, self._picture), CALM)
                    found[kind] = file
                except DskdError as error:  # exported, and yet it does not run
                    results.notes.append(f"anomalib {model}, {kind}: {error}")
        if not found:
            raise DskdError(f"peers: nothing of {model} runs; remove {folder} and try again: {results.notes[-1:]}")
        return found

    def latency(self, model: str, found: dict[str, Path], chosen: list[Contestant], results: Results) -> None:
        """Frame to score and map on both sides, and what their processes hold meanwhile."""
        options, held = self._options, dict[tuple[str, str], list[float]]()

        @contextmanager
        def launch() -> Iterator[Tasks]:
            with ExitStack() as stack:
                workers: Workers = stack.enter_context(working(chosen, self.source, "--maps"))
                for kind, file in found.items():
                    name = f"anomalib {model}, {kind}"
                    workers[name] = stack.enter_context(self._worker("serve", kind, file, self.frames))
                    results.backends[name] = str(workers[name].ready["backend"])
                yield {name: partial(_inspected, worker, options.seconds) for name, worker in workers.items()}
                for name, worker in workers.items():
                    for what, size in worker.memory().items():
                        held.setdefault((name, what), []).append(size)

        measured = measure(launch, options.launches, options.rounds, options.json)
        benchmark = f"peers {model}"
        rows = {name: measured.row(benchmark, name, what) for name, what in measured.values if what == END_TO_END}
        results.rows.extend(rows.values())
        cpu = f"{END_TO_END}{CPU}"
        results.rows.extend(measured.row(benchmark, name, cpu) for name in rows)
        for (name, what), sizes in held.items():
            results.rows.append(row(benchmark, name, what, "MB", sizes, rounds=[[size] for size in sizes]))
        ours = [each.name for each in chosen]
        results.ratios.extend(ratio(rows[peer], rows[own]) for own in ours for peer in rows if peer not in ours)
        results.yardsticks.update(measured.yardsticks(benchmark))
        others = [100 * share for share in measured.others]
        results.rows.append(row(benchmark, "machine", "taken by other programs", "%", others))

    def starts(self, model: str, found: dict[str, Path], chosen: list[Contestant], results: Results) -> None:
        """Process start to first score on both sides."""
        calls = {each.name: coldstart.both(each, self._picture) for each in chosen}
        for kind, file in found.items():
            words = partial(self._words_in, words=("once", kind, file, self._picture))
            calls[f"anomalib {model}, {kind}"] = partial(coldstart.twice, words, self._scratch, CALM)
        coldstart.tell(calls, self._options.starts, results, f"start {model}", self._options.json)

    def _worker(self, *words: object) -> Worker:
        return Worker(self._words(*words), CALM, name=" ".join(map(str, ("anomalib", *words[:2]))))

    def _words(self, *words: object) -> list[str]:
        return self._words_in(self._scratch, words)

    def _words_in(self, folder: Path, words: Sequence[object]) -> list[str]:
        """It writes into ``folder``."""
        more = ["--threads", self._options.threads]
        return [str(word) for word in (self._python, WORKER, folder, *words, *more)]


def beside_trtexec(bundle: Bundle, chosen: list[Contestant], options: argparse.Namespace, results: Results) -> Results:
    """Our TensorRT backend, whole and alone, beside NVIDIA's tool on the same engine."""
    ours = [each for each in chosen if each.backend == "tensorrt"]
    if not ours:
        raise MissingPart("peers: --trtexec needs the tensorrt backend and an engine; build one: dskd export.trt")

    @contextmanager
    def launch() -> Iterator[Tasks]:
        with (
            tempfile.TemporaryDirectory() as folder,
            working(ours, pictures(bundle, options, Path(folder))) as workers,
        ):
            tasks: dict[str, Callable[[], Reply]] = {
                name: partial(_inspected, worker, options.seconds, True) for name, worker in workers.items()
            }
            for each in ours:
                tasks[f"trtexec {each.precision}"] = partial(trtexec.turn, bundle, each.precision, options.seconds)
            yield tasks

    measured = measure(launch, options.launches, options.rounds, options.json)
    rows = {key: measured.row("peers trtexec", *key) for key in measured.values}
    results.rows.extend(rows.values())
    for each in ours:
        for what in trtexec.FIGURES.values():
            results.ratios.append(ratio(rows[each.name, what], rows[f"trtexec {each.precision}", what]))
    results.yardsticks.update(measured.yardsticks("peers trtexec"))
    return results


def _inspected(worker: Worker, seconds: float, alone: bool = False) -> Reply:
    """One turn: end to end, and where asked for the network alone."""
    times = worker.ask("inspect", seconds=seconds)["times"]
    kept = {what: times[what] for what in (END_TO_END, f"{END_TO_END}{CPU}")}
    return {"times": kept | (worker.ask("network", seconds=seconds / 2)["times"] if alone else {})}


def listed(option: str, given: str, known: tuple[str, ...]) -> list[str]:
    """Names separated by commas. Raises CallError for one that is not known."""
    names = given.split(",")
    if unknown := next((name for name in names if name not in known), None):
        raise CallError(f"{option} {unknown}: is not known; choose among {', '.join(known)}")
    return names


if __name__ == "__main__":
    exit_with_code(main)
