"""The TensorRT backend on a GPU and a TensorRT of numpy (tensorrt_fakes), and which engines it takes."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from numpy.typing import NDArray
from tensorrt_fakes import (
    CARD,
    HEIGHT,
    LARGEST,
    ORIN,
    WIDTH,
    DataType,
    FakeMemory,
    FakeStream,
    FakeTensorRt,
    TensorIOMode,
    make_bundle,
    make_engine,
    maps_of,
    scores_of,
)

import dskd.runtime.inspection.backends
from dskd.export.engine_profile import LayerTime, profile_layers, profile_table
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import CallError, DeviceLost, DskdError, MissingPart
from dskd.runtime.inspection.backends import open_backend, tensorrt
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend, Ticket
from dskd.runtime.inspection.engine import LARGEST_FACTS, EngineFacts, engine_paths, read_facts, why_unfit, write_facts

VERSIONS = ("8.6.1", "10.0.1", "10.3.0", "11.4.0")
Images = NDArray[np.uint8]


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path)


class Rig:
    """A backend on fakes; ``plan`` is taken as just built here."""

    def __init__(self, folder: Path, memory: FakeMemory | None = None, **trt: Any) -> None:
        self.memory = FakeMemory() if memory is None else memory
        self.trt = FakeTensorRt(self.memory, **{k: v for k, v in trt.items() if k in ("version", "batch")})
        for name in trt.keys() - {"version", "batch"}:
            setattr(self.trt, name, trt[name])
        self.plan = folder / "candidate.plan"
        self.plan.write_bytes(b"plan")
        self.bundle = make_bundle(folder)

    def open(self) -> TensorRtBackend:
        return TensorRtBackend(self.bundle, "fp16", self.plan, self.memory, self.trt)


def images(rows: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (rows, HEIGHT, WIDTH, 3), np.uint8)


def check(output: tensorrt.TensorRtOutput, batch: Images) -> None:
    np.testing.assert_array_equal(output.scores, scores_of(batch))
    np.testing.assert_array_equal(output.maps(), maps_of(batch))


# ----------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("device", [CARD, ORIN])
@pytest.mark.parametrize("captures", [True, False])
def test_every_batch_size_gives_its_own_scores_and_maps(
    tmp_path: Path, version: str, device: Any, captures: bool
) -> None:
    backend = Rig(tmp_path, FakeMemory(device, captures), version=version).open()
    assert (backend.name, backend.graph) == ("tensorrt-fp16", "model.fp16.onnx")
    for k in range(6 * LARGEST):
        batch = images(1 + k % LARGEST, k)
        check(backend.infer(batch), batch)
    backend.close()


@pytest.mark.parametrize("first", [0, 1])
def test_two_batches_are_on_their_way_and_collected_in_any_order(tmp_path: Path, first: int) -> None:
    backend = Rig(tmp_path).open()
    for k in range(5):
        batches = [images(2, 2 * k), images(3, 2 * k + 1)]
        tickets = [backend.submit(batch) for batch in batches]
        expected = [scores_of(batch) for batch in batches]
        for batch in batches:
            batch[:] = 0  # the caller's own again as soon as it was submitted
        for which in (first, 1 - first):
            np.testing.assert_array_equal(backend.collect(tickets[which]).scores, expected[which])


def test_a_profile_says_where_the_time_goes(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    layers = profile_layers(rig.trt, rig.memory, rig.plan, None, (HEIGHT, WIDTH), 2)
    assert [(layer.name, round(layer.ms, 6), round(layer.share, 6)) for layer in layers] == [
        ("convolution", 0.3, 0.75), ("head", 0.1, 0.25),
    ]  # fmt: skip
    assert rig.memory.log[-1] == "memory"
    assert "75.0%  convolution" in profile_table(layers)
    assert "0.4000 ms  2 layers" in profile_table(layers)
    many = [LayerTime(f"layer {k}", 1.0, 0.05) for k in range(20)]
    assert "5.0000 ms  25.0%  5 others" in profile_table(many)


def test_after_a_failed_launch_the_device_is_waited_for_and_its_loss_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host must not write into what the device may still read; and TensorRT does not say which error it met."""
    rig = Rig(tmp_path)
    backend = rig.open()
    rig.trt.fail, waits = "execute", rig.memory.counts["synchronize"]
    with pytest.raises(DskdError, match="does not run"):
        backend.submit(images(1))
    assert rig.memory.counts["synchronize"] == waits + 1
    rig.trt.fail = ""
    check(backend.infer(images(2)), images(2))

    def lost(self: FakeStream) -> None:
        raise DeviceLost("the GPU failed (cuStreamSynchronize: CUDA_ERROR_LAUNCH_FAILED)")

    rig.trt.fail = "execute"
    monkeypatch.setattr(FakeStream, "synchronize", lost)
    with pytest.raises(DeviceLost):
        backend.infer(images(1))


