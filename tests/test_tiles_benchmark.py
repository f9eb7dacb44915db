"""``python -m benchmarks tiles`` tells what tiles cost, of a bundle with tiles and of one without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import SIDE, tiled, tiny_bundle

from dskd.benchmarks import tiles
from dskd.benchmarks.tile_worker import in_tiles, mosaic
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Tiling
from dskd.runtime.errors import CallError

WORDS = ["--backend", "onnxruntime", "--threads", "1", "--rounds", "2", "--sides", "128,256", "--json"]
NAMES = [f"onnxruntime fp32, {side}x{side}" for side in (128, 256)]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(("make", "counts"), [(tiny_bundle, [25, 81]), (tiled, [25, 121])])
def test_a_frame_a_tile_and_the_memory_of_each_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, counts: list[int]
) -> None:
    bundle = make(tmp_path / "b")  # type: ignore[operator]
    assert tiles.main(["--bundle", str(bundle.path), *WORDS, "--out", str(tmp_path / "tiles.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "tiles.json").read_text())
    rows = {(row["name"], row["what"]): row["median"] for row in found["rows"]}
    for name, count, side in zip(NAMES, counts, (128, 256), strict=True):
        assert rows[name, "tiles"] == count
        assert rows[name, "a tile"] == pytest.approx(rows[name, "frame to verdict"] / count, rel=0.5)
        assert rows[name, "frame and merged map"] == side * side * 7 / 1e6
        assert rows[name, "peak"] > 10
        assert 0 < rows[name, "preprocess"] < rows[name, "frame to verdict"]
    (grown,) = found["ratios"]
    assert (grown["of"], grown["to"], grown["what"]) == (NAMES[1], NAMES[0], "a tile")


def test_a_mosaic_shows_golden_frames_of_the_size_of_a_tile(tmp_path: Path) -> None:
    picture = mosaic(in_tiles(tiny_bundle(tmp_path / "b")), 100)
    assert picture.shape == (100, 100, 3)
    np.testing.assert_array_equal(picture[:SIDE], picture[SIDE : 2 * SIDE])
    assert picture[:SIDE, :SIDE].std() > 1


def test_a_bundles_own_tiles_are_kept(tmp_path: Path) -> None:
    own = tiled(tmp_path / "own", side=2 * SIDE, overlap=4)
    assert in_tiles(own) is own
    assert in_tiles(tiny_bundle(tmp_path / "b")).manifest.input.tiling == Tiling(side=SIDE, overlap=SIDE // 8)


def test_a_bundle_that_cannot_have_tiles_and_senseless_sides_are_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    wide = bundle.manifest.input.model_copy(update={"width": 2 * SIDE})
    with pytest.raises(CallError, match="tiles are square and its input is 64x32"):
        in_tiles(Bundle(bundle.path, bundle.manifest.model_copy(update={"input": wide})))
    for sides in ("", "31", "64,64", "64,x", "99999"):
        with pytest.raises(CallError, match="--sides"):
            tiles.main(["--bundle", str(bundle.path), *WORDS, "--sides", sides])
