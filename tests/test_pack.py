"""A bundle as one file for a device: smaller, whole, signed, and refused where it is anything else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

import dskd
from dskd.jetson import pack, unpack
from dskd.jetson.signing import make_key
from dskd.runtime.bundle.loading import MANIFEST, Bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError


def packed(bundle: Bundle, out: Path, *words: str) -> Path:
    assert pack.main(["--bundle", str(bundle.path), "--out", str(out), *words]) == 0
    return out


def unpacked(file: Path, out: Path, *words: str) -> Bundle:
    assert unpack.main([str(file), "--out", str(out), *words]) == 0
    return load_bundle(out)


def test_a_packed_bundle_is_the_same_and_small_with_one_precision(
    bundle: Bundle, small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = packed(bundle, tmp_path / "whole.dskd")
    assert unpacked(whole, tmp_path / "whole").id == bundle.id
    half = packed(bundle, tmp_path / "half.dskd", "--precision", "fp16")
    assert "with model.fp16.onnx" in capsys.readouterr().out
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    found = unpacked(half, tmp_path / "half")
    assert [path.name for path in found.path.glob("*.onnx")] == ["model.fp16.onnx"]
    picture = next((small_set / "test").rglob("*.png"))
    here = dskd.load(tmp_path / "half")(picture)  # the one precision there is, without being told
    there = dskd.load(bundle.path, backend="onnxruntime", precision="fp16")(picture)
    assert here.score == pytest.approx(there.score, rel=2e-2)
    assert here.threshold == there.threshold


def test_float_alone_has_bf16_with_it_and_packs_to_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    one, other = (packed(bundle, tmp_path / name, "--precision", "fp32") for name in ("a.dskd", "b.dskd"))
    assert one.read_bytes() == other.read_bytes()
    found = unpacked(one, tmp_path / "float")
    assert set(found.manifest.graphs) == {name for name in bundle.manifest.graphs if name.startswith("model.onnx")}
    assert np.array_equal(found.golden().scores, bundle.golden().scores)


def test_a_precision_that_is_not_there_is_named(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="has no graph in int8; make it with dskd calibration"):
        pack.main(["--bundle", str(bundle.path), "--precision", "int8", "--out", str(tmp_path / "x.dskd")])
    assert list(tmp_path.iterdir()) == []


def test_whoever_trusts_somebody_takes_their_packs_alone(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, _ = make_key(tmp_path / "ours", "plant")
    make_key(tmp_path / "others", "stranger")
    signed = packed(bundle, tmp_path / "signed.dskd", "--precision", "fp16", "--key", str(ours))
    unpacked(signed, tmp_path / "a", "--trust", str(tmp_path / "ours"))
    unpacked(signed, tmp_path / "b")
    assert "which nobody checked" in capsys.readouterr().out
    with pytest.raises(DskdError, match="whom nobody here trusts"):
        unpack.main([str(signed), "--out", str(tmp_path / "c"), "--trust", str(tmp_path / "others")])
    plain = packed(bundle, tmp_path / "plain.dskd", "--precision", "fp16")
    with pytest.raises(DskdError, match="it is not signed"):
        unpack.main([str(plain), "--out", str(tmp_path / "c"), "--trust", str(tmp_path / "ours")])
    mixed = tmp_path / "mixed.dskd"  # our signature before another bundle
    with tarfile.open(signed) as old, tarfile.open(packed(bundle, tmp_path / "all.dskd")) as new:
        rewrite(mixed, [*read(old)[:1], *read(new)])
    with pytest.raises(DskdError, match="what was signed is another bundle"):
        unpack.main([str(mixed), "--out", str(tmp_path / "c"), "--trust", str(tmp_path / "ours")])
    assert not (tmp_path / "c").exists()


def read(archive: tarfile.TarFile) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]


def rewrite(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))


def named(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, data


@pytest.mark.parametrize(
    ("added", "words"),
    [
        (named("../evil"), "leads elsewhere"),
        (named("/etc/evil"), "leads elsewhere"),
        (named("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no plain file"),
        (named("hard", b"", type=tarfile.LNKTYPE, linkname=MANIFEST), "no plain file"),
        (named("pipe", b"", type=tarfile.FIFOTYPE), "no plain file"),
        (named(MANIFEST), "twice"),
        (named("stranger.txt"), "not in the manifest"),
        (named("engines/fp16.plan"), "built on the device"),
    ],
)
def test_what_leads_elsewhere_or_was_not_packed_is_refused(
    bundle: Bundle, tmp_path: Path, added: tuple[tarfile.TarInfo, bytes], words: str
) -> None:
    file = packed(bundle, tmp_path / "a.dskd", "--precision", "fp16")
    with tarfile.open(file) as archive:
        members = read(archive)
    rewrite(file, [*members, added])
    with pytest.raises(DskdError, match=words):
        unpack.main([str(file), "--out", str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dskd"]


def test_damage_and_size_are_found(bundle: Bundle, tmp_path: Path) -> None:
    file = packed(bundle, tmp_path / "a.dskd", "--precision", "fp16")
    data = file.read_bytes()
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(DskdError, match="more than"):
        unpack.main([str(file), *out, "--max-mb", "1"])
    for name, changed in {
        "cut": data[: len(data) // 2],
        "flipped": data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        "nothing": b"",
        "noise": os.urandom(4096),
    }.items():
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(DskdError):
            unpack.main([str(tmp_path / name), *out])
    (tmp_path / "out").mkdir()
    with pytest.raises(CallError, match="is there already"):
        unpack.main([str(file), *out])
