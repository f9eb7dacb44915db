"""A contour fixture learnt from good pictures: what lies on the background, how it looks, how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.manifest import Fixture
from dskd.runtime.capture.image_files import BadImage, read_image
from dskd.runtime.inspection.fixture.contour import Blob, blobs, differing
from dskd.runtime.inspection.fixture.find import find_part
from dskd.runtime.inspection.fixture.pose import Pose
from dskd.runtime.inspection.fixture.reference import SIDE, PartNotFound, Reference, encoded, grey_of, smaller, step_of
from dskd.runtime.inspection.preprocess import preprocess
from dskd.runtime.result import Image

LOOKED_AT = 400  # good pictures, spread over all
LEARNT_FROM = 64  # of them, every second at most
AVERAGED = 24  # of these make the reference
SMALL = 320  # pixels of the longer side when outlines are learnt
FAINTEST = 10  # grey levels: what differs less from the background is noise and shadow
SMALLEST, LARGEST = 0.005, 0.7  # area of a part, as a share of the picture
FOUND_IN = 0.9  # share of the pictures learnt from in which there must be one outline
ALIKE_IN_SIZE = 1.5  # most by which the larger parts' areas exceed the smaller ones'
STILL = 0.03  # of the part's reach, and of a radian: parts that move and turn less lie still
CLEARLY = 0.6  # of what differs between plain pictures, the most that may differ between aligned ones
TURNING_PAYS = 0.8  # the same of turned ones against ones that are only moved
TURNING_TELLS = 0.005  # of likeness that turning must gain besides: less is noise
WEAKEST = 0.05  # likeness that anything has
LEAST = 0.6  # of the smallest likeness among good pictures: a part with a defect is less like
CELLS = 48  # across and down, of the pictures whose likeness is compared


class NoFixture(Exception):
    """Why parts are not found before they are looked at."""


@dataclass(frozen=True)
class Seen:
    """A picture in which one outline was found, and that outline. The picture is read anew where it is needed."""

    path: Path
    blob: Blob


@dataclass(frozen=True)
class Aligned:
    """Good pictures through a fixture: small and grey as the camera shows them, ``plain`` [N, CELLS, CELLS], and cut out,
    ``aligned``; the parts' poses; and what was said of those where the part was not found.
    """

    plain: NDArray[np.float32]
    aligned: NDArray[np.float32]
    poses: list[Pose]
    missing: list[str]

    @property
    def likeness(self) -> float:
        """Of the aligned pictures among each other."""
        return _likeness(self.aligned)


def learn_contour(paths: Sequence[Path], turn: float, margin: float, unfound: float) -> tuple[Fixture, str]:
    """A contour fixture from good pictures, and in a few words what it does for them.

    ``turn`` and ``margin`` as in the settings; ``unfound`` is the share of good pictures in which it may not find the
    part. Raises NoFixture where none helps.
    """
    some = looked_at(paths)
    allowed = int(unfound * len(some))
    seen, contrast = _outlines(some[::2][:LEARNT_FROM])
    fixture = _with_reference(seen, contrast, turn, margin)
    found = _align(some, fixture, allowed)
    still = fixture.model_copy(update={"turn": 0.0})
    unturned = _align(some, still, len(some))
    gained = found.likeness - unturned.likeness
    if 1 - found.likeness > TURNING_PAYS * (1 - unturned.likeness) or gained < TURNING_TELLS:  # round: no angle to tell
        fixture, found = still, _align(some, still, allowed)
    _require_movement(found.poses, fixture)
    before = _likeness(found.plain)
    if 1 - found.likeness > CLEARLY * (1 - before):
        raise NoFixture(f"aligned pictures are hardly more alike than plain ones ({found.likeness:.2f}, {before:.2f})")
    ranked = sorted(pose.likeness for pose in found.poses)
    least = max(LEAST * ranked[allowed - len(found.missing)], WEAKEST)
    few = len(found.missing) + sum(likeness < least for likeness in ranked)
    told = f"all {len(some)}" if not few else f"{len(some) - few} of {len(some)}"
    return fixture.model_copy(update={"likeness": round(least, 3)}), (
        f"contour: parts lie {'turned and moved' if fixture.turn else 'moved'}; found in {told} pictures looked at, and so "
        f"aligned they are alike by {found.likeness:.2f}, plain by {before:.2f}"
    )


def looked_at(paths: Sequence[Path]) -> list[Path]:
    """Some of the good pictures, spread over all."""
    return list(paths[:: -(-len(paths) // LOOKED_AT) or 1])


def _outlines(paths: Sequence[Path]) -> tuple[list[Seen], int]:
    """One outline of each picture where there is one, and the contrast at which they were found."""
    found: list[tuple[Path, NDArray[np.uint8], int]] = []
    for path in paths:
        try:
            image = read_image(path)
        except BadImage:
            continue  # named later, where every picture is read
        step = max(1, max(image.shape[:2]) // SMALL)
        found.append((path, differing(smaller(image, step)), step))
    if not found:
        raise NoFixture("no picture could be read")
    middle = float(np.median([cv2.threshold(d, 0, 255, cv2.THRESH_OTSU)[0] for _, d, _ in found]))
    best: tuple[float, float, list[Seen], int] | None = None
    for contrast in sorted({max(round(middle * part), FAINTEST) for part in (1.0, 0.5, 0.25)}):
        seen = [
            Seen(path, blob)
            for path, difference, step in found
            if (blob := _only_blob(difference, contrast, step)) is not None
        ]
        if not seen:
            continue
        areas = np.array([each.blob.area for each in seen])
        rank = (len(seen) / len(found), -float(areas.std() / areas.mean()))
        if best is None or (round(rank[0], 2), rank[1]) > (round(best[0], 2), best[1]):
            best = (*rank, seen, contrast)
    if best is None or best[0] < FOUND_IN:
        share = 0.0 if best is None else best[0]
        raise NoFixture(f"one part on a plain background is to be seen in {share:.0%} of the pictures")
    low, high = np.quantile([each.blob.area for each in best[2]], (0.05, 0.95))
    if high > ALIKE_IN_SIZE * low:
        raise NoFixture("what is to be seen on the background has many sizes")
    return best[2], best[3]


def _only_blob(difference: NDArray[np.uint8], contrast: int, step: int) -> Blob | None:
    """The one thing on the background, where it is as large as a part may be."""
    found = blobs(difference, contrast, step)
    share = found[0].area / step**2 / difference.size if found else 0.0
    if not SMALLEST <= share <= LARGEST or found[0].at_edge:
        return None
    return None if len(found) > 1 and found[1].area > found[0].area / 4 else found[0]


def _with_reference(seen: Sequence[Seen], contrast: int, turn: float, margin: float) -> Fixture:
    """A fixture whose reference is the mean of some of the pictures, aligned with the most ordinary one.

    The part's longer side lies level in it, or where parts may be turned a little only, the part lies as it does in the
    middle of them.
    """
    areas = np.array([each.blob.area for each in seen])
    first = seen[int(np.abs(areas - np.median(areas)).argmin())]
    reach = 1.08 * float(np.median([np.hypot(*(s.blob.outline - s.blob.middle).T).max() for s in seen]))
    upright = _long_side(first.blob) if turn == 180 else 0.0
    reference = Reference(np.zeros((SIDE, SIDE), np.uint8), reach, np.ones((SIDE, SIDE), np.bool_))
    picture = patch_of(reference, read_image(first.path), (*first.blob.middle, upright))
    fixture = Fixture(
        finder="contour", width=SIDE, height=SIDE, reference=encoded(picture), reach=reach,
        centre=((SIDE - 1) / 2, (SIDE - 1) / 2), turn=min(2 * turn, 180.0), likeness=WEAKEST, contrast=contrast, area=(round(0.75 * areas.min()), round(1.33 * areas.max())),
    )  # fmt: skip
    chosen = seen[:: -(-len(seen) // AVERAGED)]
    for middle_too in (turn < 180, False):
        places = [(each, pose_in(each.path, fixture)) for each in chosen]
        found = [(each, pose) for each, pose in places if pose is not None]
        if not found:
            raise NoFixture("the pictures show no part that looks alike in them")
        off = _mean_angle([pose for _, pose in found]) if middle_too else 0.0
        patches = [
            patch_of(reference, read_image(each.path), (pose.x, pose.y, pose.angle - off)) for each, pose in found
        ]
        mean = np.rint(np.mean(patches, axis=0)).astype(np.uint8)
        fixture = fixture.model_copy(update={"reference": encoded(mean)})
    fixture = fixture.model_copy(update={"turn": turn})
    return _with_picture(fixture, [(each.blob, pose) for each, pose in found], margin)


def _mean_angle(poses: Sequence[Pose]) -> float:
    return float(np.rad2deg(np.angle(np.exp(1j * np.deg2rad([pose.angle for pose in poses])).sum())))


def _long_side(blob: Blob) -> float:
    """The angle at which the part's longer side lies level, the nearest to how it lies."""
    _, (width, height), angle = cv2.minAreaRect(blob.outline.astype(np.float32))
    level = angle if width >= height else angle + 90
    return float((level + 90) % 180 - 90)


