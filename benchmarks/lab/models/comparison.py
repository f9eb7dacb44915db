"""Methods side by side: a table with mean and spread over seeds, and the same pictures through every model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from dskd.export.graph.answers import answer_files
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import write_image
from dskd.runtime.inspection.overlay import heat_map
from dskd.runtime.result import Image
from dskd.train import data

COLUMNS = {
    "image_auroc": "image AUROC", "image_ap": "image AP", "pixel_auroc": "pixel AUROC", "pro": "PRO",
    "inside_recall": "inside-recall", "halo": "halo",
}  # fmt: skip
CAPTION = 18  # pixels over a picture
MARKED = (255, 255, 255)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Markdown: one line for each method and precision, mean over seeds ± standard deviation where there are several."""
    groups: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for row in rows:
        groups.setdefault((str(row["method"]), str(row["precision"])), []).append(row)
    head = ["method", "precision", "seeds", "images shown", *COLUMNS.values(), "M parameters", "GMAC", "MB", "CPU ms"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for (method, precision), runs in groups.items():
        cells = [method, precision, str(len(runs)), str(runs[0]["images_shown"])]
        cells += [_spread([run.get(column) for run in runs], 3) for column in COLUMNS]
        cells += [f"{_number(runs[0]['parameters']) / 1e6:.2f}", f"{_number(runs[0]['macs']) / 1e9:.2f}"]
        cells += [_spread([runs[0].get("megabytes")], 1), _spread([runs[0].get("latency_ms")], 1)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def set_table(sets: Mapping[str, Sequence[Mapping[str, object]]]) -> str:
    """Markdown: image AUROC and PRO of each method and precision on each set, over seeds, and the mean over the sets."""
    found: dict[tuple[str, str], dict[str, list[Mapping[str, object]]]] = {}
    for name, rows in sets.items():
        for row in rows:
            found.setdefault((str(row["method"]), str(row["precision"])), {}).setdefault(name, []).append(row)
    head = ["method", "precision", "seeds", *(f"{name}: image AUROC / PRO" for name in sets), "mean image AUROC"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for (method, precision), own in found.items():
        cells = [method, precision, str(min(len(rows) for rows in own.values()))]
        for name in sets:
            columns = ([row.get(column) for row in own.get(name, [])] for column in ("image_auroc", "pro"))
            cells.append(" / ".join(_spread(column, 3) for column in columns).removesuffix(" / "))
        means = [np.mean([_number(row["image_auroc"]) for row in rows]) for rows in own.values()]
        cells.append(f"{np.mean(means):.3f}" if len(means) == len(sets) else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _spread(values: Iterable[object], digits: int) -> str:
    known = [_number(value) for value in values if isinstance(value, (int, float))]
    if not known:
        return ""
    deviation = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{deviation}"


def overlays(
    bundles: Mapping[str, Bundle], graph: str, items: Sequence[data.TestImage], spec: InputSpec, folder: Path
) -> None:
    """One picture for each test image: the image, its mask, and every model's map, red from its reject threshold on."""
    inputs = data.load_inputs([item.path for item in items], spec)
    maps = {
        name: answer_files(bundle, graph, [item.path for item in items], f"overlays, {name}").maps
        for name, bundle in bundles.items()
    }
    for k, item in enumerate(items):
        mask = inputs[k].copy()
        mask[data.load_mask(item, spec)] = MARKED
        panels = [_captioned(inputs[k], item.defect), _captioned(mask, "mask")]
        for name, bundle in bundles.items():
            limit = bundle.manifest.graphs[graph].thresholds.reject.score
            panels.append(_captioned(heat_map(inputs[k], maps[name][k], limit, (0, 0, spec.width, spec.height)), name))
        name = "-".join((*item.defect.split("/"), item.path.stem))
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"{name}.png", np.concatenate(panels, axis=1))


def _captioned(image: Image, text: str) -> Image:
    bar = np.zeros((CAPTION, image.shape[1], 3), np.uint8)
    cv2.putText(bar, text, (4, CAPTION - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, MARKED, 1, cv2.LINE_AA)
    return np.concatenate((bar, image))
