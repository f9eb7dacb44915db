"""Both sides of ``python -m benchmarks peers`` see the same frames, and exports that others made are not taken for these."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import tiny_bundle

from dskd.benchmarks import contenders
from dskd.benchmarks.lab.peers import peers
from dskd.benchmarks.lab.peers.peer_worker import FILES, Pictures
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.capture.image_files import encode_png, read_image
from dskd.runtime.errors import CallError

STUB = """
import sys
from pathlib import Path
words = sys.argv[2:]
if words[0] == "make":
    file = Path(words[2]) / "weights/torch/model.pt"
    file.parent.mkdir(parents=True)
    file.write_text("{mark}")
print("{{}}")
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def bench(folder: Path, bundle: Bundle, options: argparse.Namespace) -> peers.Bench:
    scratch = folder / "scratch"
    scratch.mkdir()
    return peers.Bench(Path(sys.executable), folder / "peers", scratch, bundle, options)


def shown(source: str) -> list[np.ndarray]:
    return [read_image(file) for file in sorted(Path(source.removeprefix("folder://")).iterdir())]


def test_both_sides_are_shown_the_same_frames(small: Bundle, tmp_path: Path) -> None:
    random, parts = np.random.default_rng(1), tmp_path / "parts"
    parts.mkdir()
    for k in range(12):
        (parts / f"{k:02}.png").write_bytes(encode_png(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)))
    options = peers.parser().parse_args(["--source", str(parts)])
    both = bench(tmp_path, small, options)
    ours, theirs = shown(both.source), np.load(both.frames)
    assert len(ours) == 12
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert np.array_equal(theirs[11], read_image(parts / "11.png"))
    (parts / "odd.png").write_bytes(encode_png(np.zeros((20, 20, 3), np.uint8)))
    with pytest.raises(CallError, match="all of one size"):
        contenders.stills(small, options)


def test_golden_frames_are_shown_to_both_where_nothing_else_was_asked_for(small: Bundle, tmp_path: Path) -> None:
    both = bench(tmp_path, small, peers.parser().parse_args(["--size", "64x48"]))
    assert np.array_equal(np.stack(shown(both.source)), np.load(both.frames))
    assert np.load(both.frames).shape[1:] == (48, 64, 3)


def test_eight_bits_are_calibrated_on_the_colours_that_are_served(tmp_path: Path) -> None:
    frame = np.zeros((1, 4, 6, 3), np.uint8)
    frame[..., 2] = 255  # red, in OpenCV's order
    np.save(tmp_path / "frames.npy", frame)
    (batch,) = Pictures(tmp_path / "frames.npy")
    assert batch["image"].shape == (1, 3, 4, 6)
    assert batch["image"].dtype == np.float32
    assert [float(channel.mean()) for channel in batch["image"][0]] == [1.0, 0.0, 0.0]


def test_exports_of_other_versions_or_another_worker_are_made_anew(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = peers.parser().parse_args(["--size", "64x64", "--json"])
    both, worker, wanted = bench(tmp_path, small, options), tmp_path / "worker.py", tmp_path / "requirements.txt"
    wanted.write_text("anomalib==1")
    monkeypatch.setattr(peers, "WORKER", worker)
    monkeypatch.setattr(peers, "REQUIREMENTS", wanted)

    def exported() -> str:
        found = both.exported("rd", ["torch"], contenders.blank([]))
        assert found["torch"].parts[-3:] == Path(FILES["torch"]).parts
        return found["torch"].read_text()

    worker.write_text(STUB.format(mark="first"))
    assert exported() == "first"
    kept = next((tmp_path / "peers" / "models").iterdir())
    (kept / FILES["torch"]).write_text("kept")
    assert exported() == "kept"
    worker.write_text(STUB.format(mark="second"))
    assert exported() == "second"
    wanted.write_text("anomalib==2")
    assert len({exported(), *(path.name for path in (tmp_path / "peers" / "models").iterdir())}) == 4