def patch_of(reference: Reference, image: Image, place: tuple[float, float, float]) -> NDArray[np.uint8]:
    """What a picture [H, W, 3] shows at a place, as the reference shows it."""
    step = step_of(image.shape, reference.reach)
    return reference.patch(grey_of(smaller(image, step)), step, place)


def pose_in(path: Path, fixture: Fixture) -> Pose | None:
    """Where the part lies in a file; None where it is not found or the file cannot be read."""
    try:
        return find_part(read_image(path), fixture)
    except (BadImage, PartNotFound):
        return None


def _with_picture(fixture: Fixture, found: Sequence[tuple[Blob, Pose]], share: float) -> Fixture:
    """With the size of the picture that is cut out: all outlines lie in it with a margin."""
    upright = []
    for blob, pose in found:
        turn = pose.to_frame[:, :2]
        upright.append((blob.outline - np.array([pose.x, pose.y])) @ turn)
    low = np.median([points.min(0) for points in upright], axis=0)
    high = np.median([points.max(0) for points in upright], axis=0)
    margin = share * float((high - low).max())
    low, high = low - margin, high + margin
    width, height = (int(np.ceil(side)) + 1 for side in high - low)
    centre = ((width - 1) / 2 - float((low + high)[0]) / 2, (height - 1) / 2 - float((low + high)[1]) / 2)
    return Fixture.model_validate(fixture.model_dump() | {"width": width, "height": height, "centre": centre})


