"""Engines that are built, proved and run here: parity with onnxruntime, overlap, and nothing left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from numpy.typing import NDArray

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.capture.image_files import list_images, read_image
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend
from dskd.runtime.inspection.cuda import Device, open_memory
from dskd.runtime.inspection.engine import GRAPHS, engine_paths, read_facts, write_facts
from dskd.runtime.inspection.golden import LIMITS, disagreement, golden_check
from dskd.runtime.inspection.preprocess import preprocess
from gpu.conftest import Build

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
CALLS, DEVICE_GROWTH, HOST_GROWTH = 10_000, 8 << 20, 16 << 20  # bytes; other programs use the machine too
Images = NDArray[np.uint8]
Open = Callable[[Bundle, Precision], TensorRtBackend]


@pytest.fixture
def open_engine(device: Device, adapter: str) -> Iterator[Open]:
    """Opens the bundle's engine with each package for GPU memory."""
    opened: list[TensorRtBackend] = []

    def call(bundle: Bundle, precision: Precision) -> TensorRtBackend:
        opened.append(TensorRtBackend(bundle, precision, memory=open_memory(device, adapter)))
        return opened[-1]

    yield call
    for backend in opened:
        backend.close()


@pytest.fixture(scope="session")
def pictures(device_bundle: Bundle, small_set: Path) -> Images:
    """Network inputs: the golden frames, then good and defective parts."""
    spec = device_bundle.manifest.input
    files = list_images(small_set / "test")
    parts = [preprocess(read_image(file), spec.height, spec.width, spec.crop) for file in files]
    return np.concatenate([device_bundle.golden().inputs, np.stack(parts)])


def batches(pictures: Images, largest: int, count: int) -> list[Images]:
    """Batches of every size from 1 to the largest, over and over."""
    generator = np.random.default_rng(0)
    return [pictures[generator.choice(len(pictures), 1 + k % min(largest, len(pictures)))] for k in range(count)]


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_built_engine_passes_the_golden_check(build: Build, open_engine: Open, precision: Precision) -> None:
    bundle = build(precision)
    facts = read_facts(engine_paths(bundle, precision)[1])
    backend = open_engine(bundle, precision)
    check = golden_check(bundle, backend)
    assert (facts.precision, facts.graph) == (precision, GRAPHS[precision])
    assert check.score == pytest.approx(facts.score_difference, abs=1e-6)
    assert check.map == pytest.approx(facts.map_difference, abs=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_says_what_onnxruntime_says_of_the_same_graph(
    build: Build, open_engine: Open, pictures: Images, precision: Precision
) -> None:
    bundle = build(precision)
    graph = GRAPHS[precision]
    backend, reference = open_engine(bundle, precision), OnnxRuntimeBackend(bundle, graph)
    for batch in batches(pictures, bundle.manifest.max_batch, 3 * bundle.manifest.max_batch):
        found, expected = backend.infer(batch), reference.infer(batch)
        limits = LIMITS[precision]
        assert disagreement(found.scores, found.maps(), expected.scores, expected.maps(), limits) == ""
        np.testing.assert_allclose(found.maps().max((1, 2)), found.scores, rtol=1e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_overlapping_batches_get_their_own_answers(
    build: Build, open_engine: Open, pictures: Images, precision: Precision
) -> None:
    bundle = build(precision)
    backend = open_engine(bundle, precision)
    work = batches(pictures, bundle.manifest.max_batch, 200)
    alone = [backend.infer(batch) for batch in work[:1]]  # the first one waits for the driver
    alone = [backend.infer(batch) for batch in work]
    expected = [output.scores for output in alone]
    waiting = backend.submit(work[0])
    for k in range(len(work)):
        ticket = waiting
        if k + 1 < len(work):
            waiting = backend.submit(work[k + 1])
        output = backend.collect(ticket)
        np.testing.assert_allclose(output.scores, expected[k], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(output.maps().max((1, 2)), output.scores, rtol=1e-3)


def test_graphs_answer_as_plain_runs_do(build: Build, device: Device, pictures: Images) -> None:
    memory = open_memory(device)
    if not memory.captures:
        memory.close()
        pytest.skip(f"{memory.name} records no graphs")
    bundle = build("fp32")
    backend = TensorRtBackend(bundle, "fp32", memory=memory)
    rounds = [[backend.infer(pictures[k : k + 1]).scores for k in range(8)] for _ in range(4)]
    assert all(slot.graphs for slot in backend._slots)
    for later in rounds[1:]:
        np.testing.assert_allclose(later, rounds[0], rtol=1e-4)
    backend.close()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_ten_thousand_calls_leave_nothing_behind(
    build: Build, open_engine: Open, pictures: Images, free_bytes: Callable[[], int], precision: Precision
) -> None:
    bundle = build(precision)
    backend = open_engine(bundle, precision)
    work = batches(pictures, bundle.manifest.max_batch, 64)

    def calls(count: int) -> None:
        for k in range(count):
            output = backend.infer(work[k % len(work)])
            if k % 16 == 0:
                output.maps()

    calls(512)  # every size in every slot has its graph
    device_before, host_before = free_bytes(), resident()
    calls(CALLS)
    assert device_before - free_bytes() < DEVICE_GROWTH
    assert resident() - host_before < HOST_GROWTH


def test_opening_and_closing_leaves_nothing_behind(
    build: Build, device: Device, adapter: str, pictures: Images, free_bytes: Callable[[], int]
) -> None:
    bundle = build("fp32")

    def use() -> None:
        backend = TensorRtBackend(bundle, "fp32", memory=open_memory(device, adapter))
        for k in range(6):
            backend.infer(pictures[k : k + 1]).maps()
        backend.close()
        backend.close()

    use()
    before = free_bytes()
    for _ in range(10):
        use()
    assert before - free_bytes() < 1 << 26


def test_too_large_a_batch_and_an_engine_of_elsewhere_are_refused(build: Build, pictures: Images) -> None:
    bundle = build("fp32")
    largest = bundle.manifest.max_batch
    backend = TensorRtBackend(bundle, "fp32")
    with pytest.raises(DskdError, match=rf"a batch of {largest + 1} does not fit .* takes 1 to {largest};"):
        backend.infer(np.repeat(pictures[:1], largest + 1, 0))
    backend.close()
    file = engine_paths(bundle, "fp32")[1]
    facts = read_facts(file)
    write_facts(file, facts.model_copy(update={"gpu": "another"}))
    with pytest.raises(DskdError, match="it was built for GPU another, here is"):
        TensorRtBackend(bundle, "fp32")
    write_facts(file, facts)


def test_the_runtime_takes_the_engine_by_itself(build: Build, command: Command) -> None:
    bundle = build("fp32")
    backend = open_backend(bundle, "auto")
    assert backend.name.startswith("tensorrt-")
    backend.close()
    done = command("runtime", "--bundle", bundle.path, "--json")
    assert done.returncode == 0, done.stderr
    assert {i["backend"].split("-")[0] for i in json.loads(done.stdout)["inspections"]} == {"tensorrt"}
