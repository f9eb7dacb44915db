"""A trained run becomes a bundle: pruned, converted, proved, written."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import onnx
import onnxsim
import torch

from dskd.export import agreement
from dskd.export.golden import held_out_images, parity_inputs, write_golden
from dskd.export.graph.add_graphs import finish, provisional
from dskd.export.graph.bfloat import ROUNDED
from dskd.export.graph.cost import GraphCost, graph_cost
from dskd.export.graph.half import to_half
from dskd.export.graph.half_head import head_in_half
from dskd.export.graph.pads import fuse_pads
from dskd.export.prune import Cost, PrunedGraph, cost, prune
from dskd.export.verify import PARITY_IMAGES
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import FLOAT, Bundle, hash_files, is_bundle, load_bundle, write_manifest
from dskd.runtime.bundle.manifest import Graph, InputSpec, Manifest, Provenance
from dskd.runtime.errors import CallError, DskdError
from dskd.train.data import combined_sha256
from dskd.train.run import versions
from dskd.train.trained_run import TrainedRun

MODEL, HALF = FLOAT, "model.fp16.onnx"


@dataclass(frozen=True)
class Exported:
    """What the conversion did, for people."""

    before: Cost
    after: GraphCost
    nodes_traced: int
    nodes: int
    megabytes: float


def export(run: TrainedRun, reading: str, out: Path, opset: int, batch: int, licence: str) -> tuple[Bundle, Exported]:
    """Prunes, converts, proves and writes the bundle; an older one at ``out`` goes only when the new one is whole."""
    if os.path.lexists(out) and not is_bundle(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise CallError(f"--out {out}: is there already and is no bundle, so it stays; name another folder")
    graph = prune(run.graph(reading))
    height, width = run.config.input.height, run.config.input.width
    probe = torch.zeros((1, height, width, 3), dtype=torch.uint8)
    pruned_cost = cost(graph, graph, probe)
    with atomic.replacing_directory(out) as folder:
        traced = convert(graph, probe, opset, folder / MODEL)
        model = onnx.load(folder / MODEL)
        found = graph_cost(model)
        prove_pruned(found, pruned_cost, training_only(run, reading))
        onnx.save(head_in_half(to_half(model)), folder / HALF)
        golden = write_golden(run, reading, folder / "golden")
        full = Graph(
            precision="fp32",
            opset=opset,
            parameters=found.parameters,
            macs=found.macs,
            thresholds=run.thresholds,
        )
        manifest = Manifest(
            name=str(run.record["name"]),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            method=run.config.method,
            backbone=run.config.backbone,
            bottleneck_source=reading,
            input=InputSpec.model_validate(run.config.input.model_dump(exclude={"shape"})),
            max_batch=batch,
            graphs={MODEL: full, ROUNDED: provisional(full, "bf16"), HALF: provisional(full, "fp16")},
            golden=golden,
            parity=[],
            provenance=provenance(run, licence),
            files=hash_files(folder),
        )
        write_manifest(folder, manifest)
        made, _ = finish(folder, manifest, held_out_images(run), new=(ROUNDED, HALF))
        pairs, faults = agreement.compare(run, made, parity_inputs(run, PARITY_IMAGES))
        agreement.require(faults)
        write_manifest(folder, made.manifest.model_copy(update={"parity": pairs}))
    before = cost(run.method, TrainingForward(run), torch.zeros((1, height, width, 3), dtype=torch.uint8))
    size = os.path.getsize(out / MODEL) / 1e6
    return load_bundle(out), Exported(before, found, traced, len(model.graph.node), size)


class TrainingForward(torch.nn.Module):
    """Every network of the method once, as training has them: what pruning starts from."""

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        self.reading = run.graph(list(run.method.readings())[-1])

    def forward(self, image: torch.Tensor) -> object:
        """uint8 BGR [1, H, W, 3]."""
        return self.reading(image)


def convert(graph: PrunedGraph, probe: torch.Tensor, opset: int, file: Path) -> int:
    """Writes simplified, checked ONNX with a dynamic batch; returns the number of nodes before simplification.

    The TorchScript exporter is used: it writes opset 17 and 20 directly and needs no further package.
    """
    axes = {name: {0: "batch"} for name in ("image", "score", "anomaly_map")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", ".*'instance_norm' is set to train")  # it has no other mode
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean")
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1")  # of a pad, which onnxsim folds instead
        torch.onnx.export(
            graph, (probe,), str(file), input_names=["image"], output_names=["score", "anomaly_map"],
            opset_version=opset, dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
    traced = onnx.load(file)
    simplified, _ = onnxsim.simplify(traced)  # its own check is off by default; verify compares on real inputs
    fuse_pads(simplified)  # those that two encoders share; onnxsim takes in the others
    onnx.checker.check_model(simplified, full_check=True)
    onnx.save(simplified, file)
    return len(traced.graph.node)


def prove_pruned(found: GraphCost, pruned: Cost, left_behind: list[str]) -> None:
    """The file holds the path's parameters and MACs, to the last one, and no part that only training needs."""
    if (found.parameters, found.macs) != (pruned.parameters, pruned.macs):
        raise DskdError(
            f"the ONNX file holds {found.parameters} parameters and {found.macs} MACs, "
            f"the pruned model {pruned.parameters} and {pruned.macs}; the exporter duplicated or dropped something"
        )
    present = [name for name in left_behind if any(name in owner.split(".") for owner in found.owners)]
    if present:
        raise DskdError(f"the ONNX file still runs {present[0].replace('_', ' ')}; it was not pruned")


def training_only(run: TrainedRun, reading: str) -> list[str]:
    """Names of the method's parts that the inference path does without."""
    kept = set(run.method.inference_path(reading).modules())
    return [name for name, part in run.method.named_children() if part not in kept]


def provenance(run: TrainedRun, licence: str) -> Provenance:
    """Where the model comes from."""
    record, held_out = run.record, run.record.get("held_out_sha256")  # older runs have none
    return Provenance(
        licence=licence,
        training_data_sha256=str(record["training_data_sha256"]),
        training_images=int(str(record["training_images"])),
        held_out_images=len(record["held_out"]),  # type: ignore[arg-type]
        held_out_data_sha256=combined_sha256(held_out) if isinstance(held_out, list) else None,
        teacher_weights=str(record["teacher_weights"]),
        teacher_weights_sha256=str(record["teacher_weights_sha256"]),
        checkpoint_sha256=str(record["model_sha256"]),
        versions=versions(),
        config=run.config.model_dump(mode="json"),
        choices=record.get("choices", {}),  # type: ignore[arg-type]
    )
