"""The steps of ``benchmarks hardware``, each in a process of its own: figures as one line of JSON.

``python -m dskd.benchmarks.hardware_steps NAME FOLDER``; the folder holds a copy of the bundle and what earlier steps left.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dskd.benchmarks.hardware_rig import (
    TRTEXEC,
    Found,
    Rig,
    answers_of,
    engine_of,
    in_context,
    median,
    reopen,
    took,
    trtexec_path,
    version_of,
    write_nowhere,
)
from dskd.runtime.errors import DeviceLost, DskdError, MissingPart, exit_with_code
from dskd.runtime.inspection.cuda import find_device, open_memory
from dskd.runtime.inspection.engine import GRAPHS, engine_paths

STATION_SECONDS, WITHOUT_GPU, STARTING = 60.0, 2.0, 40.0
TESTS = Path(__file__).resolve().parents[1] / "tests" / "gpu"


def installed(rig: Rig) -> Found:
    """What is here."""
    packages = ("cuda-bindings", "pycuda", "torch", "onnx", "onnxruntime", "openvino", "tensorrt-rtx")
    found: Found = {name: version_of(name) for name in packages}
    found["tensorrt"] = version_of("tensorrt", "tensorrt")  # of JetPack there is no package to ask
    found["trtexec"] = trtexec_path() or "none"
    smi = shutil.which("nvidia-smi")
    if smi:
        done = subprocess.run([smi], capture_output=True, text=True, check=False, timeout=20)  # noqa: S603
        match = re.search(r"Driver Version: (\S+)\s+CUDA Version: (\S+)", done.stdout)
        found["driver"] = " ".join(match.groups()) if match else "nvidia-smi says nothing"
    nodes = [path for pattern in ("nv*", "dri/*", "gpiochip*", "video*") for path in sorted(Path("/dev").glob(pattern))]
    found["nodes"] = [f"{path} {path.stat().st_mode & 0o777:o} {path.stat().st_gid}" for path in nodes[:40]]
    try:
        found["gpu"] = vars(find_device())
    except MissingPart as error:
        found["gpu"] = str(error).partition(";")[0]
    return found


def memory(rig: Rig) -> Found:
    """The memory tests on this device."""
    find_device()
    if not TESTS.is_dir() or importlib.util.find_spec("pytest") is None:
        raise MissingPart("tests/gpu and pytest are in a checkout only")
    return {"said": rig.run("-m", "pytest", "-q", "-x", TESTS / "test_memory.py").stdout.splitlines()[-1]}


def builds(rig: Rig) -> Found:
    """An engine of each precision; without a GPU, whether TensorRT-RTX takes the graphs."""
    found: Found = {}
    try:
        find_device()
        check: list[object] = []
    except MissingPart:
        check = ["--check"]
    bundle = rig.bundle
    for precision in (one for one, graph in GRAPHS.items() if graph in bundle.manifest.files):
        files = [
            "--layers",
            rig.work / f"{precision}.layers.json",
            *([] if check else ["--verbose", rig.work / f"{precision}.log"]),
        ]
        try:
            done = rig.run("-m", "dskd.export.trt", f"--{precision}", "--bundle", bundle.path, "--json", *files, *check)
        except MissingPart:
            raise
        except DskdError as error:
            found[precision] = f"failed: {error}"
            continue
        said = json.loads(done.stdout.splitlines()[-1])
        found[precision] = (
            {"entries": said["layers"], "seconds": said["seconds"]} if check else
            {"seconds": said["facts"]["build_seconds"], "megabytes": said["megabytes"], "form": said["facts"]["form"]}
        )  # fmt: skip
    if check:
        found["engines"] = "none: TensorRT-RTX only parsed and built, without a GPU"
    elif not any(isinstance(one, dict) for one in found.values()):
        raise DskdError(f"no precision builds here: {found}")
    return found


def agreement(rig: Rig) -> Found:
    """Each engine against onnxruntime on the same graph: shares of value and spread, and verdicts that change."""
    from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend

    bundle, found = rig.bundle, Found()
    inputs = bundle.golden().inputs
    for precision in rig.precisions:
        maps, scores = answers_of(engine_of(bundle, precision), inputs)
        right_maps, right_scores = answers_of(OnnxRuntimeBackend(bundle, GRAPHS[precision]), inputs)
        reject = bundle.manifest.graphs[GRAPHS[precision]].thresholds.reject.score
        found[precision] = {
            "score off": float((np.abs(scores - right_scores) / np.abs(right_scores)).max()),
            "map off of its spread": float((np.abs(maps - right_maps).max((1, 2)) / right_maps.std((1, 2))).max()),
            "factor": float((maps * right_maps).sum() / np.square(right_maps).sum()),
            "verdicts that change": int(((scores > reject) != (right_scores > reject)).sum()),
        }
    return found


def layers(rig: Rig) -> Found:
    """What the engines are made of: kinds of layers, and Q/DQ or casts that nothing took in."""
    found: Found = {}
    for file in sorted(rig.work.glob("*.layers.json")):
        report = json.loads(file.read_text())
        made = (report.get("engine") or {}).get("Layers") or []
        kinds = Counter(str(one.get("LayerType", "unnamed")) if isinstance(one, dict) else "unnamed" for one in made)
        names = [str(one.get("Name", "") if isinstance(one, dict) else one) for one in made]
        lonely = [name for name in names if re.search(r"QuantizeLinear|Reformat|Cast", name) and "Conv" not in name]
        parsed = Counter(one["type"] for one in report.get("layers", []))
        precision = file.name.partition(".")[0]
        found[precision] = {"entries": len(made), "kinds": dict(kinds), "alone": len(lonely), "parsed": dict(parsed)}
    if not found:
        raise MissingPart("no build left its layers")
    return found


def trtexec(rig: Rig) -> Found:
    """NVIDIA's own tool on the same plans."""
    tool = trtexec_path()
    if tool is None:
        raise MissingPart(f"trtexec is not installed; on a Jetson it comes with libnvinfer-bin below {TRTEXEC}")
    bundle, found = rig.bundle, Found()
    spec = bundle.manifest.input
    for precision in rig.precisions:
        plan = engine_paths(bundle, precision)[0]
        words = [
            tool,
            f"--loadEngine={plan}",
            f"--shapes=image:1x{spec.height}x{spec.width}x3",
            "--warmUp=200",
            "--duration=5",
        ]
        words += ["--useCudaGraph", "--dumpProfile", "--separateProfileRun"]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, timeout=60)  # noqa: S603
        (rig.work / f"{precision}.trtexec").write_text(done.stdout + done.stderr)
        match = re.search(r"GPU Compute Time: .*?median = ([\d.]+) ms", done.stdout)
        found[precision] = float(match[1]) if match else f"no figure (exit code {done.returncode})"
    return found


