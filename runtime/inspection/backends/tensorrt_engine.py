"""A TensorRT plan in memory: loaded, compared with the bundle, and ready to make execution contexts.

Every difference between TensorRT 8.6, 10 and 11 is asked for by name, never guessed from a version.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.cuda import Memory

IMAGE, SCORE, MAP = "image", "score", "anomaly_map"
EACH = 8  # batch sizes up to this one are run as they come
KEPT_LINES = 4  # of TensorRT's complaints: what follows is mostly the consequence of the first


def load_tensorrt() -> Any:
    """The tensorrt module. Find a GPU first: its Runtime crashes the process where there is none."""
    try:
        import tensorrt
    except ImportError as error:
        raise MissingPart(
            f"TensorRT's Python package cannot be loaded ({error}); on a Jetson: apt install python3-libnvinfer and a "
            "virtual environment with --system-site-packages, elsewhere: pip install tensorrt"
        ) from error
    return tensorrt


@cache
def error_log(trt: Any) -> Any:
    """The one logger for ``trt``, which keeps a bare pointer to it; so it lives as long as the process."""

    class ErrorLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the bindings do not take super()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            grave = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
            if severity in grave and len(self.lines) < KEPT_LINES:
                self.lines.append(message.strip())

        def take(self) -> str:
            """The complaints since the last taking, as one text."""
            said, self.lines = self.lines, []
            return "; ".join(said) or "TensorRT gave no reason"

    return ErrorLog()


class LoadedEngine:
    """One plan for images of one size. ``smallest`` and ``largest`` are the batch sizes it takes.

    Contexts share one block of scratch memory, so only one may run at a time: all go through the stream of that handle.
    """

    def __init__(
        self, trt: Any, memory: Memory, stream: int, plan: Path, dla_core: int | None, size: tuple[int, int]
    ) -> None:
        self._trt, self._stream, self._plan, self._size = trt, stream, plan, size
        self._log = error_log(trt)
        self._contexts: list[Any] = []
        self._runtime = self._start(dla_core)
        self._engine: Any = None
        try:
            self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        except OSError as error:
            raise DskdError(f"{plan}: cannot be read ({error.strerror}); build it again") from error
        if self._engine is None:
            raise DskdError(f"{plan}: TensorRT cannot load it ({self._log.take()}); build it again")
        self.smallest, self.largest = self._batch_sizes()
        # Beyond 2 GiB only the second version counts right; 8.6 and 10.0 lack it, 11 has no other
        second = hasattr(self._engine, "device_memory_size_v2")
        self._scratch_size = self._engine.device_memory_size_v2 if second else self._engine.device_memory_size
        self._scratch = memory.allocate(max(1, self._scratch_size))

    @property
    def sizes(self) -> list[int]:
        """Batch sizes that are run: all of few, else powers of two, so that not each has its context and graph."""
        if self.largest <= EACH:
            return list(range(self.smallest, self.largest + 1))
        powers = {2**k for k in range(self.largest.bit_length()) if self.smallest < 2**k < self.largest}
        return sorted({self.smallest, self.largest, *powers})

    def size_for(self, rows: int) -> int:
        """The one that takes so many images; what is left over computes what stood there before."""
        return next(size for size in self.sizes if size >= rows)

    def context(self) -> Any:
        """A new execution context. Raises DskdError where TensorRT gives none."""
        strategies = getattr(self._trt, "ExecutionContextAllocationStrategy", None)
        if strategies is None:  # TensorRT 8
            context = self._engine.create_execution_context_without_device_memory()
        else:
            context = self._engine.create_execution_context(strategies.USER_MANAGED)
        if context is None:
            raise self.failure("has no execution context")
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(self._scratch, self._scratch_size)
        else:  # TensorRT 8 and 10.0
            context.device_memory = self._scratch
        # Only the first context has profile 0 by itself, and TensorRT 8 may refuse it to a second one
        if self._dynamic and not context.set_optimization_profile_async(0, self._stream):
            raise self.failure("has no optimization profile for a further context")
        self._contexts.append(context)
        return context

    def bind(self, context: Any, rows: int, addresses: dict[str, int]) -> None:
        """Makes ``context`` work on that many images at these addresses. Raises DskdError where it refuses them."""
        taken = context.set_input_shape(IMAGE, (rows, *self._size, 3)) and all(
            context.set_tensor_address(name, address) for name, address in addresses.items()
        )
        shapes = [tuple(context.get_tensor_shape(name)) for name in (SCORE, MAP)]
        if not taken or shapes != [(rows,), (rows, *self._size)]:
            raise self.failure(f"does not give one score and map per image for a batch of {rows}")

    def run(self, context: Any) -> None:
        """Gives the context's work to the stream. Raises DskdError where TensorRT refuses."""
        if not context.execute_async_v3(self._stream):
            raise self.failure("does not run")

    def failure(self, what: str) -> DskdError:
        """An error with what TensorRT said since the last one."""
        return DskdError(f"{self._plan} {what} ({self._log.take()}); start again, and build it again if this recurs")

    def close(self) -> None:
        """Frees contexts, then the engine, then the runtime."""
        self._contexts.clear()
        self._engine = None
        self._runtime = None

    def _start(self, dla_core: int | None) -> Any:
        self._log.lines.clear()
        try:
            runtime = self._trt.Runtime(self._log)
        except TypeError as error:  # what the bindings raise where the library gives none
            raise MissingPart(
                f"TensorRT {self._trt.__version__} does not start ({self._log.take()}); check that driver and TensorRT "
                "belong together"
            ) from error
        if dla_core is not None:
            if dla_core >= runtime.num_DLA_cores:
                raise DskdError(
                    f"{self._plan}: needs DLA core {dla_core}, and TensorRT finds {runtime.num_DLA_cores} cores here; "
                    "build it again"
                )
            runtime.DLA_core = dla_core
        return runtime

    def _batch_sizes(self) -> tuple[int, int]:
        """Refuses a plan whose tensors are not those of the bundle's graph."""
        engine, mode, kind = self._engine, self._trt.TensorIOMode, self._trt.DataType
        wanted = {IMAGE: (mode.INPUT, kind.UINT8), SCORE: (mode.OUTPUT, kind.FLOAT), MAP: (mode.OUTPUT, kind.FLOAT)}
        names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
        found = {name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name)) for name in names}
        shape = tuple(engine.get_tensor_shape(IMAGE)) if IMAGE in names else ()
        if found != wanted or shape[1:] != (*self._size, 3):
            tensors = ", ".join(f"{name} {list(engine.get_tensor_shape(name))}" for name in names)
            raise DskdError(f"{self._plan}: its tensors ({tensors}) are not those of this bundle; build it again")
        self._dynamic = shape[0] == -1
        if not self._dynamic:
            return shape[0], shape[0]
        smallest, _, largest = engine.get_tensor_profile_shape(IMAGE, 0)
        return smallest[0], largest[0]
