"""What follows the last step of a training: weights, thresholds, figures of every reading, the record and the report."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from dskd.runtime import atomic
from dskd.runtime.bundle.loading import file_sha256
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import BadImage, read_image, write_image
from dskd.runtime.configuration.strict_yaml import dump_yaml
from dskd.runtime.errors import one_line
from dskd.runtime.inspection.threshold import WHAT_IS_ODD, conformal_thresholds, odd_one_out
from dskd.train import data
from dskd.train.checkpoint import MODEL
from dskd.train.config import TrainConfig
from dskd.train.evaluate import Figures, Scored, figures, score, score_frames
from dskd.train.methods.base import Method
from dskd.train.products import figures_by_product, held_out_by_product
from dskd.train.progress import enter
from dskd.train.report import Labelled, write_report
from dskd.train.selection import PaintedSet, score_painted
from dskd.train.trained_run import CONFIG, MAPS, RECORD, graph_of

log = logging.getLogger(__name__)
ALIGNED = "aligned.png"  # a good part as the fixture cuts it out


def finish(
    config: TrainConfig,
    method: Method,
    maps: nn.ModuleDict,
    images: data.InspectionSet,
    held_out_of_each: list[list[Path]],
    folder: Path,
    device: torch.device,
    record: dict[str, object],
) -> None:
    """Writes all that a run leaves, and adds to ``record`` what it says of the model."""
    enter("thresholds and report")
    held_out = [path for part in held_out_of_each for path in part]
    (folder / RECORD).unlink(missing_ok=True)  # of an earlier run here: until the end this one is not complete
    with atomic.replacing(folder / MODEL) as temporary:
        tensors = method.state_dict() | maps.state_dict(prefix=MAPS)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    graph = graph_of(method, maps, next(iter(method.readings())))
    held = score_files(graph, held_out, config.input, device, "held-out images")
    limits = config.thresholds
    thresholds = conformal_thresholds(held.scores, limits.review_rate, limits.reject_rate)
    odd = odd_one_out(held.scores)
    if images.products:
        sizes = [len(part) for part in held_out_of_each]
        record["products"] = held_out_by_product(images, sizes, held.scores, config)
    by_reading, labelled = labelled_figures(config, method, maps, images, device, record)
    painted = score_painted(graph, held_out, config, device)
    record |= {
        "model_sha256": file_sha256(folder / MODEL),
        "thresholds": thresholds.model_dump(),
        "held_out_scores": [float(s) for s in held.scores],
        "odd_held_out": None if odd is None else str(held_out[odd].resolve()),
        "painted": painted.auroc(held),
        "figures": {name: found.as_dict() for name, found in by_reading.items()},
    }
    if config.input.fixture:  # to paint a region of interest on
        write_image(folder / ALIGNED, data.read_upright(held_out[0], config.input))
    else:
        (folder / ALIGNED).unlink(missing_ok=True)
    tiling = config.input.tiling
    tiles = f", tiles of {tiling.side} frame pixels, {tiling.overlap} shared" if tiling else ""
    facts = {
        "method": f"{config.method}, {config.backbone}, {config.input.width} x {config.input.height} px{tiles}",
        "good images": f"{record['training_images']} trained on, {len(held_out)} held out",
        "training": f"{config.recipe.epochs} epochs, {record['minutes']} minutes, seed {config.recipe.seed}",
        "teacher weights": str(record["teacher_weights"]),
        **{f"{part}, and why": why for part, why in record["choices"].items()},  # type: ignore[attr-defined]
    }
    if odd is not None:
        facts["look at"] = f"{held_out[odd]}: {WHAT_IS_ODD}"
    report = folder / "report.html"
    atomic.write_text(folder / CONFIG, dump_yaml(config.model_dump(mode="json")))
    # after all that export needs, before the page, which is not worth a run: its presence says that the run is complete
    atomic.write_text(folder / RECORD, json.dumps(record, indent=1))
    write_report(
        report,
        f"Training report: {images.name}",
        facts,
        thresholds,
        held.scores,
        by_reading,
        labelled or _painted_and_good(painted, held, held_out, config.input),
        painted.auroc(held),
        folder / "log.csv",
    )


def score_files(graph: nn.Module, paths: list[Path], spec: InputSpec, device: torch.device, label: str) -> Scored:
    """Runs image files; a picture in memory at a time where they are tiled."""
    return score_frames(graph, (read_image(path) for path in paths), len(paths), spec, device, label)


def labelled_figures(
    config: TrainConfig,
    method: Method,
    maps: nn.ModuleDict,
    images: data.InspectionSet,
    device: torch.device,
    record: dict[str, object],
) -> tuple[dict[str, Figures], Labelled | None]:
    """Figures of each reading, and the default reading's scores for the report. Unreadable images and masks are named.

    Each product's own figures go into ``record``.
    """
    kept, inputs, marked, spec = [], [], [], config.input
    for item in images.test:
        try:
            frame = read_image(item.path)
            picture, mask = data.to_input(frame, item.path, spec), data.load_mask(item, spec, frame)
        except BadImage as error:
            log.warning("skipped %s", one_line(str(error)))
        else:
            if item.defect != "good" and not mask.any():
                log.warning("%s: has no mask or an empty one; the pixel figures count it as good", item.path)
            kept.append(item)
            inputs.append(picture)
            marked.append(mask)
    kinds = {item.defect == "good" for item in kept}
    if len(kinds) < 2:
        if kept:
            found_one, absent = ("good", "defective") if True in kinds else ("defective", "good (test/good)")
            log.warning(
                "no accuracy figures: all test pictures that can be used are %s; add some %s ones", found_one, absent
            )
        return {}, None
    stacked = np.stack(inputs)
    masks = np.stack(marked)
    defects = [item.defect for item in kept]
    scored: dict[str, Scored] = {}
    found = {}
    for reading in method.readings():
        graph, label = graph_of(method, maps, reading), f"test, reading {reading}"
        if config.input.tiling:
            scored[reading] = score_files(graph, [item.path for item in kept], config.input, device, label)
        else:
            scored[reading] = score(graph, stacked, device, label)
        found[reading] = figures(scored[reading], defects, masks)
        paths = [item.path for item in kept]
        for name, own in figures_by_product(images, paths, defects, scored[reading], masks).items():
            record["products"][name].setdefault("figures", {})[reading] = own.as_dict()  # type: ignore[index]
    default = next(iter(method.readings()))
    return found, Labelled(stacked, defects, [item.path.name for item in kept], scored[default])


def _painted_and_good(painted: PaintedSet, held: Scored, held_out: list[Path], spec: InputSpec) -> Labelled:
    """What the report shows where there are no labelled pictures."""
    inputs = np.concatenate((np.stack([data.read_input(path, spec) for path in held_out]), painted.inputs))
    scored = Scored(
        *(np.concatenate(pair) for pair in ((held.scores, painted.scored.scores), (held.maps, painted.scored.maps)))
    )
    names = [*(path.name for path in held_out), *("painted" for _ in painted.kinds)]
    return Labelled(inputs, [*("good" for _ in held_out), *painted.kinds], names, scored, painted=True)