def latency(rig: Rig) -> Found:
    """The median of a warm call for one picture, in ms."""
    bundle, found = rig.bundle, Found()
    batch = bundle.golden().inputs[:1]
    for precision in rig.precisions:
        backend = engine_of(bundle, precision)
        backend.warm_up()
        found[precision] = median(partial(backend.infer, batch), 3.0)
        backend.close()
    return found


def calls(rig: Rig) -> Found:
    """First, second and third call of every batch size, in ms: what warming up saves a line."""
    bundle = rig.bundle
    precision = rig.precisions[-1]
    backend, found = engine_of(bundle, precision), Found()
    inputs = np.resize(bundle.golden().inputs, (bundle.manifest.max_batch, *bundle.golden().inputs.shape[1:]))
    for rows in range(1, min(backend.largest, len(inputs)) + 1):
        found[f"{precision}, {rows}"] = [took(partial(backend.infer, inputs[:rows])) for _ in range(5)]
    backend.close()
    return found


def poison(rig: Rig) -> Found:
    """A kernel that writes where nothing is: the loss must be recognised, and stay for this process."""
    memory_ = open_memory(find_device(), "cuda-bindings")
    said = []
    with memory_.active():
        stream = memory_.stream()
    for ask in (lambda: write_nowhere(memory_), lambda: in_context(memory_, stream.synchronize), reopen):
        try:
            ask()
        except DskdError as error:
            said.append(error)
    if not said or not all(isinstance(error, DeviceLost) for error in said):
        raise DskdError(f"a poisoned context is not recognised: {[str(error) for error in said]}")
    return {"recognised": str(said[0])}


def forms(rig: Rig) -> Found:
    """Every form of the INT8 graph: which build, and how fast they are."""
    import onnx

    from dskd.export.engine_build import BuildOptions, build_engine
    from dskd.export.graph.variants import FORMS
    from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend
    from dskd.runtime.inspection.backends.tensorrt_engine import load_tensorrt

    find_device()
    bundle, trt, found = rig.bundle, load_tensorrt(), Found()
    graph = bundle.file(GRAPHS["int8"])
    for name, change in {"as it is": lambda model: model, **FORMS}.items():
        file, plan = rig.work / "form.onnx", rig.work / "form.plan"
        onnx.save(change(onnx.load(graph)), file)
        try:
            built = build_engine(trt, file, BuildOptions((1, 1, 1)))
            plan.write_bytes(built.plan)
            backend = TensorRtBackend(bundle, "int8", plan)
            backend.warm_up()
            batch = bundle.golden().inputs[:1]
            found[name] = {
                "ms": median(partial(backend.infer, batch), 1.0),
                "seconds": round(built.seconds, 1),
            }
            backend.close()
        except DskdError as error:
            found[name] = f"failed: {error}"
    return found