def test_warmed_up_no_batch_size_needs_a_context_or_a_recording_any_more(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    backend = rig.open()
    backend.warm_up()
    assert rig.memory.counts["capture"] == 2 * LARGEST  # of each slot
    contexts, launched = rig.trt.contexts, rig.memory.counts["launch"]
    for k in range(4 * LARGEST):
        batch = images(1 + k % LARGEST, k)
        check(backend.infer(batch), batch)
    assert rig.trt.contexts == contexts
    assert rig.memory.counts["capture"] == 2 * LARGEST
    assert rig.memory.counts["launch"] == launched + 4 * LARGEST


def test_of_many_batch_sizes_powers_of_two_are_run_and_the_rest_is_filled_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path, batch=(1, 2, 12))
    backend = rig.open()
    backend.warm_up()
    assert rig.memory.counts["capture"] == 2 * len([1, 2, 4, 8, 12])
    contexts = rig.trt.contexts
    for rows in range(1, 13):
        batch = images(rows, rows)
        check(backend.infer(batch), batch)
    assert rig.trt.contexts == contexts


def test_results_are_there_only_after_waiting(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    backend = rig.open()
    ticket = backend.submit(images(1))
    assert not ticket.slot.scores.array.any()
    waits = rig.memory.counts["wait"]
    backend.collect(ticket)
    assert rig.memory.counts["wait"] == waits + 1


def test_waiting_for_one_batch_does_not_wait_for_the_next(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    backend = rig.open()
    first, second = backend.submit(images(1)), backend.submit(images(1, 1))
    backend.collect(first).maps()
    assert rig.memory.streams[1000].queue
    backend.collect(second)
    assert not rig.memory.streams[1000].queue


def test_threads_may_submit_and_collect(tmp_path: Path) -> None:
    backend = Rig(tmp_path).open()
    tickets: list[tuple[Images, Ticket]] = []
    room, ready = threading.Semaphore(tensorrt.SLOTS), threading.Semaphore(0)

    def produce() -> None:
        for k in range(200):
            room.acquire()
            batch = images(1 + k % LARGEST, k)
            tickets.append((batch, backend.submit(batch)))
            ready.release()

    thread = threading.Thread(target=produce)
    thread.start()
    for k in range(200):
        ready.acquire()
        batch, ticket = tickets[k]
        output = backend.collect(ticket)
        check(output, batch)
        room.release()
    thread.join()


@pytest.mark.parametrize(("batch", "rows"), [((3,), 1), ((3,), 3), ((2, 2, 4), 1)])
def test_a_batch_under_the_smallest_is_padded(tmp_path: Path, batch: tuple[int, ...], rows: int) -> None:
    backend = Rig(tmp_path, batch=batch).open()
    for k in range(6):
        check(backend.infer(images(rows, k)), images(rows, k))


# ---------------------------------------------------------------------------------------------------- slots and maps


def test_a_third_batch_is_refused_until_one_is_collected(tmp_path: Path) -> None:
    backend = Rig(tmp_path).open()
    tickets = [backend.submit(images(1, k)) for k in range(2)]
    with pytest.raises(DskdError, match="tensorrt-fp16: 2 batches are on their way; collect one before the next"):
        backend.submit(images(1))
    check(backend.collect(tickets[0]), images(1, 0))
    backend.collect(backend.submit(images(1, 2)))
    check(backend.collect(tickets[1]), images(1, 1))


def test_a_ticket_is_good_for_once_and_here(tmp_path: Path) -> None:
    backend, other = Rig(tmp_path).open(), Rig(tmp_path).open()
    ticket = backend.submit(images(1))
    with pytest.raises(DskdError, match="collected already or is another backend's"):
        other.collect(ticket)
    backend.collect(ticket)
    for _ in range(2):
        with pytest.raises(DskdError, match="collected already"):
            backend.collect(ticket)
    backend.collect(backend.submit(images(1)))
    backend.submit(images(1))  # the same slot again
    with pytest.raises(DskdError, match="collected already"):
        backend.collect(ticket)


def test_answers_are_the_callers_own(tmp_path: Path) -> None:
    backend = Rig(tmp_path).open()
    output = backend.infer(images(2, 0))
    check(output, images(2, 0))
    for k in range(1, 6):
        backend.infer(images(2, k)).maps()
    backend.close()
    check(output, images(2, 0))


def test_maps_live_until_their_slot_is_used_again(tmp_path: Path) -> None:
    backend = Rig(tmp_path).open()
    asked, unasked = backend.infer(images(2, 0)), backend.infer(images(2, 1))
    check(asked, images(2, 0))
    backend.submit(images(2, 2))
    backend.submit(images(2, 3))
    check(asked, images(2, 0))  # was asked for in time and kept
    np.testing.assert_array_equal(unasked.scores, scores_of(images(2, 1)))
    with pytest.raises(DskdError, match="a later batch took the place of these maps; ask right after collect"):
        unasked.maps()


@pytest.mark.parametrize(("device", "copies"), [(CARD, 1), (ORIN, 0)])
def test_copies_are_what_they_must_be(tmp_path: Path, device: Any, copies: int) -> None:
    """Input and scores are not copied where memory is shared; a map only when asked for, and once."""
    memory = FakeMemory(device, captures=False)
    backend = Rig(tmp_path, memory).open()
    memory.counts.clear()
    output = backend.infer(images(3))
    assert (memory.counts["to_device"], memory.counts["to_host"]) == (copies, copies)
    output.maps(), output.maps()
    assert (memory.counts["to_device"], memory.counts["to_host"]) == (copies, copies + 1)


# ------------------------------------------------------------------------------------------------------------ graphs


@pytest.mark.parametrize("device", [CARD, ORIN])
def test_a_graph_is_recorded_once_per_slot_and_batch_size(tmp_path: Path, device: Any) -> None:
    rig = Rig(tmp_path, FakeMemory(device))
    backend = rig.open()
    counts = rig.memory.counts

    def calls(rows: int) -> tuple[int, int, int]:
        before = counts.copy()
        for k in range(tensorrt.SLOTS):  # each slot once
            check(backend.infer(images(rows, k)), images(rows, k))
        return tuple((counts - before)[what] for what in ("execute", "capture", "launch"))  # type: ignore[return-value]

    assert [calls(1) for _ in range(4)] == [(2, 0, 0), (4, 2, 0), (0, 0, 2), (0, 0, 2)]
    assert [calls(3) for _ in range(3)] == [(2, 0, 0), (4, 2, 0), (0, 0, 2)]
    assert calls(1) == (0, 0, 2)
    assert rig.trt.contexts == 1 + 4


@pytest.mark.parametrize(
    "obstacle",
    [
        lambda rig: setattr(rig.trt, "fail", "recording"),
        lambda rig: setattr(rig.trt, "fail", "second context"),
        lambda rig: setattr(rig.trt, "exclusive_profile", True),
        lambda rig: setattr(rig.memory, "fail", "capture"),
    ],
)
def test_where_no_graph_can_be_recorded_it_runs_without_after_one_try(
    tmp_path: Path, obstacle: Callable[[Rig], None]
) -> None:
    rig = Rig(tmp_path, version="8.6.1")
    obstacle(rig)
    backend = rig.open()
    for k in range(12):
        check(backend.infer(images(1 + k % 2, k)), images(1 + k % 2, k))
    assert rig.memory.counts["capture"] <= 1
    assert rig.memory.counts["launch"] == 0
    assert rig.trt.contexts <= 2


def test_ten_thousand_calls_leave_nothing_behind(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    backend = rig.open()
    batches = [images(1 + k, k) for k in range(LARGEST)]

    def state() -> tuple[int, ...]:
        gc.collect()
        return len(gc.get_objects()), len(rig.memory.blocks), rig.trt.contexts, sys.getallocatedblocks()

    def calls(count: int) -> None:
        for k in range(count):
            output = backend.infer(batches[k % LARGEST])
            if k % 10 == 0:
                output.maps()

    calls(100)
    before = state()
    calls(10_000)
    after = state()
    assert after[1:3] == before[1:3]
    assert after[0] - before[0] < 50
    assert after[3] - before[3] < 500


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(("batch", "largest"), [((1, 2, 4), 4), ((2,), 2)])
def test_a_batch_too_large_names_both_numbers(tmp_path: Path, batch: tuple[int, ...], largest: int) -> None:
    backend = Rig(tmp_path, batch=batch).open()
    with pytest.raises(
        DskdError, match=f"a batch of {largest + 1} does not fit the engine, which takes 1 to {largest};"
    ):
        backend.infer(images(largest + 1))
    with pytest.raises(DskdError, match="a batch of 0 does not fit"):
        backend.infer(images(0))
    check(backend.infer(images(largest)), images(largest))


@pytest.mark.parametrize(
    "wrong", [images(1).astype(np.float32), images(1)[0], images(1)[:, :-1], images(1)[..., :1], images(1)[:, :, 1:]]
)
def test_what_is_no_batch_of_this_bundle_is_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(DskdError, match=r"is no uint8 \[N, 6, 8, 3\]; preprocess"):
        Rig(tmp_path).open().infer(wrong)


@pytest.mark.parametrize(
    ("fail", "kind", "said"),
    [
        ("runtime", MissingPart, r"TensorRT 10.3.0 does not start \(CUDA initialization failure with error: 35\); check"),
        ("deserialize", DskdError, r"candidate.plan: TensorRT cannot load it \(Serialization assertion .* failed\); build it again"),
        ("context", DskdError, r"candidate.plan has no execution context \(createExecutionContext: .* OutOfMemory\)"),
        ("address", DskdError, r"candidate.plan does not give one score and map per image for a batch of 4 \(TensorRT gave no"),
    ],
)  # fmt: skip
def test_a_plan_that_does_not_start_is_one_line_and_frees_the_device(
    tmp_path: Path, fail: str, kind: type[DskdError], said: str
) -> None:
    rig = Rig(tmp_path, fail=fail)
    with pytest.raises(DskdError, match=said) as error:
        rig.open()
    assert type(error.value) is kind
    assert "only a warning" not in str(error.value)
    assert "\n" not in str(error.value)
    assert not rig.memory.blocks


IMAGE, SCORE = (TensorIOMode.INPUT, DataType.UINT8), (TensorIOMode.OUTPUT, DataType.FLOAT)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": None}, "its tensors"),
        ({"anomaly_map": None}, "its tensors"),
        ({"more": (*SCORE, (HEIGHT,))}, r"more \[-1, 6\].* are not those of this bundle; build it again"),
        ({"image": (*IMAGE, (HEIGHT, WIDTH + 1, 3))}, r"image \[-1, 6, 9, 3\]"),
        ({"image": (*IMAGE, (3, HEIGHT, WIDTH))}, "its tensors"),
        ({"image": (*IMAGE, (HEIGHT, WIDTH))}, "its tensors"),
        ({"image": (TensorIOMode.INPUT, DataType.FLOAT, (HEIGHT, WIDTH, 3))}, "its tensors"),
        ({"score": (TensorIOMode.OUTPUT, DataType.HALF, ())}, "its tensors"),
        ({"score": (TensorIOMode.INPUT, DataType.FLOAT, ())}, "its tensors"),
        ({"score": (*SCORE, (1,))}, "one score and map per image"),
        ({"anomaly_map": (*SCORE, (WIDTH, HEIGHT))}, "one score and map per image"),
    ],
)
def test_a_plan_with_other_tensors_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    rig = Rig(tmp_path)
    rig.trt.tensors = {k: v for k, v in {**rig.trt.tensors, **changes}.items() if v is not None}
    with pytest.raises(DskdError, match=said):
        rig.open()
    assert not rig.memory.blocks


@pytest.mark.parametrize("call", ["stream", "allocate", "host", "event"])
def test_a_device_without_memory_is_left_clean(tmp_path: Path, call: str) -> None:
    rig = Rig(tmp_path)
    rig.memory.fail = call
    with pytest.raises(DskdError, match=rf"the GPU failed \({call}\)"):
        rig.open()
    assert not rig.memory.blocks


@pytest.mark.parametrize("call", ["to_device", "execute", "to_host", "record", "wait"])
@pytest.mark.parametrize("calls_before", [0, 2])
def test_a_failing_call_is_an_error_and_the_next_batch_is_right(tmp_path: Path, call: str, calls_before: int) -> None:
    """``calls_before`` 2: while the graph is made."""
    rig = Rig(tmp_path, FakeMemory(captures=calls_before == 0))
    backend = rig.open()
    for k in range(calls_before):
        backend.infer(images(1, k))
    rig.memory.fail = call
    for _ in range(3):  # slots are given back: a third failure is not "two are on their way"
        with pytest.raises(DskdError, match=rf"the GPU failed \({call}\)"):
            backend.infer(images(1))
    rig.memory.fail = None
    for k in range(5):
        check(backend.infer(images(2, k)), images(2, k))


def test_what_tensorrt_refuses_to_run_is_said_in_its_words(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    backend = rig.open()
    rig.trt.fail = "execute"
    with pytest.raises(
        DskdError, match=r"candidate.plan does not run \(IExecutionContext::enqueueV3: .*no power\)\); start again"
    ):
        backend.infer(images(1))
    rig.trt.fail = ""
    check(backend.infer(images(1)), images(1))


def test_a_plan_that_cannot_be_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.plan.unlink()
    with pytest.raises(
        DskdError, match=r"candidate.plan: cannot be read \(No such file or directory\); build it again"
    ):
        rig.open()


# ------------------------------------------------------------------------------------------------------------- close


def test_close_frees_in_order_and_twice_does_no_harm(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    backend = rig.open()
    for k in range(4):
        backend.infer(images(1, k))
    ticket = backend.submit(images(1))
    output = backend.infer(images(1))
    rig.memory.log.clear()
    waits = rig.memory.counts["synchronize"]
    backend.close()
    backend.close()
    assert rig.memory.log == ["graph", "graph", "context", "context", "context", "engine", "runtime", "memory"]
    assert rig.memory.counts["synchronize"] == waits + 2
    for use in (lambda: backend.infer(images(1)), lambda: backend.collect(ticket), output.maps):
        with pytest.raises(DskdError, match="tensorrt-fp16 is closed; open the backend again"):
            use()


@pytest.mark.parametrize("call", ["synchronize", "graph freed"])
def test_close_of_a_device_that_failed_is_silent(tmp_path: Path, call: str) -> None:
    rig = Rig(tmp_path)
    backend = rig.open()
    for k in range(4):
        backend.infer(images(1, k))
    rig.memory.fail = call
    backend.close()
    assert rig.memory.log[-3:] == ["engine", "runtime", "memory"]


# ------------------------------------------------------------------------------------------------------------- facts


def test_facts_come_back_as_they_were_written(bundle_folder: Bundle) -> None:
    facts = make_engine(bundle_folder, "int8", dla_core=1)
    plan, file = engine_paths(bundle_folder, "int8")
    assert (plan.name, file.name, plan.parent) == ("model.int8.plan", "model.int8.json", bundle_folder.path / "engines")
    assert read_facts(file) == facts
    assert why_unfit(facts, plan, bundle_folder, CARD, "10.3.0") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "int8"}, "built from model.fp16.onnx as int8"),
        ({"graph": "model.onnx"}, "built from model.onnx as fp16"),
        ({"graph": "../other.onnx"}, "which this bundle does not hold"),
        ({"graph_sha256": "1" * 64}, "it was built for graph 111111111111, here is"),
        ({"bundle": "earlier thresholds"}, None),
        ({"tensorrt": "10.16.2"}, "it was built for TensorRT 10.16.2, here is 10.3.0"),
        ({"gpu": "Orin"}, "it was built for GPU Orin, here is Card"),
        ({"compute_capability": "8.7"}, "it was built for compute capability 8.7, here is 9.0"),
        ({"plan_sha256": "2" * 64}, "its plan's sha256 is .*, its facts say 222222222222"),
        ({"score_difference": 0.5}, r"it differs from the trained model by 5.0e-01 in score .*allowed 1.0e-02"),
        ({"map_difference": 0.5}, "and 5.0e-01 in map"),
        ({"batch": [1, 1, 1], "dla_core": 1, "build_seconds": 900, "created": "earlier"}, None),
    ],
)
def test_a_plan_is_loaded_only_where_its_facts_fit(
    bundle_folder: Bundle, changes: dict[str, Any], said: str | None
) -> None:
    memory = FakeMemory()
    trt = FakeTensorRt(memory)
    make_engine(bundle_folder, **changes)
    if said is None:
        TensorRtBackend(bundle_folder, "fp16", memory=memory, trt=trt).close()
        return
    with pytest.raises(
        DskdError, match=rf"model.fp16.plan: does not fit here: .*{said}.*; build it again: dskd export.trt --fp16"
    ):
        TensorRtBackend(bundle_folder, "fp16", memory=memory, trt=trt)
    assert memory.counts["deserialize"] == 0


