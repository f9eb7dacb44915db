"""TensorRT: runs the engine that ``dskd export.trt`` built on this device.

Batches go through two slots, so that one can be prepared or judged while the device works on the other. Only scores
come back by themselves. Where host and device share memory (Jetson), input and scores are not copied at all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import DeviceLost, DskdError, MissingPart
from dskd.runtime.inspection.backends.tensorrt_engine import IMAGE, MAP, SCORE, LoadedEngine, load_tensorrt
from dskd.runtime.inspection.cuda import Device, Memory, find_device, hearing_driver, open_memory
from dskd.runtime.inspection.cuda.base import Graph
from dskd.runtime.inspection.engine import GRAPHS, build_command, engine_paths, read_facts, why_unfit
from dskd.runtime.result import Image

SLOTS = 2
WARM_UP = 2  # runs of a batch size: the first as it is, the second to be recorded


def fitting_engine(bundle: Bundle, precision: Precision, device: Device, version: str) -> tuple[Path, int | None]:
    """The bundle's plan and its DLA core. Raises MissingPart where there is none, DskdError where it does not fit."""
    plan, file = engine_paths(bundle, precision)
    if not plan.is_file():
        raise MissingPart(f"{plan}: there is no engine; build it: {build_command(precision)}")
    facts = read_facts(file)
    reason = why_unfit(facts, plan, bundle, device, version)
    if reason is None and facts.precision != precision:
        reason = f"it was built as {facts.precision}"
    if reason is not None:
        raise DskdError(f"{plan}: does not fit here: {reason}; build it again: {build_command(precision)}")
    return plan, facts.dla_core


class _Slot:
    """Buffers of one batch on its way, used in turn."""

    def __init__(self, memory: Memory, rows: int, height: int, width: int) -> None:
        self.image = memory.host((rows, height, width, 3), np.uint8)
        self.scores = memory.host((rows,), np.float32)
        shared = memory.device.integrated
        self.addresses = {
            IMAGE: self.image.address if shared else memory.allocate(self.image.array.nbytes),
            SCORE: self.scores.address if shared else memory.allocate(self.scores.array.nbytes),
            # never shared: kernels read the map again for its maximum, and host memory is not cached for them
            MAP: memory.allocate(rows * height * width * np.dtype(np.float32).itemsize),
        }
        self.done = memory.event()
        self.seen: set[int] = set()  # batch sizes that ran here
        self.graphs: dict[int, Graph] = {}  # by batch size; size and buffers are part of a graph
        self.use = 0  # the submission that holds it or held it last
        self.pending = False


@dataclass(frozen=True)
class Ticket:
    """A batch that was submitted; ``collect`` takes it once."""

    slot: _Slot
    use: int
    rows: int


class TensorRtOutput:
    """Scores are the caller's own; maps stay on the device until asked for or until their slot is used again."""

    def __init__(self, backend: TensorRtBackend, ticket: Ticket, scores: NDArray[np.float32]) -> None:
        self.scores = scores
        self._backend, self._ticket = backend, ticket
        self._maps: NDArray[np.float32] | None = None

    def maps(self) -> NDArray[np.float32]:
        """Anomaly maps [N, H, W]. Raises DskdError where their slot was used again before the first asking."""
        if self._maps is None:
            self._maps = self._backend.fetch_maps(self._ticket)
        return self._maps


