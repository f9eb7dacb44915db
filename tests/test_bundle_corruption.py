"""A bundle with any byte changed, any file cut, missing, swapped or added is refused, and the file is named."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from budget import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dskd.runtime.bundle.loading import MANIFEST, Bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError, one_line

NAMES = ["model.onnx", "model.fp16.onnx", "held_out.json", "golden/inputs.npy", "golden/scores.npy", "golden/maps.npy", "golden/probes.npy", "golden/probe_maps.npy", *(f"golden/frame_{k}.png" for k in range(8)),
         *(f"golden/{graph}.{what}.npy" for graph in ("fp16", "bf16") for what in ("scores", "maps", "probe_maps"))]  # fmt: skip
quick = settings(max_examples=cases(150), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def copy(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One private copy; every test leaves it as it found it, which is checked at the end."""
    folder = tmp_path_factory.mktemp("copy") / "bundle"
    shutil.copytree(bundle.path, folder)
    yield folder
    assert load_bundle(folder).id == bundle.id


@contextmanager
def moved_away(file: Path) -> Iterator[Path]:
    """The file's place is free for another content in the block."""
    outside = file.parents[2 if file.parent.name == "golden" else 1] / f"{file.name}.kept"
    os.replace(file, outside)
    try:
        yield outside
    finally:
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
        os.replace(outside, file)


@contextmanager
def changed_byte(file: Path, position: int, mask: int) -> Iterator[None]:
    """One byte of the file differs in the block."""
    with file.open("r+b") as handle:
        handle.seek(position)
        true = handle.read(1)
        handle.seek(position)
        handle.write(bytes([true[0] ^ mask]))
        handle.flush()
        try:
            yield
        finally:
            handle.seek(position)
            handle.write(true)


def assert_refused(folder: Path, name: str, words: str = "") -> None:
    with pytest.raises(DskdError) as refused:
        load_bundle(folder)
    message = str(refused.value)
    assert message.startswith(f"{folder / name}: ")
    assert words in message
    assert one_line(message) == message
    assert refused.value.exit_code == 1


def test_the_names_above_are_all_files_of_a_bundle(bundle: Bundle) -> None:
    assert set(bundle.manifest.files) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0.0, 0.37, 0.9999999])
def test_one_flipped_bit_is_found(copy: Path, name: str, place: float) -> None:
    file = copy / name
    with changed_byte(file, int(place * file.stat().st_size), 1 << 3):
        assert_refused(copy, name, "sha256")


@quick
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_of_the_manifest_is_found(copy: Path, place: float, mask: int) -> None:
    file = copy / MANIFEST
    with changed_byte(file, int(place * file.stat().st_size), mask):
        assert_refused(copy, MANIFEST, "seal")


@pytest.mark.parametrize("name", [*NAMES, MANIFEST])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_cut_file_is_found(copy: Path, name: str, share: float) -> None:
    file = copy / name
    size = file.stat().st_size
    keep = min(int(share * size), size - 1)
    with file.open("r+b") as handle:
        handle.seek(keep)
        tail = handle.read()
    os.truncate(file, keep)
    try:
        assert_refused(copy, name)
    finally:
        with file.open("ab") as handle:
            handle.write(tail)


@pytest.mark.parametrize("name", [*NAMES, MANIFEST])
def test_a_byte_too_many_is_found(copy: Path, name: str) -> None:
    file = copy / name
    size = file.stat().st_size
    with file.open("ab") as handle:
        handle.write(b"\n")
    try:
        assert_refused(copy, name)
    finally:
        os.truncate(file, size)


def nothing(place: Path, true: Path) -> None:
    pass


def directory(place: Path, true: Path) -> None:
    place.mkdir()


def fifo(place: Path, true: Path) -> None:
    os.mkfifo(place)


def empty(place: Path, true: Path) -> None:
    place.touch()


def dangling_link(place: Path, true: Path) -> None:
    place.symlink_to("gone")


def looping_link(place: Path, true: Path) -> None:
    place.symlink_to(place.name)


def link_to_the_true_file_outside(place: Path, true: Path) -> None:
    place.symlink_to(true)


Substitute = Callable[[Path, Path], None]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "put", [nothing, directory, fifo, empty, dangling_link, looping_link, link_to_the_true_file_outside]
)
def test_what_is_not_the_true_file_is_found(copy: Path, name: str, put: Substitute) -> None:
    with moved_away(copy / name) as true:
        put(copy / name, true)
        assert_refused(copy, name)


@pytest.mark.parametrize("put", [nothing, directory, fifo, empty, dangling_link, looping_link])
def test_a_missing_or_false_manifest_is_found(copy: Path, put: Substitute) -> None:
    with moved_away(copy / MANIFEST) as true:
        put(copy / MANIFEST, true)
        assert_refused(copy, MANIFEST)


@pytest.mark.parametrize(("one", "other"), [(NAMES[k], NAMES[(k + 1) % len(NAMES)]) for k in range(len(NAMES))])
def test_two_swapped_files_are_found(copy: Path, one: str, other: str) -> None:
    def swap() -> None:
        aside = copy.parent / "aside"
        os.replace(copy / one, aside)
        os.replace(copy / other, copy / one)
        os.replace(aside, copy / other)

    assert (copy / one).read_bytes() != (copy / other).read_bytes()
    swap()
    try:
        assert_refused(copy, min(one, other), "sha256")
    finally:
        swap()


