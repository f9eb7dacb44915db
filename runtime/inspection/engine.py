"""An engine: a TensorRT plan that was built from one of the bundle's graphs on one device, and the facts beside it.

The plan alone is TensorRT's, so that trtexec can read it; the facts say where it fits.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError, field_validator

from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle, file_sha256
from dskd.runtime.bundle.manifest import NotNegative, Positive, Precision, Sha256
from dskd.runtime.configuration.strict_yaml import Strict, first_fault
from dskd.runtime.errors import DskdError

if TYPE_CHECKING:
    from dskd.runtime.inspection.cuda.device import Device

GRAPHS: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
LARGEST_FACTS = 1 << 16  # bytes: facts have some hundred
Difference = Annotated[float, Field(ge=0)]


class BuiltOn(Strict):
    """The machine as it was when the engine was built; None where it does not say."""

    l4t: str | None = None
    driver: str | None = None
    power_mode: str | None = Field(None, description="kernels are chosen by their times in this mode")


class EngineFacts(Strict):
    """What an engine was made of, for whom, and how far it was from the trained model on the golden frames."""

    precision: Precision
    graph: str = Field(description="the bundle's ONNX file it was built from")
    graph_sha256: Sha256
    bundle: str = Field(description="id of the bundle at that time; thresholds may have changed it since")
    tensorrt: str
    gpu: str
    compute_capability: str
    multiprocessors: Positive | None = Field(None, description="tells one Orin from another; None in older facts")
    memory_bytes: Positive | None = None
    built_on: BuiltOn = BuiltOn()
    batch: tuple[Positive, Positive, Positive] = Field(description="smallest, tuned for, largest")
    dla_core: NotNegative | None
    build_seconds: Difference
    plan_sha256: Sha256
    score_difference: Difference
    map_difference: Difference
    created: str
    form: str = Field("", description="how its graph differed in form from the bundle's; empty: not at all")
    latency_ms: Difference | None = Field(
        None, description="a picture's time, where it was compared with another engine"
    )

    @field_validator("batch")
    @classmethod
    def _ordered(cls, batch: tuple[int, int, int]) -> tuple[int, int, int]:
        if list(batch) != sorted(batch):
            raise ValueError("smallest, tuned for and largest batch must rise")
        return batch


def build_command(precision: str) -> str:
    """What to type for a new engine."""
    return f"dskd export.trt --{precision}"


def engine_paths(bundle: Bundle, precision: Precision) -> tuple[Path, Path]:
    """Plan and facts of the bundle's engine of that precision, whether they exist or not."""
    folder = bundle.path / "engines"
    return folder / f"model.{precision}.plan", folder / f"model.{precision}.json"


def built_here(bundle: Bundle) -> bool:
    """Whether the bundle has engines that are not plainly another kind of machine's: a Jetson's, on something else."""
    found = [facts for facts in (engine_paths(bundle, precision)[1] for precision in GRAPHS) if facts.is_file()]
    return any(platform.machine() == "aarch64" or not _of_jetson(facts) for facts in found)


def _of_jetson(file: Path) -> bool:
    try:
        return read_facts(file).built_on.l4t is not None
    except DskdError:
        return False


def write_facts(file: Path, facts: EngineFacts) -> None:
    """Writes the facts as JSON, whole or not at all."""
    atomic.write_text(file, facts.model_dump_json(indent=2) + "\n")


def read_facts(file: Path) -> EngineFacts:
    """Reads facts. Raises DskdError where they are missing, cannot be read or are no facts."""
    again = f"build the engine again ({build_command(file.stem.rpartition('.')[2])})"
    try:
        if not file.is_file():
            raise DskdError(f"{file}: there are no engine facts; {again}")
        with file.open("rb") as handle:
            raw = handle.read(LARGEST_FACTS + 1)
        if len(raw) > LARGEST_FACTS:
            raise DskdError(f"{file}: is too large for engine facts; {again}")
        return EngineFacts.model_validate_json(raw)
    except OSError as error:
        raise DskdError(f"{file}: cannot be read ({error.strerror}); {again}") from error
    except ValidationError as error:
        raise DskdError(f"{file}: {first_fault(error)}; {again}") from error


def why_unfit(facts: EngineFacts, plan: Path, bundle: Bundle, device: Device, tensorrt_version: str) -> str | None:
    """Why this device must not load the plan for this bundle, None where it may.

    Cheap reasons come first; the plan's own bytes are read last. The bundle's id is not compared, because new
    thresholds change it and the engine not: its graph decides.
    """
    graph = bundle.manifest.graphs.get(facts.graph)
    if facts.graph != GRAPHS[facts.precision] or graph is None:
        return f"it was built from {facts.graph} as {facts.precision}, which this bundle does not hold"
    here = {
        "graph": (facts.graph_sha256[:12], bundle.manifest.files[facts.graph][:12]),
        "TensorRT": (facts.tensorrt, tensorrt_version),
        "GPU": (facts.gpu, device.name),
        "compute capability": (facts.compute_capability, device.compute_capability),
        "multiprocessors": (facts.multiprocessors, device.multiprocessors or facts.multiprocessors),
    }
    for what, (built, found) in here.items():
        if built is not None and built != found:
            return f"it was built for {what} {built}, here is {found}"
    limit = graph.tolerance  # of older bundles; else the engine was proved by what its graph says
    if limit and (facts.score_difference > limit.score or facts.map_difference > limit.map):
        return (
            f"it differs from the trained model by {facts.score_difference:.1e} in score and {facts.map_difference:.1e} "
            f"in map (allowed {limit.score:.1e} and {limit.map:.1e})"
        )
    try:
        found = file_sha256(plan)
    except OSError as error:
        return f"its plan cannot be read ({error.strerror})"
    if found != facts.plan_sha256:
        return f"its plan's sha256 is {found[:12]}, its facts say {facts.plan_sha256[:12]}"
    return None
