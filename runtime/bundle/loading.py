"""A bundle: the directory that is shipped. Data, never code; every byte is checked before it is used.

``manifest.yaml`` starts with a seal, the sha256 of the rest of the file, and holds the sha256 of every other file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from dskd.runtime import atomic
from dskd.runtime.bundle.manifest import SCHEMA, Finite, Manifest
from dskd.runtime.configuration.strict_yaml import LARGEST_YAML, dump_yaml, first_fault, parse_yaml
from dskd.runtime.errors import CallError, DskdError

MANIFEST = "manifest.yaml"
PROBES, PROBE_COUNT = "golden/probes.npy", 4  # older bundles have none
PROBE_STEP = 4  # of a probe's map only every fourth pixel is kept: it is smooth
ANSWERS = ("scores", "maps", "probe_maps")  # of a graph, each a file below golden/
FORMS = "forms/"  # parts of other forms of FORMED (dskd.export.graph.form_parts)
FORMED = "model.int8.onnx"
HELD_OUT = "held_out.json"  # scores of the held-out good images by graph; older bundles have none
LARGEST_HELD_OUT = 64 << 20  # bytes
FLOAT = "model.onnx"  # the graph that every bundle has
IGNORED = ("engines/", f".{MANIFEST}.")  # engines have facts of their own; a killed writer leaves a temporary file
_SEAL = "# seal sha256:"
_SCORES: TypeAdapter[dict[str, list[Finite]]] = TypeAdapter(dict[str, list[Finite]])


@dataclass(frozen=True)
class Golden:
    """Frames with what a graph must say of them: inputs [N, H, W, 3], scores [N], maps [N, H, W].

    ``own``: these are that graph's answers. In older bundles every graph has the trained model's.
    """

    frames: list[Path]
    inputs: NDArray[np.uint8]
    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    own: bool = True


@dataclass(frozen=True)
class Probes:
    """Pictures of no part [4, H, W, 3], and the maps [4, h, w] that a graph must make of them.

    Maps hold every ``PROBE_STEP``-th pixel. Nothing of such a picture is as usual, so its distances are large and rounding
    is small beside them.
    """

    inputs: NDArray[np.uint8]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file was, or is before it is used, checked against the manifest."""

    path: Path
    manifest: Manifest
    _unchecked: set[str] = field(default_factory=set, compare=False, repr=False)

    @cached_property
    def id(self) -> str:
        """Name and 12 digits of a hash over files, input and graphs: two bundles with one id judge alike."""
        judges = self.manifest.model_dump_json(include={"files", "input", "graphs"})
        return f"{self.manifest.name}-{hashlib.sha256(judges.encode()).hexdigest()[:12]}"

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists. Raises DskdError where it lists none of that name."""
        if name not in self.manifest.files:
            maker = "dskd calibration" if ".int8." in name else "dskd export.onnx"
            raise DskdError(f"{self.path}: holds no {name}; make it with {maker}")
        if name in self._unchecked:
            _check_file(self.path, name, self.manifest.files[name])
            self._unchecked.remove(name)
        return self.path / name

    def graph_file(self, graph: str) -> Path:
        """The ONNX file behind a key of the manifest's ``graphs``."""
        return self.file(graph.partition("@")[0])

    def golden(self, graph: str = FLOAT) -> Golden:
        """Golden frames and the answers of ``graph``; the float graph's are the trained model's."""
        frames = [self.file(f"golden/frame_{k}.png") for k in range(self.manifest.golden)]
        spec = self.manifest.input
        own = graph == FLOAT or golden_file(graph, "scores") in self.manifest.files
        scores, maps = (golden_file(graph if own else FLOAT, kind) for kind in ("scores", "maps"))
        side = (len(frames), spec.height, spec.width)
        return Golden(
            frames,
            _read_array(self.file("golden/inputs.npy"), (*side, 3)),
            _read_array(self.file(scores), side[:1]),
            _read_array(self.file(maps), side),
            own,
        )

    def probes(self, graph: str = FLOAT) -> Probes | None:
        """The probes and the answers of ``graph``; None where the bundle holds none of it."""
        maps = golden_file(graph, "probe_maps")
        if not {PROBES, maps}.issubset(self.manifest.files):
            return None
        height, width = self.manifest.input.height, self.manifest.input.width
        kept = (-(-height // PROBE_STEP), -(-width // PROBE_STEP))
        return Probes(
            _read_array(self.file(PROBES), (PROBE_COUNT, height, width, 3)),
            _read_array(self.file(maps), (PROBE_COUNT, *kept)),
        )

    def held_out_scores(self, graph: str) -> list[float]:
        """What ``graph`` gave the good images behind its thresholds; none in a bundle that was made before they were kept.

        Raises DskdError where the file holds something else or was exchanged.
        """
        if HELD_OUT not in self.manifest.files:
            return []
        _check_file(self.path, HELD_OUT, self.manifest.files[HELD_OUT])  # asked for late: the folder may be another one
        try:
            found = _SCORES.validate_json(read_regular(self.path / HELD_OUT, LARGEST_HELD_OUT))
        except (OSError, ValidationError) as error:
            raise DskdError(f"{self.path / HELD_OUT}: holds no scores by graph; export the bundle again") from error
        return found.get(graph, [])


def _read_array(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Numbers of that shape. Mapped first: a header that claims more than the file holds gets no memory."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(mapped, np.ndarray) and mapped.shape == shape and mapped.dtype.kind in "fiu":
            return np.array(mapped)
    except (OSError, ValueError, EOFError, OverflowError, TypeError, RecursionError, MemoryError) as error:
        raise DskdError(f"{path}: cannot be read ({error}); export the bundle again") from error
    raise DskdError(f"{path}: does not fit the manifest; export the bundle again")


def short_name(graph: str) -> str:
    """``int8.cpu`` for ``model.int8.cpu.onnx``, ``bf16`` for ``model.onnx@bf16``."""
    return graph.partition("@")[2] or graph.removeprefix("model.").removesuffix(".onnx")


def golden_file(graph: str, kind: str) -> str:
    """The bundle's file of one graph's ``scores`` or ``maps`` of golden frames, or ``probe_maps``."""
    return f"golden/{kind}.npy" if graph == FLOAT else f"golden/{short_name(graph)}.{kind}.npy"


def default_bundle() -> Path:
    """``$DSKD_BUNDLE``, else ``runs/latest/bundle``."""
    return Path(os.environ.get("DSKD_BUNDLE") or "runs/latest/bundle")


def is_bundle(path: Path) -> bool:
    """Whether ``path`` looks like a bundle, whole or damaged: a folder whose manifest starts with a seal."""
    try:
        return read_regular(path / MANIFEST, LARGEST_YAML).startswith(_SEAL.encode())
    except OSError:
        return False


def file_sha256(path: Path) -> str:
    """Hex sha256 of a regular file. Raises OSError where it is none or cannot be read."""
    digest = hashlib.sha256()
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as handle:
        if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_bundle(path: str | os.PathLike[str], later: bool = False) -> Bundle:
    """Reads a manifest and checks every file. Raises DskdError that names the first wrong file.

    ``later`` leaves the graphs and their golden answers, which are large, until they are asked for: most are not used.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    present = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_symlink() or not file.is_dir()}
    foreign = {name for name in present - set(manifest.files) - {MANIFEST} if not name.startswith(IGNORED)}
    if foreign:
        raise DskdError(f"{path / min(foreign)}: is not in the manifest; remove it or export the bundle again")
    graphs = {name for name in manifest.files if name.endswith(".onnx")}
    graphs |= {golden_file(graph, kind) for graph in manifest.graphs if graph != FLOAT for kind in ANSWERS}
    unchecked = graphs.intersection(manifest.files) if later else set()
    for name, expected in sorted(manifest.files.items()):
        if name not in unchecked:
            _check_file(path, name, expected)
    return Bundle(path, manifest, unchecked)


def _check_file(path: Path, name: str, expected: str) -> None:
    file = path / name
    try:
        if file.is_symlink() or not file.resolve().is_relative_to(path.resolve()):
            raise DskdError(f"{file}: leads out of the bundle; copy the bundle again")
        found = file_sha256(file)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DskdError(f"{file}: cannot be read ({reason}); copy the bundle again") from error
    if found != expected:
        raise DskdError(f"{file}: sha256 is {found[:12]}, the manifest says {expected[:12]}; copy the bundle again")


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not os.path.isdir(path):
        raise CallError(f"{path}: no bundle there; train and export one (dskd train, dskd export.onnx)")
    try:
        raw = read_regular(file, LARGEST_YAML)
    except OSError as error:
        raise DskdError(f"{file}: cannot be read ({error.strerror}); copy or export the bundle again") from error
    first, _, body = raw.partition(b"\n")
    seal = hashlib.sha256(body).hexdigest()
    if first != f"{_SEAL}{seal}".encode():
        raise DskdError(f"{file}: does not match its seal, so it was changed or damaged; copy the bundle again")
    try:
        fields = parse_yaml(body.decode())
        if isinstance(fields, dict) and fields.get("schema_version") != SCHEMA:
            raise DskdError(
                f"{file}: schema_version {fields.get('schema_version')!r} is not {SCHEMA}; export it with this version"
            )
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise DskdError(f"{file}: {first_fault(error)}; export the bundle again") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DskdError(f"{file}: is not valid YAML; export the bundle again") from error


def read_regular(file: Path, limit: int) -> bytes:
    """The file's bytes. Raises OSError where it is a pipe or device, or holds more than ``limit``."""
    with open(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as handle:
        status = os.fstat(handle.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise OSError(errno.EINVAL, "is not a regular file of a sensible size", str(file))
        return handle.read()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes ``manifest.yaml`` with its seal, whole or not at all."""
    fields = manifest.model_dump(mode="json", by_alias=True)
    body = dump_yaml(fields, allow_unicode=True, width=120).encode()
    seal = hashlib.sha256(body).hexdigest()
    atomic.clear_leftovers(path, MANIFEST)
    atomic.write_bytes(path / MANIFEST, f"{_SEAL}{seal}\n".encode() + body)


def hash_files(path: Path) -> dict[str, str]:
    """sha256 of every file below ``path`` but the manifest and engines, by relative name."""
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    return {name: file_sha256(path / name) for name in names if name != MANIFEST and not name.startswith(IGNORED)}
