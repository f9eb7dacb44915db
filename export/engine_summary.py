"""What ``dskd export.trt`` tells of an engine: in a few lines, or as one JSON object."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

from dskd.export.layer_report import LayerReport
from dskd.runtime.bundle.loading import Bundle, default_bundle
from dskd.runtime.inspection.engine import engine_paths

if TYPE_CHECKING:
    from dskd.export.engine_attempts import Made
    from dskd.export.engine_profile import LayerTime


def summary(bundle: Bundle, made: Made, told: list[dict[str, object]]) -> str:
    """The engine for a terminal."""
    default, facts, built = default_bundle(), made.facts, made.built
    plan, _ = engine_paths(bundle, made.precision)
    where = "" if default.exists() and default.samefile(bundle.path) else f" --bundle {shlex.quote(str(bundle.path))}"
    did = f"built in {facts.build_seconds:.0f} s, for {made.reason}" if built else "fits already, nothing was built"
    lines = [
        f"engine {plan}: {did}",
        f"{plan.stat().st_size / 1e6:.1f} MB  batch {':'.join(map(str, facts.batch))}  "
        f"{facts.gpu} ({facts.compute_capability})  TensorRT {facts.tensorrt}",
        f"golden frames: score within {facts.score_difference:.1e}, map within {facts.map_difference:.1e}",
    ]
    if facts.form:
        lines.append(f"the bundle's graph did not build; the same graph with {facts.form} did")
    lines += [f"{one['precision']}: {_outcome(one)}" for one in told]
    if built and facts.dla_core is not None:
        lines.append(f"DLA core {facts.dla_core}: {placement(built.report)}")
    lines.append(f"next: dskd runtime{where} --backend tensorrt --precision {facts.precision}")
    return "\n".join(lines)


def _outcome(one: dict[str, object]) -> str:
    if "failed" in one:
        return f"does not work here ({one['failed']})"
    return "works" if one["latency_ms"] is None else f"{one['latency_ms']} ms a picture"


def placement(report: LayerReport) -> str:
    """Where the layers went, in one line."""
    return f"{report.on_dla} layers on the DLA, {report.on_gpu} on the GPU, {report.switches} switches between them"


def to_json(bundle: Bundle, made: Made, told: list[dict[str, object]], times: list[LayerTime] | None = None) -> str:
    """The engine as one JSON object."""
    plan, _ = engine_paths(bundle, made.precision)
    report = made.built.report if made.built else None
    on_dla = report and made.facts.dla_core is not None
    fields = {
        "bundle": str(bundle.path),
        "plan": str(plan),
        "built": made.built is not None,
        "reason": made.reason,
        "megabytes": round(plan.stat().st_size / 1e6, 1),
        "facts": made.facts.model_dump(mode="json"),
        "dla": {k: getattr(report, k) for k in ("on_dla", "on_gpu", "switches")} if on_dla else None,
        "tried": told,
        "profile": None if times is None else [asdict(one) for one in times],
    }
    return json.dumps(fields)
