"""A GPU and a TensorRT of numpy, with the real ones' names and manners.

Nothing happens before somebody waits: a stream keeps its work until then, copies read their source only then, and
memory that was not written holds rubbish. So a forgotten wait or a buffer used too early gives wrong numbers here too.
A graph breaks when its context is bound anew, as TensorRT says of its own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Manifest, Precision
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.cuda.base import HostBuffer
from dskd.runtime.inspection.cuda.device import Device
from dskd.runtime.inspection.engine import GRAPHS, EngineFacts, engine_paths, write_facts

HEIGHT, WIDTH, LARGEST = 6, 8, 4
ORIN = Device(0, "Orin", "8.7", 8 << 30, True)
CARD = Device(0, "Card", "9.0", 80 << 30, False)
RUBBISH = 0xAB


def scores_of(images: Any) -> Any:
    """What the fake engine answers."""
    return (images.reshape(len(images), -1).mean(1) / 255).astype(np.float32)


def maps_of(images: Any) -> Any:
    return (images[..., 0] / 255).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------ device


class FakeStream:
    def __init__(self, memory: FakeMemory, handle: int) -> None:
        self.memory, self.handle = memory, handle
        self.queue: list[Any] = []  # work, and events that mark a point
        self.recorded: list[Any] | None = None

    def add(self, item: Any) -> None:
        assert self.memory.depth, "used outside of active()"
        (self.queue if self.recorded is None else self.recorded).append(item)

    def run(self, until: object = None) -> None:
        while self.queue:
            item = self.queue.pop(0)
            if item is until:
                return
            if callable(item):
                item()

    def synchronize(self) -> None:
        assert self.recorded is None, "waited while recording"
        self.memory.call("synchronize")
        self.run()


class FakeEvent:
    def __init__(self, memory: FakeMemory) -> None:
        self.memory = memory
        self.stream: FakeStream | None = None
        self.mark = object()

    def record(self, stream: FakeStream) -> None:
        self.memory.call("record")
        self.stream, self.mark = stream, object()
        stream.add(self.mark)

    def synchronize(self) -> None:
        self.memory.call("wait")
        if self.stream is not None and self.mark in self.stream.queue:
            self.stream.run(until=self.mark)


class FakeGraph:
    def __init__(self, memory: FakeMemory, work: list[Any]) -> None:
        self.memory, self.work = memory, work

    def launch(self, stream: FakeStream) -> None:
        self.memory.call("launch")
        for item in self.work:
            stream.add(item)

    def close(self) -> None:
        self.memory.call("graph freed")
        self.memory.log.append("graph")


class FakeMemory:
    """``counts`` says how often what was called, ``log`` in which order things were freed.

    ``fail`` names a call that the device refuses from now on.
    """

    name = "fake"

    def __init__(self, device: Device = CARD, captures: bool = True) -> None:
        self.device, self.captures = device, captures
        self.counts: Counter[str] = Counter()
        self.log: list[str] = []
        self.fail: str | None = None
        self.depth = 0
        self.blocks: dict[int, Any] = {}
        self.streams: dict[int, FakeStream] = {}

    def call(self, what: str) -> None:
        assert self.depth, "used outside of active()"
        self.counts[what] += 1
        if self.fail == what:
            raise DskdError(f"the GPU failed ({what}); start again")

    @contextmanager
    def active(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def _block(self, size: int) -> int:
        address = 4096 * (1 + len(self.blocks)) + (max(self.blocks, default=0) | 0xFFF) + 1
        self.blocks[address] = np.full(size, RUBBISH, np.uint8)
        return address

    def at(self, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        """The memory there, which must be large enough."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.blocks[address][:size].view(dtype).reshape(shape)

    def host(self, shape: tuple[int, ...], dtype: Any) -> HostBuffer:
        self.call("host")
        address = self._block(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        array = self.at(address, shape, dtype)
        array.fill(0)
        return HostBuffer(array, address)

    def allocate(self, size: int) -> int:
        self.call("allocate")
        return self._block(size)

    def stream(self) -> FakeStream:
        self.call("stream")
        stream = FakeStream(self, 1000 + len(self.streams))
        self.streams[stream.handle] = stream
        return stream

    def event(self) -> FakeEvent:
        self.call("event")
        return FakeEvent(self)

    def to_device(self, address: int, source: HostBuffer, rows: int, stream: FakeStream) -> None:
        self.call("to_device")
        target = self.at(address, source.array[:rows].shape, source.array.dtype)
        stream.add(lambda: np.copyto(target, source.array[:rows]))

    def to_host(self, target: HostBuffer, address: int, rows: int, stream: FakeStream) -> None:
        self.call("to_host")
        source = self.at(address, target.array[:rows].shape, target.array.dtype)
        stream.add(lambda: np.copyto(target.array[:rows], source))

    def capture(self, stream: FakeStream, work: Callable[[], None]) -> FakeGraph:
        self.call("capture")
        stream.recorded = []
        try:
            work()
            return FakeGraph(self, stream.recorded)
        finally:
            stream.recorded = None

    def close(self) -> None:
        if self.blocks:
            self.log.append("memory")
        self.blocks.clear()


# ---------------------------------------------------------------------------------------------------------- TensorRT


class ILogger:
    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def __init__(self) -> None:
        self.ready = True


class IProfiler:
    def __init__(self) -> None:
        self.ready = True


class DataType(Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 2


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


TENSORS = {
    "image": (TensorIOMode.INPUT, DataType.UINT8, (HEIGHT, WIDTH, 3)),
    "score": (TensorIOMode.OUTPUT, DataType.FLOAT, ()),
    "anomaly_map": (TensorIOMode.OUTPUT, DataType.FLOAT, (HEIGHT, WIDTH)),
}


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.trt = engine, engine.trt
        self.scratch: int | None = None
        self.profile = 0 if not engine.trt.contexts else None  # only the first one has it by itself
        self.bound: dict[str, Any] = {}
        self.changes = 0
        self.trt.contexts += 1

    def __getattr__(self, name: str) -> Any:
        if name == "set_device_memory" and self.trt.has_v2:
            return self._set_device_memory
        raise AttributeError(name)

    def __del__(self) -> None:
        self.trt.memory.log.append("context")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "device_memory":
            self.__dict__["scratch"] = value
        else:
            object.__setattr__(self, name, value)

    def _set_device_memory(self, address: int, size: int) -> None:
        assert size == self.engine.size
        self.scratch = address

    def set_optimization_profile_async(self, index: int, handle: int) -> bool:
        assert (index, handle in self.trt.memory.streams) == (0, True)
        if self.trt.exclusive_profile and self.profile is None:
            return self.trt.complain("Profile 0 has been chosen by another IExecutionContext")
        self.profile = 0
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.changes += 1
        smallest, largest = self.trt.batch[0], self.trt.batch[-1]
        if name != "image" or not smallest <= shape[0] <= largest:
            return self.trt.complain(f"shape {shape} is out of the profile")
        self.bound["shape"] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.changes += 1
        self.bound[name] = address
        return name in self.trt.tensors and self.trt.fail != "address"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.bound["shape"][0], *self.trt.tensors[name][2])

    def execute_async_v3(self, handle: int) -> bool:
        memory = self.trt.memory
        memory.call("execute")
        stream = memory.streams[handle]
        dynamic = len(self.trt.batch) == 3
        assert self.scratch in memory.blocks
        assert self.profile == 0 or not dynamic, "no optimization profile"
        if self.trt.fail == "execute" or (self.trt.fail == "recording" and stream.recorded is not None):
            return self.trt.complain("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (no power)")
        at, state = dict(self.bound), (id(self), self.changes)
        recorded = stream.recorded is not None

        def work() -> None:
            assert not recorded or state == (id(self), self.changes), "the context of a graph was bound anew"
            images = memory.at(at["image"], at["shape"], np.uint8)
            memory.at(at["score"], (len(images),), np.float32)[:] = scores_of(images)
            memory.at(at["anomaly_map"], images.shape[:3], np.float32)[:] = maps_of(images)

        stream.add(work)
        if "profiler" in self.__dict__:
            for name, ms in (("convolution", 0.3), ("head", 0.1)):
                self.profiler.report_layer_time(name, ms)
        return True


class FakeEngine:
    size = 512

    def __init__(self, trt: FakeTensorRt) -> None:
        self.trt = trt
        self.num_io_tensors = len(trt.tensors)
        if trt.has_v1:
            self.device_memory_size = self.size
        if trt.has_v2:
            self.device_memory_size_v2 = self.size

    def __getattr__(self, name: str) -> Any:
        if name == "create_execution_context_without_device_memory" and self.trt.has_v1:
            return self._context
        raise AttributeError(name)

    def __del__(self) -> None:
        self.trt.memory.log.append("engine")

    def get_tensor_name(self, index: int) -> str:
        return list(self.trt.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.trt.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.trt.tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        rows = -1 if len(self.trt.batch) == 3 else self.trt.batch[0]
        return (rows, *self.trt.tensors[name][2])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert (name, index, len(self.trt.batch)) == ("image", 0, 3)
        return [(rows, *self.trt.tensors[name][2]) for rows in self.trt.batch]

    def create_execution_context(self, strategy: Any) -> FakeContext | None:
        assert strategy == "user managed"
        return self._context()

    def _context(self) -> FakeContext | None:
        if self.trt.fail == "context" or (self.trt.fail == "second context" and self.trt.contexts):
            self.trt.complain("createExecutionContext: Error Code 2: OutOfMemory")
            return None
        return FakeContext(self)


class FakeTensorRt:
    """The module. ``batch`` is (smallest, tuned for, largest), or (N,) for a plan of one size.

    ``fail`` names what goes wrong; ``exclusive_profile`` is TensorRT 8.6 without profile sharing.
    """

    ILogger, IProfiler, DataType, TensorIOMode = ILogger, IProfiler, DataType, TensorIOMode

    def __init__(self, memory: FakeMemory, version: str = "10.3.0", batch: tuple[int, ...] = (1, 2, LARGEST)) -> None:
        self.memory, self.__version__, self.batch = memory, version, batch
        self.tensors, self.fail, self.exclusive_profile = dict(TENSORS), "", False
        self.contexts = 0
        self.dla_cores: list[int] = []
        self.loggers: list[Any] = []
        self.has_v1, self.has_v2 = version != "11.4.0", version in ("10.3.0", "11.4.0")
        if version != "8.6.1":
            self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")

    def complain(self, text: str) -> bool:
        for logger in self.loggers:
            logger.log(ILogger.Severity.WARNING, "only a warning")
            logger.log(ILogger.Severity.ERROR, f"{text}\n")
        return False

    def Runtime(self, logger: Any) -> FakeRuntime:  # noqa: N802
        assert logger.ready
        self.loggers = [logger]
        if self.fail == "runtime":
            self.complain("CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return FakeRuntime(self)


class FakeRuntime:
    def __init__(self, trt: FakeTensorRt) -> None:
        self.trt, self.num_DLA_cores = trt, 2

    def __del__(self) -> None:
        self.trt.memory.log.append("runtime")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "DLA_core":
            self.trt.dla_cores.append(value)
        object.__setattr__(self, name, value)

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        self.trt.memory.counts["deserialize"] += 1
        if self.trt.fail == "deserialize" or not plan.startswith(b"plan"):
            self.trt.complain("Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed")
            return None
        return FakeEngine(self.trt)


# ------------------------------------------------------------------------------------------------------------ bundle


def make_bundle(folder: Path) -> Bundle:
    """A bundle that holds a graph of every precision, by its manifest only."""
    hexadecimal = "0" * 64
    threshold = {"score": 0.5, "false_reject_rate": 0.01, "supported_rate": 0.01, "images": 100}
    provenance = {
        "licence": "test", "training_data_sha256": hexadecimal, "training_images": 1, "held_out_images": 1,
        "teacher_weights": "random", "teacher_weights_sha256": hexadecimal, "checkpoint_sha256": hexadecimal,
        "versions": {}, "config": {},
    }  # fmt: skip
    graphs = {
        name: {
            "precision": precision, "opset": 20, "parameters": 1, "macs": 1,
            "thresholds": {"review": threshold, "reject": threshold}, "tolerance": {"score": 1e-2, "map": 1e-2},
        }
        for precision, name in GRAPHS.items()
    }  # fmt: skip
    manifest = Manifest.model_validate(
        {
            "name": "fake", "created": "now", "method": "dskd", "backbone": "resnet18", "bottleneck_source": "teacher",
            "input": {"height": HEIGHT, "width": WIDTH}, "max_batch": LARGEST, "graphs": graphs, "golden": 1,
            "parity": [], "provenance": provenance,
            "files": {name: hashlib.sha256(name.encode()).hexdigest() for name in GRAPHS.values()},
        }
    )  # fmt: skip
    return Bundle(folder, manifest)


def make_engine(bundle: Bundle, precision: Precision = "fp16", device: Device = CARD, /, **changes: Any) -> EngineFacts:
    """A plan with its facts, which fit ``device`` and TensorRT 10.3.0 unless changed."""
    plan, file = engine_paths(bundle, precision)
    plan.parent.mkdir(exist_ok=True)
    plan.write_bytes(b"plan " + precision.encode())
    graph = GRAPHS[precision]
    facts = {
        "precision": precision, "graph": graph, "graph_sha256": bundle.manifest.files[graph], "bundle": bundle.id,
        "tensorrt": "10.3.0", "gpu": device.name, "compute_capability": device.compute_capability,
        "batch": [1, 2, LARGEST], "dla_core": None, "build_seconds": 1.5,
        "plan_sha256": hashlib.sha256(plan.read_bytes()).hexdigest(), "score_difference": 1e-4,
        "map_difference": 1e-4, "created": "2026-11-20T10:00:00+00:00", **changes,
    }  # fmt: skip
    made = EngineFacts.model_validate(facts)
    write_facts(file, made)
    return made
