"""How long the work after training takes: how many pictures each piece of it looks at, and the time of one look."""

from __future__ import annotations

from collections.abc import Sequence

from dskd.train.config import TrainConfig
from dskd.train.local_statistics import ENOUGH
from dskd.train.map_choice import is_open
from dskd.train.selection import painted_on_each

Piece = tuple[str, float]  # as its progress is called, and seconds


def after_training(
    config: TrainConfig, readings: Sequence[str], looks: int, held_out: int, tested: int, tiles: float, seconds: float
) -> list[Piece]:
    """The pieces in order, ``seconds`` a look.

    ``looks``: training pictures with their copies. ``tiles``: network inputs in a picture, of which ``held_out`` are held
    out and ``tested`` labelled.
    """
    painted = held_out * painted_on_each(held_out)
    usual = [("principal components", min(looks, ENOUGH)), ("what is usual", looks)]
    pieces: list[tuple[str, float]] = []
    chosen = is_open(config, held_out)
    if chosen:
        pieces += [*usual, ("good pictures", held_out), ("painted defects", painted)]
    for number, _ in enumerate(readings):
        if config.map.distance in ("joined", "local") and not (chosen and number == 0):
            pieces += usual
        if config.map.distance == "joined":
            pieces.append(("units of the map", held_out))
    pieces.append(("held-out images", held_out * tiles))
    pieces += [(f"test, reading {reading}", tested * tiles) for reading in readings if tested]
    pieces.append(("painted defects", painted * tiles))
    return [(name, count * seconds) for name, count in pieces]
