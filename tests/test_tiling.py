"""Large frames in tiles: nothing is left out, seams do not show, and a picture costs what its tiles cost."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from tiny_bundle import SIDE, tiled, tiny_bundle

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import InputSpec, Tiling
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends import Output, open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.golden import golden_check
from dskd.runtime.inspection.inspector import BackendFailed, Inspector
from dskd.runtime.inspection.tiling import Grid, MergedMap, coarse, infer_tiles
from dskd.runtime.result import Frame, Verdict

MOST = 4  # tiny_bundle's max_batch
SETTINGS = Settings(review=0.3, reject=0.5)


def spec(side: int = SIDE, overlap: int = 8) -> InputSpec:
    return InputSpec(height=SIDE, width=SIDE, tiling=Tiling(side=side, overlap=overlap))


def frame(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Grey around 128, so that tiny_bundle's map is near 0."""
    return np.random.default_rng(seed).integers(118, 139, (height, width, 3)).astype(np.uint8)


class Counting:
    """A real backend; ``batches`` counts what it is given."""

    def __init__(self, bundle: Bundle) -> None:
        self._backend = open_backend(bundle, threads=1)
        self.name, self.graph, self.close = self._backend.name, self._backend.graph, self._backend.close
        self.batches: list[int] = []

    def infer(self, batch: NDArray[np.uint8]) -> Output:
        self.batches.append(len(batch))
        return self._backend.infer(batch)


def inspector(bundle: Bundle, keep_maps: bool = True) -> tuple[Inspector, Counting]:
    backend = Counting(bundle)
    return Inspector(bundle, backend, SETTINGS, keep_maps), backend


def captured(image: NDArray[np.uint8]) -> Frame:
    return Frame("test", "0", 0.0, image)


sizes = st.integers(SIDE, 300)


