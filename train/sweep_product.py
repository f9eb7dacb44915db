"""One product of a sweep: trained and exported by the commands that a person would give, or kept where that is done."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dskd.runtime.bundle.loading import load_bundle
from dskd.runtime.errors import DskdError, one_line
from dskd.train import tied
from dskd.train.config import TrainConfig
from dskd.train.finished import finished
from dskd.train.products import find_products
from dskd.train.trained_run import RECORD

LOG = "output.log"


@dataclass(frozen=True)
class Product:
    """What is to be trained from ``data``, and the folder of its run."""

    name: str
    data: Path
    folder: Path
    config: TrainConfig
    teacher_weights: str | None
    device: str
    strict: bool

    @property
    def bundle(self) -> Path:
        """Where its bundle will be."""
        return self.folder / "bundle"


def make(product: Product) -> dict[str, Any]:
    """Trains and exports ``product`` unless both are done; the row that the sweep's table shows. Never raises.

    ``status`` is "made", "kept" or "failed"; the output of the commands goes to ``output.log`` in the run's folder.
    """
    start = time.monotonic()
    row: dict[str, Any] = {"product": product.name, "status": "failed", "reason": None, "bundle": None}
    try:
        row["status"] = "made" if _made(product) else "kept"
        row |= _figures(product)
    except (DskdError, OSError) as error:
        row["reason"] = one_line(str(error))
    return row | {"minutes": round((time.monotonic() - start) / 60, 1)}


def _made(product: Product) -> bool:
    """Whether anything had to be done. Raises DskdError with the reason of a command that failed."""
    images = find_products([product.data])
    trained = finished(product.folder, product.config, images, product.teacher_weights, product.strict)
    if trained is not None and _holds(product.bundle, str(trained.record["model_sha256"])):
        return False
    product.folder.mkdir(parents=True, exist_ok=True)
    with (product.folder / LOG).open("ab") as log:
        if trained is None:
            # JSON is YAML, and the whole configuration says more than the options it came from
            settings = product.folder / "asked.yaml"
            settings.write_text(product.config.model_dump_json(indent=1))
            _run(log.fileno(), product, "train", *_training_words(product, settings))
        _run(log.fileno(), product, "export.onnx", "--run", str(product.folder))
    return True


def _training_words(product: Product, settings: Path) -> list[str]:
    words = ["--data", str(product.data), "--out", str(product.folder), "--config", str(settings)]
    words += ["--device", product.device]
    if product.teacher_weights:
        words += ["--teacher-weights", product.teacher_weights]
    return [*words, "--strict"] if product.strict else words


def _holds(bundle: Path, model_sha256: str) -> bool:
    """Whether there is a whole bundle of that model."""
    with suppress(DskdError):
        return load_bundle(bundle).manifest.provenance.checkpoint_sha256 == model_sha256
    return False


def _run(log: int, product: Product, module: str, *arguments: str) -> None:
    begin = os.lseek(log, 0, os.SEEK_END)
    done = subprocess.run(tied.words(module, *arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)  # noqa: S603
    if done.returncode == 0:
        return
    file = product.folder / LOG
    with file.open("rb") as text:
        text.seek(begin)
        lines = [line for line in text.read().decode(errors="replace").splitlines() if line.strip()]
    if done.returncode < 0:
        raise DskdError(f"{module} was killed by signal {-done.returncode}, as by a machine without memory; see {file}")
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines[-1:]
    raise DskdError(f"{module}: {said[-1] if said else f'ended with exit code {done.returncode}'}")


def _figures(product: Product) -> Mapping[str, Any]:
    """What the finished run's record says."""
    record = json.loads((product.folder / RECORD).read_text())
    default: dict[str, Any] = next(iter(record["figures"].values()), {})
    return {
        "bundle": str(product.bundle),
        "training_images": record["training_images"],
        "image_auroc": default.get("image_auroc"),
        "pixel_auroc": default.get("pixel_auroc"),
        "painted": record["painted"]["all"],
        "reject": record["thresholds"]["reject"]["score"],
    }
