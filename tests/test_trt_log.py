"""What TensorRT's log means: a failed build says why, and what to do next."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_builder import FakeTensorRT, Severity

from dskd.export.engine_build import BuildOptions, build_engine
from dskd.export.engine_errors import BuildLog, build_failure
from dskd.runtime.errors import DskdError, MissingPart

ONE = BuildOptions((1, 1, 1))


NO_NODE = (
    "10: [optimizer.cpp::computeCosts::1855] Error Code 10: Internal Error (Could not find any implementation for node"
)
LOGS = [
    pytest.param(  # NVIDIA/TensorRT#2643, 8.5
        [
            (Severity.WARNING, "Requested amount of GPU memory (68719476736 bytes) could not be allocated."),
            (Severity.ERROR, "2: [virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (none)"),
            (Severity.ERROR, f"{NO_NODE} (Unnamed Layer* 0) [RNN].)"),
        ],
        r"not enough memory .* at node \(Unnamed Layer\* 0\) \[RNN\]; close other programs.*--workspace",
        id="memory-8",
    ),
    pytest.param(  # memory is told in warnings only
        [
            (Severity.WARNING, "Skipping tactic 3 due to insufficient memory on requested size of 68719476736."),
            (
                Severity.ERROR,
                "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation "
                "for node /path/layer1.0/Conv. In computeCosts at /_src/optimizer/common/tactic/optimizer.cpp:4115)",
            ),
        ],
        r"not enough memory .* at node /path/layer1.0/Conv; close",
        id="memory-10",
    ),
    pytest.param(
        [(Severity.ERROR, "Cuda Error in allocate: 2 (out of memory)")], "not enough memory", id="memory-cuda"
    ),
    pytest.param(
        [
            (Severity.WARNING, "Some tactics do not have sufficient workspace memory to run."),
            (Severity.ERROR, f"{NO_NODE} Conv_119 + Add_182.)"),
        ],
        r"workspace is too small for node Conv_119 \+ Add_182; give a larger --workspace",
        id="workspace",
    ),
    pytest.param(
        [(Severity.ERROR, f"{NO_NODE} {{ForeignNode[a...b_615]}}.)")],
        r"no implementation for node \{ForeignNode\[a\.\.\.b_615\]\}; use a newer TensorRT",
        id="no-implementation",
    ),
    pytest.param(  # 10.3 on an Orin NX
        [
            (
                Severity.ERROR,
                "Error Code 2: Internal Error (Assertion allowGPUFallback failed. Layer '644' is not supported on DLA "
                "but GPU fallback is not enabled.)",
            )
        ],
        "DLA cannot run layer 644; add --gpu-fallback",
        id="dla",
    ),
    pytest.param(  # JetPack 7.0 on an Orin
        [(Severity.ERROR, "Target GPU SM 87 is not supported by this TensorRT release.")],
        r"no code for this GPU \(SM 87\)",
        id="architecture",
    ),
    pytest.param([], "it gave no reason", id="silence"),
]


@pytest.mark.parametrize(("log", "meaning"), LOGS)
def test_a_failed_build_says_why_and_what_next(log: list[tuple[Severity, str]], meaning: str) -> None:
    with pytest.raises(DskdError, match=meaning):
        build_engine(FakeTensorRT(log=log, plan=None), Path("model.fp16.onnx"), ONE)


def test_memory_that_was_short_on_the_way_is_not_blamed_for_another_error() -> None:
    log = BuildLog(
        warnings=["Skipping tactic 3 due to insufficient memory.", "Tactics do not have sufficient workspace memory."],
        errors=["IBuilder::x: Error Code 4: API Usage Error (K exceeds the maximum value. In check at /_src/a.cpp:1)"],
    )
    assert "(K exceeds the maximum value)" in str(build_failure(log, Path("m.onnx")))


def test_8_6_names_the_operator_from_its_log() -> None:
    """Its parser errors have no node_name and no node_operator."""
    error = SimpleNamespace(node=lambda: 12, desc=lambda: "No importer registered for op: Unique")
    said = [(Severity.ERROR, 'ModelImporter.cpp:773: While parsing node number 12 [Unique -> "out"]:')]
    with pytest.raises(DskdError, match=r"operator Unique of node number 12 \(No importer registered for op: Unique\)"):
        build_engine(FakeTensorRT("8.6.1", log=said, parse_error=error), Path("m.onnx"), ONE)


def test_a_tensorrt_that_does_not_start_is_missing() -> None:
    trt = FakeTensorRT()

    def start(logger: object) -> None:
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")  # type: ignore[attr-defined]
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder = start  # type: ignore[method-assign]
    with pytest.raises(MissingPart, match=r"TensorRT 10.3.0 does not start \(CUDA initialization failure"):
        build_engine(trt, Path("m.onnx"), ONE)