class TensorRtBackend:
    """Runs one engine. Several threads may submit and collect; ``close`` is for the last of them.

    Without ``plan`` the bundle's engine of that precision is taken, and only where its facts fit this device. Who
    gives a ``plan`` has just built it here, for ``dla_core``, and answers for it. ``memory`` is closed with the backend.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision = "fp16",
        plan: Path | None = None,
        memory: Memory | None = None,
        trt: Any = None,
        dla_core: int | None = None,
    ) -> None:
        self.name, self.graph = f"tensorrt-{precision}", GRAPHS[precision]
        self._size = (bundle.manifest.input.height, bundle.manifest.input.width)
        self._lock, self._closed = threading.Lock(), False
        self._slots: list[_Slot] = []
        self._free: deque[_Slot] = deque()
        self._engine: Any = None  # these three are there from _open to _release
        self._stream: Any = None
        self._copies: Any = None
        with hearing_driver():
            device = find_device() if memory is None else memory.device
            trt = load_tensorrt() if trt is None else trt
            if plan is None:
                plan, dla_core = fitting_engine(bundle, precision, device, trt.__version__)
            self._memory = open_memory(device) if memory is None else memory
            self._captures = self._memory.captures
            try:
                with self._memory.active():
                    self._open(trt, plan, dla_core)
            except BaseException:
                self.close()
                raise

    @property
    def largest(self) -> int:
        """The most images that the engine takes at once."""
        return int(self._engine.largest)

    def warm_up(self) -> None:
        """Runs and records every batch size in both slots: a context and a graph each, which cost their time once."""
        for rows in self._engine.sizes:
            batch = np.zeros((rows, *self._size, 3), np.uint8)
            for _ in range(WARM_UP):
                for ticket in [self.submit(batch) for _ in range(SLOTS)]:
                    self.collect(ticket)

    def infer(self, batch: Image) -> TensorRtOutput:
        """uint8 BGR [N, height, width, 3] -> scores [N] and maps on demand."""
        return self.collect(self.submit(batch))

    def submit(self, batch: Image) -> Ticket:
        """Copies a batch like ``infer``'s and gives it to the device; returns while the device works."""
        rows = self._rows(batch)
        with self._using():
            if not self._free:
                raise DskdError(f"{self.name}: {SLOTS} batches are on their way; collect one before the next")
            slot = self._free.popleft()
            slot.use += 1
            slot.image.array[:rows] = batch
            try:
                self._launch(slot, self._engine.size_for(rows))
                slot.done.record(self._stream)
            except BaseException:
                self._let_go(slot)
                raise
            slot.pending = True
            return Ticket(slot, slot.use, rows)

    def collect(self, ticket: Ticket) -> TensorRtOutput:
        """Waits for the batch of ``ticket``. Each ticket is collected once, in any order."""
        slot = ticket.slot
        with self._using():
            if not (slot in self._slots and slot.use == ticket.use and slot.pending):
                raise DskdError(f"{self.name}: this ticket was collected already or is another backend's; submit anew")
            slot.pending = False
        try:
            with self._memory.active():  # without the lock: another thread may submit meanwhile
                slot.done.synchronize()
            return TensorRtOutput(self, ticket, slot.scores.array[: ticket.rows].copy())
        finally:
            with self._lock:
                self._free.append(slot)

    def fetch_maps(self, ticket: Ticket) -> NDArray[np.float32]:
        """Anomaly maps [N, H, W] of a collected batch whose slot was not used again."""
        with self._using():
            if ticket.slot.use != ticket.use:
                raise DskdError(f"{self.name}: a later batch took the place of these maps; ask right after collect")
            # a stream of their own: maps of a finished batch do not wait for the next one's inference
            self._memory.to_host(self._maps, ticket.slot.addresses[MAP], ticket.rows, self._copies)
            self._copies.synchronize()
            found: NDArray[np.float32] = self._maps.array[: ticket.rows].copy()
            return found

    def close(self) -> None:
        """Waits for what is on its way, then frees graphs, contexts, engine and memory; twice does no harm."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                with self._memory.active():
                    self._release()
            except DskdError:  # a device that failed: nothing is left to wait for
                self._release()
            self._memory.close()

    def _open(self, trt: Any, plan: Path, dla_core: int | None) -> None:
        self._stream, self._copies = self._memory.stream(), self._memory.stream()
        self._engine = LoadedEngine(trt, self._memory, self._stream.handle, plan, dla_core, self._size)
        self._context = self._engine.context()
        rows = self._engine.largest
        self._slots = [_Slot(self._memory, rows, *self._size) for _ in range(SLOTS)]
        self._free.extend(self._slots)
        self._maps = self._memory.host((rows, *self._size), np.float32)
        self._engine.bind(self._context, rows, self._slots[0].addresses)  # a plan that does not fit fails here

    @contextmanager
    def _using(self) -> Iterator[None]:
        """The lock and the device."""
        with self._lock:
            if self._closed:
                raise DskdError(f"{self.name} is closed; open the backend again")
            with self._memory.active():
                yield

    def _let_go(self, slot: _Slot) -> None:
        """After a batch that could not be launched: the device may still read what it was given.

        TensorRT does not say which error it met; waiting does. Raises DeviceLost.
        """
        try:
            self._stream.synchronize()
        except DeviceLost:
            raise
        except DskdError:  # said already, by what failed before
            pass
        finally:
            self._free.append(slot)

    def _launch(self, slot: _Slot, rows: int) -> None:
        """First as it is, the second time in a context that is then recorded, from the third on as a CUDA graph."""
        if rows in slot.graphs:
            slot.graphs[rows].launch(self._stream)
            return
        own = self._recording_context() if rows in slot.seen else None
        context = self._context if own is None else own
        self._engine.bind(context, rows, slot.addresses)
        self._run(context, slot, rows)
        slot.seen.add(rows)
        if own is not None:
            try:
                slot.graphs[rows] = self._memory.capture(self._stream, lambda: self._run(own, slot, rows))
            except DskdError:  # layers that wait for the host, or on a DLA
                self._captures = False

    def _recording_context(self) -> Any:
        """A context for one graph alone, since a graph breaks when its context is bound anew; None if there is none."""
        try:
            return self._engine.context() if self._captures else None
        except DskdError:
            self._captures = False
            return None

    def _run(self, context: Any, slot: _Slot, rows: int) -> None:
        shared = self._memory.device.integrated
        if not shared:
            self._memory.to_device(slot.addresses[IMAGE], slot.image, rows, self._stream)
        self._engine.run(context)
        if not shared:
            self._memory.to_host(slot.scores, slot.addresses[SCORE], rows, self._stream)

    def _rows(self, batch: Image) -> int:
        height, width = self._size
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (height, width, 3):
            raise DskdError(
                f"{self.name}: a batch of {batch.dtype} {list(batch.shape)} is no uint8 [N, {height}, {width}, 3]; "
                "preprocess the frames for this bundle"
            )
        if not 1 <= len(batch) <= self._engine.largest:
            raise DskdError(
                f"{self.name}: a batch of {len(batch)} does not fit the engine, which takes 1 to "
                f"{self._engine.largest}; split it, or build the engine for more (--batch)"
            )
        return len(batch)

    def _release(self) -> None:
        for stream in (self._stream, self._copies):
            with suppress(DskdError):
                if stream is not None:
                    stream.synchronize()
        for slot in self._slots:
            while slot.graphs:
                with suppress(DskdError):
                    slot.graphs.popitem()[1].close()
        self._slots.clear()
        self._free.clear()
        self._context = None
        if self._engine is not None:
            self._engine.close()
        self._stream = self._copies = None