@given(sizes, sizes, st.integers(0, SIDE // 2))
def test_tiles_cover_every_pixel_and_keep_the_overlap(height: int, width: int, overlap: int) -> None:
    grid = Grid.of((height, width), spec(overlap=overlap))
    boxes = grid.boxes()
    assert len(boxes) == len(grid)
    for length, axis in ((width, 0), (height, 1)):
        starts = sorted({box[axis] for box in boxes})
        assert starts[0] == 0
        assert starts[-1] == length - SIDE
        assert all(SIDE - (b - a) >= overlap for a, b in pairwise(starts))
        fewest = 1 if length == SIDE else -(-(length - overlap) // (SIDE - overlap))
        assert len(starts) == fewest


@given(sizes, sizes, st.integers(0, SIDE // 2), st.integers(0, 9))
def test_a_map_that_is_cut_and_merged_is_the_same_map(height: int, width: int, overlap: int, seed: int) -> None:
    whole = np.random.default_rng(seed).random((height, width), np.float32)
    grid = Grid.of((height, width), spec(overlap=overlap))
    merged = MergedMap(grid)
    assert grid.map_size == (height, width)
    for k, (x, y, w, h) in enumerate(grid.boxes()):
        merged.add(k, whole[None, y : y + h, x : x + w])
    np.testing.assert_allclose(merged.values, whole, rtol=1e-5)


def test_what_a_tile_gets_wrong_at_its_border_fades_in_the_overlap() -> None:
    """Two tiles, the left one wrong by 1 everywhere: the difference falls evenly from 1 to 0 across the overlap."""
    grid = Grid.of((SIDE, 2 * SIDE - 16), spec(overlap=16))
    merged = MergedMap(grid)
    merged.add(0, np.stack([np.ones((SIDE, SIDE)), np.zeros((SIDE, SIDE))]).astype(np.float32))
    row = merged.values[SIDE // 2]
    assert (row[: SIDE - 16] == 1).all()
    assert (row[SIDE:] == 0).all()
    steps = -np.diff(row)
    assert (steps >= 0).all()
    assert steps.max() < 0.1  # no seam


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_frame_through_tiles_has_the_map_of_the_whole_frame(tmp_path: Path, scale: int) -> None:
    bundle = tiled(tmp_path / "b", side=SIDE * scale, overlap=8 * scale)
    image = frame(70 * scale, 133 * scale)
    seen = infer_tiles(open_backend(bundle), image, bundle.manifest.input, MOST)
    grey = image.astype(np.float32).mean(2).reshape(70, scale, 133, scale).mean((1, 3))
    assert seen.anomaly_map.shape == (70, 133)
    assert np.abs(seen.anomaly_map - np.abs(grey - 128) / 128).mean() < 0.02


@pytest.mark.parametrize(("height", "width"), [(128, 128), (256, 256), (512, 512), (256, 1024)])
def test_cost_is_the_number_of_tiles_and_that_grows_with_the_area(tmp_path: Path, height: int, width: int) -> None:
    looks, backend = inspector(tiled(tmp_path / "b", overlap=0))
    looks.inspect(captured(frame(height, width)))
    assert sum(backend.batches) == height * width // SIDE**2
    assert set(backend.batches) == {MOST}


def test_8k_takes_sixteen_times_the_tiles_of_2k() -> None:
    cut = InputSpec(height=256, width=256, tiling=Tiling(side=256))
    tiles = [len(Grid.of((side, side), cut)) for side in (2048, 4096, 8192)]
    assert tiles == [81, 361, 1369]
    assert 16 <= tiles[2] / tiles[0] < 17  # no more than what is left over at the border


def test_a_small_defect_that_the_whole_frame_loses_is_found_where_it_lies(tmp_path: Path) -> None:
    image = frame(1024, 1024)
    image[500:512, 723:731] = 255
    whole = tiny_bundle(tmp_path / "whole")
    backend = open_backend(whole)
    assert Inspector(whole, backend, SETTINGS).inspect(captured(image)).verdict is Verdict.PASS
    looks, _ = inspector(tiled(tmp_path / "b"))
    found = looks.inspect(captured(image))
    assert found.verdict is Verdict.REJECT
    assert [region.box for region in found.regions] == [(723, 500, 8, 12)]
    assert found.regions[0].area == 96
    assert found.anomaly_map is not None
    assert found.anomaly_map.shape == (1024, 1024)
    assert found.score == found.anomaly_map.max() == found.regions[0].peak
    few = replace(SETTINGS, min_area=97)
    assert looks.inspect_batch([(captured(image), few)])[0].verdict is Verdict.PASS  # type: ignore[union-attr]


def test_a_defect_across_a_seam_is_one_region(tmp_path: Path) -> None:
    looks, _ = inspector(tiled(tmp_path / "b"))
    image = frame(104, 104)  # tiles begin at 0, 24, 48, 72
    image[50:53, 10:90] = 255
    (region,) = looks.inspect(captured(image)).regions
    assert (region.box, region.area) == ((10, 50, 80, 3), 240)


def test_a_region_of_interest_holds_in_frame_pixels(tmp_path: Path) -> None:
    looks, _ = inspector(tiled(tmp_path / "b", side=64, overlap=16))
    image = frame(200, 200)
    image[20:28, 20:28] = 255
    elsewhere = np.ones((200, 200), bool)
    elsewhere[16:32, 16:32] = False
    there = np.zeros((200, 200), bool)
    there[20:28, 20:28] = True
    verdicts = [
        looks.inspect_batch([(captured(image), replace(SETTINGS, roi=roi))])[0].verdict  # type: ignore[union-attr]
        for roi in (elsewhere, there)
    ]
    assert verdicts == [Verdict.PASS, Verdict.REJECT]


def test_frames_of_a_batch_keep_their_places(tmp_path: Path) -> None:
    """One is too small, one is blank, one is fine; a plain patch larger than a tile makes no picture blank."""
    looks, _ = inspector(tiled(tmp_path / "b"))
    partly = frame(96, 96)
    partly[:64, :64] = 128
    images = [frame(20, 96), np.full((96, 96, 3), 128, np.uint8), partly]
    small, blank, fine = looks.inspect_batch([(captured(image), SETTINGS) for image in images])
    assert "smaller than a tile of 32x32" in str(small)
    assert "blank" in str(blank)
    assert not isinstance(fine, DskdError)
    assert fine.verdict is Verdict.PASS


def test_a_backend_that_fails_in_the_last_tiles_gives_no_verdict(tmp_path: Path) -> None:
    looks, backend = inspector(tiled(tmp_path / "b"))
    working = backend.infer

    def failing(batch: NDArray[np.uint8]) -> Output:
        if len(backend.batches) == 3:
            raise RuntimeError("out of memory")
        return working(batch)

    backend.infer = failing  # type: ignore[method-assign]
    with pytest.raises(BackendFailed, match="out of memory"):
        looks.inspect_batch([(captured(frame(96, 96)), SETTINGS)])


class Beside(Counting):
    """A device that works beside the host: two batches on their way, whose maps the second one after takes the place of."""

    def __init__(self, bundle: Bundle, fails: int = -1) -> None:
        super().__init__(bundle)
        self.events: list[str] = []
        self.waiting: dict[int, NDArray[np.uint8]] = {}
        self.fails = fails  # the submission that does
        self.submitted = 0

    def submit(self, batch: NDArray[np.uint8]) -> int:
        assert len(self.waiting) < 2
        if self.submitted == self.fails:
            raise RuntimeError("device lost")
        self.waiting[self.submitted] = batch.copy()
        self.events.append("submit")
        self.submitted += 1
        return self.submitted - 1

    def collect(self, ticket: int) -> Output:
        self.events.append("collect")
        return Late(self, ticket, self.infer(self.waiting.pop(ticket)))


class Late:
    def __init__(self, device: Beside, ticket: int, output: Output) -> None:
        self.scores, self._device, self._ticket, self._output = output.scores, device, ticket, output

    def maps(self) -> NDArray[np.float32]:
        assert self._device.submitted - self._ticket <= 2, "their place was taken"
        return self._output.maps()


def test_tiles_are_cut_while_a_device_has_the_last_ones(tmp_path: Path) -> None:
    bundle = tiled(tmp_path / "b")
    image = frame(96, 96)
    plain, _ = inspector(bundle)
    backend = Beside(bundle)
    looks = Inspector(bundle, backend, SETTINGS, keep_maps=True)
    found, expected = looks.inspect(captured(image)), plain.inspect(captured(image))
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    assert found.score == expected.score
    assert backend.events == ["submit", *["submit", "collect"] * 3, "collect"]  # 16 tiles, 4 at a time
    assert not looks.overlaps  # between frames there is nothing more to gain


def test_a_device_that_fails_between_tiles_is_left_with_nothing_on_its_way(tmp_path: Path) -> None:
    bundle = tiled(tmp_path / "b")
    backend = Beside(bundle, fails=2)
    looks = Inspector(bundle, backend, SETTINGS)
    with pytest.raises(BackendFailed, match="device lost"):
        looks.inspect_batch([(captured(frame(96, 96)), SETTINGS)])
    assert not backend.waiting
    backend.fails = -1
    assert looks.inspect(captured(frame(96, 96))).verdict is Verdict.PASS


def test_a_kept_map_is_not_the_next_frames(tmp_path: Path) -> None:
    looks, _ = inspector(tiled(tmp_path / "b"))
    first = looks.inspect(captured(frame(96, 96))).anomaly_map
    assert first is not None
    before = first.copy()
    bright = frame(96, 96, 1)
    bright[40:50, 40:50] = 255
    for image in (bright, frame(64, 64), bright):  # another size takes the place, and this one again
        looks.inspect(captured(image))
        np.testing.assert_array_equal(first, before)
    assert looks.inspect(captured(frame(96, 96))).score == before.max()  # nothing of the frames between is left


def test_a_tiled_bundle_proves_itself_on_single_tiles(tmp_path: Path) -> None:
    bundle = tiled(tmp_path / "b", side=2 * SIDE)  # tiny_bundle's golden frames are of that size
    assert golden_check(bundle, open_backend(bundle)).input_levels == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tiling": {"side": 64, "overlap": 40}}, "over half"),
        ({"tiling": {"side": 0}}, "greater than 0"),
        ({"tiling": {"side": 64}, "crop": (0, 0, 64, 64)}, "leave crop out"),
        ({"tiling": {"side": 64}, "width": 64}, "square"),
    ],
)
def test_a_tiling_that_cannot_be_meant_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        InputSpec.model_validate({"height": 32, "width": 32, **fields})


def test_a_bundle_without_tiles_says_nothing_of_them() -> None:
    """Runtimes from before tiling refuse keys they do not know; and such a bundle keeps its id."""
    assert "tiling" not in InputSpec(height=32, width=32).model_dump_json()
    assert InputSpec.model_validate_json(spec().model_dump_json()) == spec()


def test_coarse_keeps_the_worst_of_each_cell() -> None:
    values = np.zeros((10, 7), np.float32)
    values[9, 6], values[4, 0] = 3, 2
    assert coarse(values, 2, 3).tolist() == [[2, 0, 0], [0, 0, 3]]