def test_facts_of_another_precision_are_refused(bundle_folder: Bundle) -> None:
    make_engine(bundle_folder, "int8")
    for wrong, right in zip(engine_paths(bundle_folder, "int8"), engine_paths(bundle_folder, "fp16"), strict=True):
        shutil.copy(wrong, right)
    with pytest.raises(DskdError, match=r"it was built as int8; build it again: dskd export.trt --fp16"):
        TensorRtBackend(bundle_folder, "fp16", memory=FakeMemory(), trt=FakeTensorRt(FakeMemory()))


def test_a_changed_plan_is_never_deserialised(bundle_folder: Bundle) -> None:
    make_engine(bundle_folder)
    engine_paths(bundle_folder, "fp16")[0].write_bytes(b"plan changed")
    memory = FakeMemory()
    with pytest.raises(DskdError, match="plan's sha256"):
        TensorRtBackend(bundle_folder, "fp16", memory=memory, trt=FakeTensorRt(memory))
    assert memory.counts["deserialize"] == 0


def test_a_bundle_without_that_graph_has_no_such_engine(bundle_folder: Bundle) -> None:
    facts = make_engine(bundle_folder, "int8")
    graphs = {k: v for k, v in bundle_folder.manifest.graphs.items() if k != "model.int8.onnx"}
    poorer = Bundle(bundle_folder.path, bundle_folder.manifest.model_copy(update={"graphs": graphs}))
    assert "does not hold" in str(why_unfit(facts, engine_paths(poorer, "int8")[0], poorer, CARD, "10.3.0"))
    assert "cannot be read" in str(why_unfit(facts, Path("nowhere"), bundle_folder, CARD, "10.3.0"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fields: "", "Invalid JSON"),
        (lambda fields: "[" * 5000, "Invalid JSON"),
        (lambda fields: "[]", "top level"),
        (lambda fields: "\x00\xff", "Invalid JSON"),
        (lambda fields: json.dumps({**fields, "extra": 1}), "extra: Extra inputs are not permitted"),
        (lambda fields: json.dumps({k: v for k, v in fields.items() if k != "gpu"}), "gpu: Field required"),
        (lambda fields: json.dumps({**fields, "batch": [4, 2, 1]}), "batch: .*must rise"),
        (lambda fields: json.dumps({**fields, "batch": [0, 1, 1]}), "batch"),
        (lambda fields: json.dumps({**fields, "batch": [1, 1]}), "batch"),
        (lambda fields: json.dumps({**fields, "plan_sha256": "beef"}), "plan_sha256"),
        (lambda fields: json.dumps({**fields, "precision": "fp8"}), "precision"),
        (lambda fields: json.dumps({**fields, "score_difference": float("nan")}), "score_difference|Invalid JSON"),
        (lambda fields: json.dumps({**fields, "map_difference": -1}), "map_difference"),
        (lambda fields: json.dumps({**fields, "dla_core": -1}), "dla_core"),
        (lambda fields: " " * (LARGEST_FACTS + 1), "is too large for engine facts"),
    ],
)
def test_broken_facts_are_one_line(bundle_folder: Bundle, change: Callable[[dict[str, Any]], str], said: str) -> None:
    make_engine(bundle_folder)
    file = engine_paths(bundle_folder, "fp16")[1]
    file.write_text(change(json.loads(file.read_text())), encoding="latin-1")
    with pytest.raises(DskdError, match=rf"model.fp16.json: .*({said})") as error:
        TensorRtBackend(bundle_folder, "fp16", memory=FakeMemory(), trt=FakeTensorRt(FakeMemory()))
    assert "build the engine again" in str(error.value)


