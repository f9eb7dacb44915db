"""An engine of one precision from whichever form of its graph builds and is exact; and the best of several precisions."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dskd.export.engine_build import BuildOptions, Built, build_engine
from dskd.export.engine_install import install, standing_engine
from dskd.export.graph.form_parts import NAMES, joined_form
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import DskdError, MissingPart, one_line
from dskd.runtime.inspection.backends.base import Backend
from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend
from dskd.runtime.inspection.cuda import Device
from dskd.runtime.inspection.engine import GRAPHS, EngineFacts, engine_paths, write_facts
from dskd.runtime.verbosity import note

AS_IT_IS = ""  # the form of a graph that the bundle holds
MEASURED = 2.0  # seconds
WARM_UP = 5  # calls: the third runs as a CUDA graph


@dataclass(frozen=True)
class Made:
    """An engine that stands in the bundle now. ``built`` is None where it stood there before; else ``reason`` is why."""

    precision: Precision
    facts: EngineFacts
    built: Built | None
    reason: str


def make_engine(trt: Any, bundle: Bundle, precision: Precision, device: Device, wanted: BuildOptions) -> Made:
    """The standing engine where it fits, else a new one. Raises DskdError where no form of the graph gives one."""
    facts, reason = standing_engine(bundle, precision, device, trt.__version__, wanted)
    if facts is not None:
        return Made(precision, facts, None, reason)
    first: DskdError | None = None
    with tempfile.TemporaryDirectory(dir=engine_paths(bundle, precision)[0].parent, prefix=".forms-") as scratch:
        for form, onnx in graph_forms(bundle, precision, Path(scratch)):
            if first is not None:
                note(f"trying the same graph with {form}")
            try:
                built = build_engine(trt, onnx, wanted)
                facts = install(bundle, precision, device, trt.__version__, wanted, built, form)
            except MissingPart:
                raise
            except DskdError as error:
                first = first or error
                note(f"{precision}: {one_line(str(error))}")
            else:
                return Made(precision, facts, built, reason)
    assert first is not None
    raise first


def graph_forms(bundle: Bundle, precision: Precision, scratch: Path) -> Iterator[tuple[str, Path]]:
    """The bundle's graph, then other forms of it where there are some, written when they are asked for."""
    usual = bundle.file(GRAPHS[precision])
    yield AS_IT_IS, usual
    if precision != "int8":
        return
    file = scratch / usual.name
    for form in NAMES:
        made = joined_form(bundle, usual.name, form) or _made_here(usual, form)
        if made is None:
            note("other forms of this graph can be tried where onnx is installed: pip install onnx")
            return
        file.write_bytes(made)
        yield form, file


def _made_here(usual: Path, form: str) -> bytes | None:
    """A form of an older bundle's graph; None without onnx."""
    try:
        import onnx

        from dskd.export.graph.variants import FORMS
    except ImportError:
        return None
    made: bytes = FORMS[form](onnx.load(usual)).SerializeToString()
    return made


def make_best(
    trt: Any, bundle: Bundle, tried: list[Precision], device: Device, wanted: BuildOptions
) -> tuple[Made, list[dict[str, object]]]:
    """Engines of the precisions in turn; the faster of the first two that work, and what came of each.

    float32 is tried only where nothing else works. Raises the last DskdError where nothing does.
    """
    made, told, last = list[Made](), list[dict[str, object]](), None
    for precision in tried:
        if precision == "fp32" and made:
            break
        try:
            one = make_engine(trt, bundle, precision, device, wanted)
        except MissingPart:
            raise
        except DskdError as error:
            last = error
            told.append({"precision": precision, "failed": one_line(str(error))})
            note(f"{precision} does not work here: {one_line(str(error))}")
        else:
            made.append(one)
    if not made:
        assert last is not None
        raise last
    if len(made) > 1:
        made = [_measured(bundle, one) for one in made]
    told += [
        {
            "precision": one.precision,
            "latency_ms": one.facts.latency_ms,
            "form": one.facts.form,
            "built": bool(one.built),
        }
        for one in made
    ]
    return min(made, key=lambda one: one.facts.latency_ms or 0.0), told


def _measured(bundle: Bundle, made: Made) -> Made:
    """The same with its time a picture in its facts, by which the runtime chooses."""
    plan, file = engine_paths(bundle, made.precision)
    rows = made.facts.batch[1]
    backend = TensorRtBackend(bundle, made.precision, plan, dla_core=made.facts.dla_core)
    try:
        latency = time_of_a_call(backend, bundle.golden().inputs, rows) / rows
    finally:
        backend.close()
    facts = made.facts.model_copy(update={"latency_ms": round(latency, 4)})
    write_facts(file, facts)
    return replace(made, facts=facts)


def time_of_a_call(backend: Backend, inputs: Any, rows: int, seconds: float | None = None) -> float:
    """The median in milliseconds of calls with ``rows`` pictures, over some seconds."""
    batch = np.resize(inputs, (rows, *inputs.shape[1:]))
    took = list[float]()
    end = time.perf_counter() + (MEASURED if seconds is None else seconds)
    while len(took) < 2 * WARM_UP or time.perf_counter() < end:
        start = time.perf_counter()
        backend.infer(batch)
        took.append(time.perf_counter() - start)
    return float(np.median(took[WARM_UP:])) * 1000
