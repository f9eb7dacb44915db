"""The engine beside its bundle: reused while it fits, replaced only by one that was proved on the golden frames."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from pathlib import Path

from dskd.export.build_machine import built_on
from dskd.export.engine_build import BuildOptions, Built
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend
from dskd.runtime.inspection.cuda import Device
from dskd.runtime.inspection.engine import GRAPHS, EngineFacts, engine_paths, read_facts, why_unfit, write_facts
from dskd.runtime.inspection.golden import GoldenCheck, golden_check


def standing_engine(
    bundle: Bundle, precision: Precision, device: Device, version: str, options: BuildOptions
) -> tuple[EngineFacts | None, str]:
    """The facts of an engine that is there and does what is asked, or None and why one must be built."""
    plan, file = engine_paths(bundle, precision)
    if not plan.exists() and not file.exists():
        return None, "there is no engine yet"
    try:
        facts = read_facts(file)
    except DskdError as error:
        return None, str(error)
    reason = why_unfit(facts, plan, bundle, device, version)
    if reason is None and facts.batch != options.batch:
        reason = f"the engine takes batches of {':'.join(map(str, facts.batch))}"
    if reason is None and facts.dla_core != options.dla_core:
        reason = "the engine runs on the GPU alone" if facts.dla_core is None else "the engine runs on a DLA core"
    if reason is None and (options.opt_level, options.workspace, options.verbose) != (None, None, None):
        reason = "the call has options that an engine's facts do not hold"
    return (facts, "") if reason is None else (None, reason)


def install(
    bundle: Bundle,
    precision: Precision,
    device: Device,
    version: str,
    options: BuildOptions,
    built: Built,
    form: str = "",
) -> EngineFacts:
    """Proves the engine on the golden frames, then puts plan and facts in place; before that the old pair stays.

    Between the two renames the new plan stands beside the old facts, whose hash of the plan tells that they differ.
    """
    (plan, file), graph = engine_paths(bundle, precision), GRAPHS[precision]
    atomic.clear_leftovers(plan.parent, plan.name)
    with atomic.replacing(plan) as temporary:
        temporary.write_bytes(built.plan)
        check = _prove(bundle, precision, temporary, options.dla_core)
    facts = EngineFacts(
        precision=precision,
        graph=graph,
        graph_sha256=bundle.manifest.files[graph],
        bundle=bundle.id,
        tensorrt=version,
        gpu=device.name,
        compute_capability=device.compute_capability,
        multiprocessors=device.multiprocessors or None,
        memory_bytes=device.memory_bytes,
        built_on=built_on(),
        batch=options.batch,
        dla_core=options.dla_core,
        build_seconds=round(built.seconds, 1),
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        score_difference=check.score,
        map_difference=check.map,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        form=form,
    )
    write_facts(file, facts)
    return facts


def _prove(bundle: Bundle, precision: Precision, plan: Path, dla_core: int | None) -> GoldenCheck:
    try:
        backend = TensorRtBackend(bundle, precision, plan, dla_core=dla_core)
        try:
            return golden_check(bundle, backend)
        finally:
            backend.close()
    except MissingPart:
        raise
    except DskdError as error:
        raise DskdError(f"the new engine is not accepted and nothing was replaced: {error}") from error