def _align(paths: Sequence[Path], fixture: Fixture, allowed: int) -> Aligned:
    """Raises NoFixture where the part is not found in more than ``allowed`` of them."""
    plain, aligned, poses, missing = [], [], list[Pose](), list[str]()
    for path in paths:
        try:
            image = read_image(path)
            pose = find_part(image, fixture)
        except BadImage:
            continue  # named later, where every picture is read
        except PartNotFound as error:
            missing.append(f"{path.name}: {error}")
            continue
        poses.append(pose)
        plain.append(_small(image))
        aligned.append(_small(pose.cut_out(image)))
    if len(missing) > allowed or len(poses) < 2:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise NoFixture(f"{missing[0]}{more}" if missing else "the part is found in too few pictures")
    return Aligned(np.stack(plain), np.stack(aligned), poses, missing)


def _small(image: Image) -> NDArray[np.float32]:
    return np.asarray(preprocess(image, CELLS, CELLS).mean(2), np.float32)


def _likeness(pictures: NDArray[np.float32]) -> float:
    """Mean correlation of each picture with the mean of the others."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(flat.std(1, keepdims=True), 1e-6)
    others = (flat.sum(0) - flat) / (len(flat) - 1)
    spread = np.maximum(others.std(1), 1e-6)
    return float(((flat * others).mean(1) / spread).mean())


def _require_movement(poses: Sequence[Pose], fixture: Fixture) -> None:
    places = np.array([[pose.x, pose.y] for pose in poses])
    moved = float(places.std(0).max()) / fixture.reach
    turns = np.exp(1j * np.deg2rad([pose.angle for pose in poses]))
    turned = float(np.sqrt(max(-2 * np.log(max(abs(turns.mean()), 1e-9)), 0)))  # circular standard deviation
    if max(moved, turned) < STILL:
        raise NoFixture("parts lie still")