@pytest.mark.parametrize(
    "name", ["notes.txt", ".hidden", "golden/frame_8.png", "model.int8.onnx", "code.py", "manifest.yml", "new/a", "engines"]
)  # fmt: skip
@pytest.mark.parametrize("put", [empty, fifo, dangling_link])
def test_a_foreign_file_is_found(copy: Path, name: str, put: Substitute) -> None:
    place = copy / name
    place.parent.mkdir(exist_ok=True)
    put(place, place)
    try:
        assert_refused(copy, name, "is not in the manifest")
    finally:
        place.unlink()
        if place.parent.name == "new":
            place.parent.rmdir()


def test_engines_that_the_device_built_are_welcome(copy: Path) -> None:
    (copy / "engines").mkdir()
    (copy / "engines" / "orin.plan").write_bytes(b"plan")
    try:
        assert "engines/orin.plan" not in load_bundle(copy).manifest.files
    finally:
        shutil.rmtree(copy / "engines")


def test_a_folder_that_is_a_link_out_of_the_bundle_is_found(copy: Path) -> None:
    with moved_away(copy / "golden") as true:
        (copy / "golden").symlink_to(true)
        assert_refused(copy, "golden")


def resealed(body: bytes) -> bytes:
    return f"# seal sha256:{hashlib.sha256(body).hexdigest()}\n".encode() + body


def fields_of(folder: Path) -> dict[str, object]:
    fields = yaml.safe_load((folder / MANIFEST).read_text())
    assert isinstance(fields, dict)
    return fields


FALSE_BODIES = {  # what a careless or hostile program could seal
    "nothing": b"",
    "no mapping": b"- 1\n",
    "no yaml": b"a: [1",
    "no text": b"\xff\xfe",
    "deep": b"[" * 20_000,
    "alias": b"a: &a [1]\nb: *a\n",
    "a date that is none": b"schema_version: 1\ncreated: 2020-99-99\n",
    "code": b"!!python/object/apply:os.system ['true']\n",
    "another schema": b"schema_version: 99\n",
    "huge": b"#" * (2 << 20),
}


@pytest.mark.parametrize("case", FALSE_BODIES)
def test_a_sealed_manifest_that_makes_no_sense_is_refused(copy: Path, case: str) -> None:
    with moved_away(copy / MANIFEST):
        (copy / MANIFEST).write_bytes(resealed(FALSE_BODIES[case]))
        assert_refused(copy, MANIFEST)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unknown", 1), ("golden", 0), ("golden", True), ("input", {"height": -1, "width": 96}), ("name", None),
        ("bottleneck_source", "Magic!"), ("graphs", {"model.onnx": {}}), ("tolerance", {}), ("parity", {}), ("schema_version", "1"),
        ("input", {"height": 64, "width": 96, "crop": [-1, 0, 5, 5]}), ("files", {"model.onnx": "short"}),
    ],
)  # fmt: skip
def test_a_sealed_manifest_with_a_false_field_is_refused(copy: Path, key: str, value: object) -> None:
    fields = fields_of(copy) | {key: value}
    with moved_away(copy / MANIFEST):
        (copy / MANIFEST).write_bytes(resealed(yaml.safe_dump(fields).encode()))
        assert_refused(copy, MANIFEST, key)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "golden/../../outside", "a\0b", "", ".", "golden"])
def test_a_sealed_manifest_may_not_name_what_is_no_file_of_the_bundle(copy: Path, name: str) -> None:
    fields = fields_of(copy)
    files = fields["files"]
    assert isinstance(files, dict)
    outside = copy.parent / "outside"
    outside.write_bytes(b"secret")
    fields["files"] = {name: hashlib.sha256(b"secret").hexdigest(), **files}
    with moved_away(copy / MANIFEST):
        (copy / MANIFEST).write_bytes(resealed(yaml.safe_dump(fields).encode()))
        with pytest.raises(DskdError):
            load_bundle(copy)


def test_golden_answers_that_do_not_fit_the_manifest_are_refused(copy: Path) -> None:
    fields = fields_of(copy) | {"golden": 7}
    with moved_away(copy / MANIFEST):
        (copy / MANIFEST).write_bytes(resealed(yaml.safe_dump(fields).encode()))
        loaded = load_bundle(copy)
        with pytest.raises(DskdError, match="golden"):
            loaded.golden()


@pytest.mark.parametrize("name", ["nowhere", "x" * 300, "a\0b"])
def test_no_bundle_there_is_a_wrong_call(tmp_path: Path, name: str) -> None:
    with pytest.raises(CallError, match="no bundle there"):
        load_bundle(tmp_path / name)


def test_a_file_of_another_whole_bundle_is_found(copy: Path) -> None:
    """Both bundles are sound; the mixture is not."""
    with moved_away(copy / "golden/scores.npy") as true:
        data = bytearray(true.read_bytes())
        data[-4:] = b"\0\0\x80?"
        (copy / "golden/scores.npy").write_bytes(data)
        assert_refused(copy, "golden/scores.npy", "sha256")
