"""How large what a station writes is: records, payloads, archived pictures, the metrics page; measured by writing them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.metrics import CameraNumbers, Metrics, Snapshot
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Frame, Inspection, Region, Verdict
from dskd.runtime.sinks.archive import Archive, ArchiveConfig
from dskd.runtime.sinks.delivery import payload
from dskd.runtime.store import Store
from dskd.train.synthetic import good_part

SIDE = 1024  # pixels of a camera's frame
CAMERAS = 4  # of a station
PARTS = 4000
PICTURES = 4
MAP = 256
START = 1_790_000_000.0  # seconds since the epoch: the page must not change with the day


@dataclass(frozen=True)
class Sizes:
    """Bytes: payloads of an ``inspection`` and an ``answer``, both of them ``stored``, metrics ``page``.

    ``png`` and ``jpeg``: one in the archive with the original kept like that. ``series``: how many the page holds.
    """

    inspection: float
    answer: float
    stored: float
    png: float
    jpeg: float
    page: float
    series: int


def measure() -> Sizes:
    """Writes a store, an archive and a metrics page in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="dskd-sizes-") as folder:
        inspection, answer, stored = _store(Path(folder) / "store.db")
        png, jpeg = _archive(Path(folder) / "png", "png"), _archive(Path(folder) / "jpeg", "jpeg")
    page, series = _metrics()
    return Sizes(inspection, answer, stored, png, jpeg, page, series)


def _part(number: int, anomaly_map: NDArray[np.float32] | None = None) -> Inspection:
    """As a station makes them; every part has one region, which is more than most have."""
    return Inspection(
        source=f"camera-{number % CAMERAS}", frame=f"{number:08}", captured=START + number / 20, verdict=Verdict.REJECT,
        score=1.2345678 + number % 97 / 1000, threshold=1.1987654321, regions=(Region((412, 377, 39, 58), 1742, 1.29),),
        timings_ms={"queue": 0.412, "preprocess": 1.037, "inference": 4.218, "decision": 0.355}, bundle="plate-0123456789ab",
        backend="tensorrt-int8", anomaly_map=anomaly_map, part=f"P-{number:010}",
    )  # fmt: skip


def _store(file: Path) -> tuple[float, float, float]:
    store = Store(file)
    try:
        empty = file.stat().st_size
        for start in range(0, PARTS, 100):
            parts = [_part(k) for k in range(start, start + 100)]
            store.add(parts)
            store.add(
                [
                    Answer(p.source, str(p.part), p.verdict, Reason.INSPECTED, p.captured, p.captured + 0.02, p)
                    for p in parts
                ]
            )
        records = store.after(0, 2 * PARTS)
    finally:
        store.close()  # moves the write-ahead log into the file
    size = sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*")) - empty
    by_kind = {kind: [len(payload(r)) for r in records if r.kind == kind] for kind in ("inspection", "answer")}
    return float(np.mean(by_kind["inspection"])), float(np.mean(by_kind["answer"])), size / PARTS


def _archive(folder: Path, original: Literal["png", "jpeg"]) -> float:
    archive = Archive(ArchiveConfig(kind="archive", original=original, min_free_gb=0), folder)
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        picture = good_part(rng, SIDE, SIDE)
        found = _part(number, _map(rng))
        archive.write([(Frame(found.source, found.frame, found.captured, picture), found)])
    return sum(path.stat().st_size for path in folder.rglob("*.*") if path.is_file()) / PICTURES


def _map(rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth as the graph's are, under half of the threshold but for one spot."""
    calm = cv2.GaussianBlur(rng.random((MAP, MAP), np.float32), (0, 0), 4)
    spot = np.zeros((MAP, MAP), np.float32)
    cv2.circle(spot, (108, 101), 6, 1.3, -1)
    return np.asarray(calm + cv2.GaussianBlur(spot, (0, 0), 4), np.float32)


def _metrics() -> tuple[float, int]:
    names = [f"camera-{k}" for k in range(CAMERAS)]
    numbers = {name: CameraNumbers(ready=True, waiting=0, missed_triggers=0, reconnects=0) for name in names}
    metrics = Metrics(names, lambda: Snapshot(numbers, [], 0, 10**11))
    for number in range(100):
        metrics.inspected(_part(number), 0.02)
    text = metrics.page()
    return len(text), sum(not line.startswith(b"#") for line in text.splitlines())