def test_facts_that_are_no_file_are_not_waited_for(bundle_folder: Bundle) -> None:
    make_engine(bundle_folder)
    file = engine_paths(bundle_folder, "fp16")[1]
    file.unlink()
    with pytest.raises(DskdError, match="there are no engine facts; build the engine again"):
        read_facts(file)
    os.mkfifo(file)
    with pytest.raises(DskdError, match="there are no engine facts"):
        read_facts(file)


def test_facts_are_written_whole(bundle_folder: Bundle) -> None:
    facts = make_engine(bundle_folder)
    file = engine_paths(bundle_folder, "fp16")[1]
    write_facts(file, facts.model_copy(update={"created": "later"}))
    assert read_facts(file).created == "later"
    assert sorted(path.name for path in file.parent.iterdir()) == ["model.fp16.json", "model.fp16.plan"]
    with pytest.raises(ValueError, match="frozen"):
        facts.created = "now"  # type: ignore[misc]
    assert set(json.loads(file.read_text())) == set(EngineFacts.model_fields)


def test_the_dla_core_of_the_facts_is_used(bundle_folder: Bundle) -> None:
    memory = FakeMemory()
    trt = FakeTensorRt(memory)
    make_engine(bundle_folder, dla_core=1)
    TensorRtBackend(bundle_folder, "fp16", memory=memory, trt=trt).close()
    assert trt.dla_cores == [1]
    make_engine(bundle_folder, dla_core=2)
    with pytest.raises(DskdError, match="needs DLA core 2, and TensorRT finds 2 cores here"):
        TensorRtBackend(bundle_folder, "fp16", memory=FakeMemory(), trt=trt)


