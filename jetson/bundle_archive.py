"""A bundle in one file and back: plain tar, regular files only, every name and size looked at before a byte is written."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path, PurePosixPath

from dskd.jetson.disk import Disk
from dskd.jetson.signing import LARGEST_ENVELOPE, Refused, Statement
from dskd.runtime.bundle.loading import IGNORED, MANIFEST, Bundle, file_sha256, load_bundle
from dskd.runtime.errors import DskdError

BLOCK = 1 << 20
SIGNATURE = "pack.signature"  # a member that is no file of the bundle
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")


def pack(bundle: Bundle, archive: Path, signature: bytes | None = None) -> tuple[int, int]:
    """Writes ``bundle`` without its engines; the same bundle gives the same bytes. Returns files and their bytes.

    ``signature`` stands first, as a member that is no file of the bundle.
    """
    total = 0
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        if signature is not None:
            _add(tar, SIGNATURE, signature)
        names = [MANIFEST, *sorted(bundle.manifest.files)]
        for name in names:
            data = (bundle.path / name).read_bytes()
            _add(tar, name, data)
            total += len(data)
    return len(names), total


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def unpack(archive: Path, statement: Statement, folder: Path, disk: Disk) -> Bundle:
    """Unpacks into the empty ``folder`` and checks every byte against the signed manifest.

    Raises Refused where the archive holds anything else than what was signed, OSError where the disk gives up.
    """
    if extract(archive, folder, disk, statement.files, statement.unpacked_bytes) is not None:
        raise Refused("the archive holds a signature of its own; publish it again")
    return check(folder, statement)


def extract(archive: Path, folder: Path, disk: Disk, most_files: int, most_bytes: int) -> bytes | None:
    """Writes the archive's files below the empty ``folder`` and returns its signature, None where it has none.

    Nothing of what is written is believed yet. Raises Refused where it holds more than that, or anything but plain files
    below the folder; OSError where the disk gives up.
    """
    made, signature = {folder}, None
    files = size = 0
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.name == SIGNATURE and not files and signature is None:
                    signature = _signature(tar, member)
                    continue
                target = folder / _safe_name(member)
                files, size = files + 1, size + member.size
                if files > most_files or size > most_bytes:
                    raise Refused("the archive holds more than its statement says or is allowed")
                for parent in reversed([p for p in target.parents if p.is_relative_to(folder) and p not in made]):
                    _make_folder(parent, disk)
                    made.add(parent)
                _copy(tar, member, target, disk)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise Refused(f"the archive cannot be read ({error}); make it again") from error
    for parent in made:
        disk.sync_folder(parent)
    return signature


def _signature(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    source = tar.extractfile(member) if member.isreg() and member.size <= LARGEST_ENVELOPE else None
    if source is None:
        raise Refused("the archive's signature is no small file")
    with source:
        return source.read()


def check(folder: Path, statement: Statement) -> Bundle:
    """The bundle in ``folder``, where it is the one that was signed. Raises Refused."""
    try:
        if file_sha256(folder / MANIFEST) != statement.manifest_sha256:
            raise Refused("the bundle's manifest is not the one that was signed")
        return load_bundle(folder)
    except Refused:
        raise
    except (DskdError, OSError) as error:
        raise Refused(f"the bundle is not the one that was signed: {error}") from error


def _safe_name(member: tarfile.TarInfo) -> PurePosixPath:
    """The member's name where it is a plain file below the folder. Raises Refused."""
    path = PurePosixPath(member.name)
    parts = path.parts
    if not member.isreg() or member.issparse():
        raise Refused(f"the archive holds {member.name!r}, which is no plain file")
    if not parts or len(parts) > 8 or not all(_PART.fullmatch(part) for part in parts) or str(path) != member.name:
        raise Refused(f"the archive holds the name {member.name!r}, which leads elsewhere")
    if member.name.startswith(IGNORED):
        raise Refused(f"the archive holds {member.name!r}: engines are built on the device")
    return path


def _make_folder(folder: Path, disk: Disk) -> None:
    if folder.exists():
        raise Refused(f"the archive holds a file and a folder that are both called {folder.name!r}")
    disk.make_folder(folder)


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, disk: Disk) -> None:
    source = tar.extractfile(member)
    if source is None or target.exists():
        raise Refused(f"the archive holds {member.name!r} twice")
    with source, disk.writing(target) as writer:
        while block := source.read(BLOCK):
            writer.write(block)
        writer.sync()
