"""What install.sh takes and what it refuses before it runs anything of a wheel folder; and the file of secrets it makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from dskd.jetson.signing import load_private, make_key
from dskd.jetson.wheels import HEAD, LIST, write_list

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "openssl", "sha256sum"))), reason="bash, openssl and sha256sum are needed"
)
SCRIPT = (ROOT / "jetson/install.sh").read_text().rpartition('main "$@"')[0]


def make_wheel(folder: Path, name: str, version: str) -> Path:
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "release"
    made.mkdir()
    for name, version in (("dskd_edge", "1.0"), ("numpy_like", "2.0+local.1"), ("pip", "23.0")):
        make_wheel(made, name, version)
    shutil.copy(ROOT / "jetson/install.sh", made)
    return made


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_key(tmp_path / "private", "plant")
    (tmp_path / "keys").mkdir()
    shutil.copy(tmp_path / "private/plant.pub", tmp_path / "keys")
    return tmp_path / "keys"


def signed(folder: Path, keys: Path, name: str = "plant") -> None:
    private = keys.parent / "private" / f"{name}.pem"
    if not private.exists():
        make_key(private.parent, name)
    write_list(folder, load_private(private))


def verify(folder: Path, keys: Path | None, *more: str) -> subprocess.CompletedProcess[str]:
    chosen = f"wheels={folder} keys={keys or folder / 'none'} {' '.join(more)}"
    return subprocess.run(
        ["bash", "-c", f"{SCRIPT}\n{chosen}\nverify_wheels"], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_folder_that_was_signed_is_taken(folder: Path, keys: Path) -> None:
    signed(folder, keys)
    assert (folder / LIST).read_text().startswith(HEAD)
    done = verify(folder, keys)
    assert (done.returncode, done.stderr) == (0, "")
    assert "signed by plant" in done.stdout


def changed_wheel(folder: Path) -> None:
    with next(folder.glob("numpy_like*")).open("ab") as file:
        file.write(b"x")


def another_wheel(folder: Path) -> None:
    make_wheel(folder, "numpy_like", "3.0")


def wheel_that_a_pattern_would_match(folder: Path) -> None:
    wheel = next(folder.glob("pip*"))
    shutil.copy(wheel, folder / wheel.name.replace("23.0", "23x0"))


def missing_wheel(folder: Path) -> None:
    next(folder.glob("numpy_like*")).unlink()


def changed_script(folder: Path) -> None:
    with (folder / "install.sh").open("a") as file:
        file.write("\n")


def list_made_anew(folder: Path) -> None:
    signature = next(folder.glob("*.sig"))
    data = signature.read_bytes()
    another_wheel(folder)
    write_list(folder)
    signature.write_bytes(data)


def without_list(folder: Path) -> None:
    for file in folder.glob(f"{LIST}*"):
        file.unlink()


def signed_by_a_stranger(folder: Path) -> None:
    signed(folder, folder.parent / "keys", "stranger")


def another_kind_of_list(folder: Path) -> None:
    text = (folder / LIST).read_text()
    (folder / LIST).write_text(text.removeprefix(HEAD))


ATTACKS = {
    changed_wheel: "not what wheels.sha256 says",
    another_wheel: "is not in wheels.sha256",
    wheel_that_a_pattern_would_match: "is not in wheels.sha256",
    missing_wheel: "not what wheels.sha256 says",
    changed_script: "not what wheels.sha256 says",
    list_made_anew: "is signed by nobody",
    without_list: "has no wheels.sha256",
    signed_by_a_stranger: "is signed by nobody",
    another_kind_of_list: "is no list of wheels",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_was_altered_is_refused_in_one_line(attack, folder: Path, keys: Path) -> None:  # type: ignore[no-untyped-def]
    signed(folder, keys)
    attack(folder)
    done = verify(folder, keys)
    assert done.returncode == 1
    assert ATTACKS[attack] in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_keys_or_when_told_so_nobody_vouches_and_it_is_said(folder: Path, keys: Path) -> None:
    write_list(folder)
    for done in (verify(folder, None), verify(folder, keys, "unsigned=yes")):
        assert done.returncode == 0
        assert "nobody vouches for these wheels" in done.stderr
    changed_wheel(folder)
    assert verify(folder, keys, "unsigned=yes").returncode == 1, "the hashes hold all the same"


def test_pip_installs_only_what_was_verified(folder: Path, tmp_path: Path) -> None:
    """With the requirements that install.sh makes of pip's report, from wheels that are exchanged after the check."""
    write_list(folder)
    program = SCRIPT.partition("<<'PYTHON'\n")[2].partition("\nPYTHON\n")[0]
    wheel = next(folder.glob("numpy_like*"))
    (tmp_path / "report.json").write_text(
        '{"install": [{"metadata": {"name": "numpy_like"}, "download_info": {"url": "' + wheel.as_uri() + '"}},'
        ' {"metadata": {"name": "opencv-python"}, "download_info": {"url": "file:///x"}}]}'
    )
    words = [sys.executable, "-I", "-c", program, tmp_path / "report.json", folder / LIST, "keep"]
    made = subprocess.run(words, capture_output=True, text=True, check=True)
    assert len(made.stdout.splitlines()) == 1
    (tmp_path / "requirements.txt").write_text(made.stdout)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--require-hashes"]
    pip += ["--disable-pip-version-check", "--requirement", str(tmp_path / "requirements.txt")]
    done = subprocess.run([*pip, "--target", tmp_path / "good"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "good/numpy_like.py").exists()
    changed_wheel(folder)
    done = subprocess.run([*pip, "--target", tmp_path / "bad"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to root")
def test_secrets_are_for_root_and_the_service_alone(tmp_path: Path) -> None:
    here = SCRIPT.replace("CONFIG=/etc/dskd", f"CONFIG={tmp_path}").replace("SERVICE_USER=dskd", "SERVICE_USER=root")
    file = tmp_path / "environment"
    for before, told in ((None, "made"), (0o640, ""), (0o644, "every user may read its secrets")):
        if before is not None:
            file.chmod(before)
        done = subprocess.run(
            ["bash", "-c", f"{here}\nmake_secrets"], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert told in done.stdout + done.stderr
        if before is None:
            assert file.stat().st_mode & 0o777 == 0o640
