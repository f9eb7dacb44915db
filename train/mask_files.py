"""Which mask file belongs to which test picture."""

from __future__ import annotations

import logging
import unicodedata
from collections import defaultdict
from pathlib import Path

from dskd.runtime.capture.image_files import list_images
from dskd.runtime.errors import CallError, one_line

log = logging.getLogger(__name__)
_Key = tuple[str, ...]


def pair_masks(pictures: list[Path], folder: Path, masks: Path) -> dict[Path, Path]:
    """The mask below ``masks`` of each of ``pictures``, which lie below ``folder``; left out where there is none.

    A mask has its picture's relative path, with ``_mask`` behind the name or not, and any ending. Masks that belong to
    no picture are told. Raises CallError where two pictures claim one mask, or two masks one picture.
    """
    files = list_images(masks) if masks.is_dir() else []
    exact = {_composed(file.relative_to(masks).parts): file for file in files}
    by_key: dict[_Key, list[Path]] = defaultdict(list)
    for file in files:
        by_key[_key(file, masks, "_mask")].append(file)
    pairs: dict[Path, Path] = {}
    for picture in pictures:
        own = exact.get(_composed(picture.relative_to(folder).parts))
        found = [own] if own else by_key.get(_key(picture, folder), [])
        if len(found) > 1:
            raise CallError(f"{picture}: has two masks, {found[0]} and {found[1].name}; remove one")
        if found:
            pairs[picture] = found[0]
    _refuse_shared(pairs)
    unused = sorted(set(files) - set(pairs.values()))
    if unused:
        shown = one_line(str(unused[0]))
        log.warning("%d masks belong to no picture, %s for one; name each as its picture is named", len(unused), shown)
    return pairs


def same_name(folder: Path, name: str) -> Path:
    """``folder / name``, or what has that name there in the other of Unicode's two spellings of accents."""
    if (folder / name).exists() or not folder.is_dir():
        return folder / name
    wanted = unicodedata.normalize("NFC", name)
    return next((p for p in folder.iterdir() if unicodedata.normalize("NFC", p.name) == wanted), folder / name)


def _refuse_shared(pairs: dict[Path, Path]) -> None:
    owners: dict[Path, Path] = {}
    for picture, mask in pairs.items():
        other = owners.setdefault(mask, picture)
        if other is not picture:
            raise CallError(f"{mask}: is the mask of {other.name} and of {picture.name}; give each a name of its own")


def _key(file: Path, folder: Path, suffix: str = "") -> _Key:
    return _composed(file.relative_to(folder).with_name(file.stem.removesuffix(suffix)).parts)


def _composed(parts: tuple[str, ...]) -> _Key:
    """Accents composed (NFC), as most systems write them; macOS writes them apart."""
    return tuple(unicodedata.normalize("NFC", part) for part in parts)