# --------------------------------------------------------------------------------------------------------- selection


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A machine with a GPU, TensorRT and GPU memory."""
    trt = FakeTensorRt(FakeMemory())

    def open_memory(device: Any) -> FakeMemory:
        trt.memory = FakeMemory(device)
        return trt.memory

    monkeypatch.setattr(tensorrt, "find_device", lambda: CARD)
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda: trt)
    monkeypatch.setattr(tensorrt, "open_memory", open_memory)
    return trt


def never(*arguments: Any) -> Any:
    raise AssertionError("was asked")


def test_tensorrt_takes_the_fastest_engine_that_fits(
    bundle_folder: Bundle, card: FakeTensorRt, capsys: pytest.CaptureFixture[str]
) -> None:
    for precision in ("fp32", "fp16", "int8"):
        make_engine(bundle_folder, precision)  # type: ignore[arg-type]
    assert open_backend(bundle_folder, "tensorrt").name == "tensorrt-int8"
    assert open_backend(bundle_folder, "tensorrt", precision="fp32").graph == "model.onnx"
    assert capsys.readouterr().err == ""
    make_engine(bundle_folder, "int8", tensorrt="9.9")
    assert open_backend(bundle_folder, "tensorrt").name == "tensorrt-fp16"
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "model.int8.plan: does not fit here: it was built for TensorRT 9.9, here is 10.3.0" in told[0]
    with pytest.raises(DskdError, match=r"TensorRT 9.9"):
        open_backend(bundle_folder, "tensorrt", precision="int8")
    card.fail = "runtime"
    with pytest.raises(MissingPart, match="does not start"):
        open_backend(bundle_folder, "tensorrt")


def test_tensorrt_without_engines_says_how_to_build_one(bundle_folder: Bundle, card: FakeTensorRt) -> None:
    with pytest.raises(MissingPart, match=r"model.fp16.plan: there is no engine; build it: dskd export.trt --fp16"):
        open_backend(bundle_folder, "tensorrt")
    with pytest.raises(MissingPart, match=r"there is no engine; build it: dskd export.trt --int8"):
        open_backend(bundle_folder, "tensorrt", precision="int8")


def test_auto_without_engines_asks_nobody(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tensorrt, "find_device", never)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert isinstance(open_backend(bundle, "auto"), OnnxRuntimeBackend)
    assert capsys.readouterr().err == ""


def test_auto_with_an_engine_takes_it(bundle_folder: Bundle, card: FakeTensorRt) -> None:
    make_engine(bundle_folder, "fp32")
    assert open_backend(bundle_folder, "auto").name == "tensorrt-fp32"


@pytest.mark.parametrize(
    ("hindrance", "said"),
    [
        (
            lambda patch: patch.setattr(tensorrt, "find_device", missing("no NVIDIA driver here")),
            "no NVIDIA driver here",
        ),
        (lambda patch: patch.setattr(tensorrt, "load_tensorrt", missing("no TensorRT")), "no TensorRT"),
        (
            lambda patch: patch.setattr(tensorrt, "open_memory", missing("pip install cuda-bindings")),
            "pip install cuda",
        ),
        (lambda patch: None, "does not fit here"),
    ],
)
def test_auto_passes_over_an_engine_that_cannot_be_used_and_says_why(
    bundle: Bundle, tmp_path: Path, card: FakeTensorRt, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], hindrance: Callable[[pytest.MonkeyPatch], None], said: str,
) -> None:  # fmt: skip
    shutil.copytree(bundle.path, tmp_path / "bundle")
    copy = Bundle(tmp_path / "bundle", bundle.manifest)
    facts = make_engine(Bundle(tmp_path / "bundle", make_bundle(tmp_path).manifest), "fp32")
    if said != "does not fit here":
        sha = bundle.manifest.files["model.onnx"]
        write_facts(engine_paths(copy, "fp32")[1], facts.model_copy(update={"graph_sha256": sha}))
    hindrance(monkeypatch)
    monkeypatch.setitem(sys.modules, "openvino", None)
    backend = open_backend(copy, "auto")
    assert isinstance(backend, OnnxRuntimeBackend)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("passed over: ")
    assert said in told[0]


def missing(text: str) -> Callable[..., Any]:
    def part(*arguments: Any) -> Any:
        raise MissingPart(text)

    return part


def test_an_unknown_backend_is_a_wrong_call(bundle_folder: Bundle) -> None:
    with pytest.raises(CallError, match="one of: auto, onnxruntime, openvino, tensorrt"):
        open_backend(bundle_folder, "magic")
    assert next(iter(dskd.runtime.inspection.backends.BACKENDS)) == "auto"


@pytest.mark.parametrize("precision", [(), ("--precision", "fp16")])
def test_the_command_without_a_gpu_says_what_is_missing(
    bundle: Bundle, command: Command, precision: tuple[str]
) -> None:
    done = command("runtime", "--bundle", bundle.path, "--backend", "tensorrt", *precision)
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "no NVIDIA driver" in done.stderr or "there is no engine" in done.stderr


def test_the_command_runs_by_itself_on_what_is_there(bundle: Bundle, command: Command) -> None:
    done = command("runtime", "--bundle", bundle.path)
    assert done.returncode == 0, done.stderr
    assert "on onnxruntime-" in done.stdout or "on openvino-" in done.stdout
    assert done.stderr == ""