def station(rig: Rig) -> Found:
    """Two cameras for a minute, killed once in its middle: what is told stays, and it comes back."""
    folder = rig.work / "station"
    folder.mkdir(exist_ok=True)
    size = "size=640x480&fps=10"
    text = {
        "name": "hardware", "data": str(folder / "data"),
        "cameras": {name: {"source": f"test://pattern?{size}", "recipe": "part"} for name in ("left", "right")},
        "recipes": {"part": {"bundle": str(rig.work / "bundle")}},
    }  # fmt: skip
    (folder / "station.yaml").write_text(json.dumps(text))
    counts, seconds = list[int](), _station_seconds()
    for ends in (signal.SIGKILL, signal.SIGTERM):
        with (folder / "log.txt").open("a") as log, subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "dskd.runtime.station", str(folder / "station.yaml")], stderr=log, stdout=log
        ) as process:  # fmt: skip
            _await_more(folder / "data" / "store.db", process, counts[-1] if counts else 0)
            time.sleep(seconds / 2)
            process.send_signal(ends)
            code = process.wait(30)
        with sqlite3.connect(f"file:{folder / 'data' / 'store.db'}?mode=ro", uri=True) as store:
            counts.append(store.execute("SELECT count(*) FROM inspections").fetchone()[0])
            whole = store.execute("PRAGMA integrity_check").fetchone()[0]
            timings = [
                json.loads(row[0])
                for row in store.execute("SELECT timings_ms FROM inspections ORDER BY id DESC LIMIT 200")
            ]
            backend = store.execute("SELECT backend FROM inspections ORDER BY id DESC LIMIT 1").fetchone()
    if whole != "ok" or counts[1] <= counts[0] or code != 0:
        raise DskdError(f"after the kill: store {whole}, inspections {counts}, exit code {code}; see station/log.txt")
    inference = statistics.median(one["inference"] for one in timings)
    return {"inspections": counts, "backend": backend[0], "inference ms": inference}


def _await_more(file: Path, process: subprocess.Popen[bytes], before: int) -> None:
    """Until the station has stored more inspections than ``before``: a busy machine takes long to start it.

    Where it ends or takes too long, what was counted tells.
    """
    end = time.monotonic() + STARTING
    while time.monotonic() < end and process.poll() is None:
        with suppress(sqlite3.OperationalError), sqlite3.connect(f"file:{file}?mode=ro", uri=True) as store:
            if store.execute("SELECT count(*) FROM inspections").fetchone()[0] > before:
                return
        time.sleep(0.1)


def _station_seconds() -> float:
    try:
        find_device()
    except MissingPart:
        return WITHOUT_GPU
    return STATION_SECONDS


def training(rig: Rig) -> Found:
    """Two epochs on this GPU and on the CPU: the same losses, and how many pictures a second."""
    find_device()
    if not version_of("torch"):
        raise MissingPart("torch is not installed; pip install 'dskd-edge[export]'")
    rig.run("-m", "dskd.train.synthetic", rig.work / "set")
    found: Found = {}
    for device in ("cuda", "cpu"):
        out = rig.work / f"run-{device}"
        words = ["--data", rig.work / "set", "--out", out, "--device", device, "--teacher-weights", "random"]
        words += ["--epochs", 2, "--size", "256x192"]
        start = time.monotonic()
        rig.run("-m", "dskd.train", *words)
        rows = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
        last = dict(zip(rows[0], rows[-1], strict=True))
        found[device] = {
            **{name: float(value) for name, value in last.items()},
            "whole command s": time.monotonic() - start,
        }
    return found


@dataclass(frozen=True)
class Step:
    """``most``: seconds it may take."""

    run: Callable[[Rig], Found]
    what: str
    most: float


STEPS = {
    "installed": Step(installed, "what is installed", 30),
    "memory": Step(memory, "GPU memory tests", 90),
    "builds": Step(builds, "an engine of each precision", 300),
    "agreement": Step(agreement, "engine against onnxruntime on the same graph", 90),
    "layers": Step(layers, "layers, and Q/DQ left alone", 20),
    "trtexec": Step(trtexec, "NVIDIA's tool on the same plans, ms", 120),
    "latency": Step(latency, "our warm call, ms", 60),
    "calls": Step(calls, "first five calls of each batch size, ms", 60),
    "poison": Step(poison, "a poisoned context is recognised", 40),
    "forms": Step(forms, "forms of the INT8 graph", 180),
    "station": Step(station, "two cameras for a minute, one kill", 150),
    "training": Step(training, "two epochs on GPU and CPU", 180),
}


def main(arguments: list[str]) -> int:
    """Runs one step; its figures are the last line."""
    name, work = arguments
    print(json.dumps(STEPS[name].run(Rig(Path(work))), default=str))
    return 0


if __name__ == "__main__":
    exit_with_code(main)
