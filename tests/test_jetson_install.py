"""``install.sh`` on bare roots: natively on amd64 for its logic, under emulation on aarch64 from box to verdict."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from arm_root import ENTER, make_root, run_in
from conftest import ROOT, Command
from jetson_commands import blocks
from tiny_bundle import tiny_bundle

from dskd.jetson.publish import publish
from dskd.jetson.signing import load_private, make_key
from dskd.jetson.wheels import EXTRAS, collect
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.preprocess import preprocess

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

INSTALL = "/release/install.sh"
# backups and locks of useradd and userdel; every installed system has them
NOT_OURS = {"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/.pwd.lock", "etc/subuid", "etc/subgid",
            "etc/subuid-", "etc/subgid-"}  # fmt: skip
MOUNTED = ("proc", "dev", "sys", "tmp", "release", "bundle", "tiny", "pictures", "root", "media")


def snapshot(root: Path, times: bool) -> dict[str, tuple[object, ...]]:
    """Every file and folder with what would tell a change; without times, with the bytes."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        if here == Path():
            folders[:] = [name for name in folders if name not in MOUNTED]
        for name in [*folders, *files]:
            path, key = Path(folder, name), (here / name).as_posix()
            if key in NOT_OURS or (name == "__pycache__" and key.startswith("usr/lib/python3")):
                folders[:] = [other for other in folders if other != name]
                continue  # Debian compiles its Python when it is installed; these roots were only unpacked
            status = path.lstat()
            what: tuple[object, ...] = (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid)
            if times:
                what = (*what, status.st_mtime_ns)
            elif path.is_file() and not path.is_symlink() and status.st_size < 1 << 16:
                what = (*what, path.read_bytes())
            found[key] = what
    return found


def own_wheel(folder: Path) -> Path:
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    settings = folder / "build.cfg"
    settings.write_text(f"[build]\nbuild_base = {folder}/build\n")
    subprocess.run(words, check=True, env={**os.environ, "DIST_EXTRA_CONFIG": str(settings)})
    return next(folder.glob("dskd_edge-*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_wheel(tmp_path_factory.mktemp("wheel"))


# -------------------------------------------------------------------------------------------------- logic, natively


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A bare amd64 root with a wheel folder for its Python 3.11, of the kind that JetPack 6 gets."""
    if os.uname().machine != "x86_64":
        pytest.skip("these roots are amd64")
    root = make_root(tmp_path_factory.mktemp("native"), "amd64")
    release = root / "release"
    release.mkdir()
    shutil.copy(wheel, release)
    words = [
        sys.executable, "-m", "pip", "download", "--quiet", "--dest", release, "--only-binary=:all:", "--python-version", "3.11",
        "--implementation", "cp", "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64",
        "--platform", "manylinux_2_34_x86_64", "--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64",
        "--constraint", ROOT / "jetson/constraints-jp6.txt", f"dskd-edge[{EXTRAS}] @ {wheel.as_uri()}", "pip",
    ]  # fmt: skip
    subprocess.run(words, check=True)
    shutil.copy(ROOT / "jetson/install.sh", release)
    return root


def release_file(root: Path, text: str | None) -> None:
    file = root / "etc/nv_tegra_release"
    file.unlink(missing_ok=True)
    if text:
        file.write_text(text)


def pretend_python(root: Path, version: str | None) -> None:
    """``/usr/bin/python3`` that calls itself another version, as a JetPack's would; it is 3.11 all the same."""
    python = root / "usr/bin/python3"
    python.unlink()
    if version is None:
        python.symlink_to("python3.11")
    else:
        script = f'#!/bin/sh\ncase "$2" in *version_info*) echo {version};; *) exec /usr/bin/python3.11 "$@";; esac\n'
        python.write_text(script)
        python.chmod(0o755)


@pytest.mark.parametrize(
    ("release", "python", "code", "words"),
    [
        ("# R35 (release), REVISION: 4.1,", "3.8", 3, "flash JetPack 6.2 or 7.2"),
        ("# R36 (release), REVISION: 4.4,", "3.11", 3, "no JetPack that this knows"),
        ("nonsense", "3.9", 3, "no JetPack that this knows"),
        (None, "3.9", 3, "3.10 or newer is needed"),
    ],
)
def test_what_it_does_not_know_it_refuses_in_a_sentence(
    native: Path, release: str | None, python: str, code: int, words: str
) -> None:
    before = snapshot(native, times=False)
    release_file(native, release)
    pretend_python(native, python)
    try:
        done = run_in(native, INSTALL)
    finally:
        release_file(native, None)
        pretend_python(native, None)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stderr.count("\n") <= 2
    assert snapshot(native, times=False) == before


def test_wrong_calls_are_told(native: Path) -> None:
    for words, told in {
        ("--nonsense",): "no option --nonsense",
        ("--purge",): "--purge goes with --uninstall",
        ("--wheels", "/nowhere"): "no such folder",
        ("--wheels", "/tmp"): "no dskd_edge-*.whl there",
    }.items():
        done = run_in(native, INSTALL, *words)
        assert done.returncode == 2
        assert told in done.stderr
    assert "--uninstall --purge" in run_in(native, INSTALL, "--help").stdout


def test_install_kill_repeat_and_uninstall_natively(native: Path) -> None:
    """On a Jetson whose L4T nobody knows and whose OpenCV comes from apt (a stand-in here, for NumPy 1)."""
    opencv = native / "usr/lib/python3/dist-packages/cv2"
    opencv.mkdir(parents=True)
    (opencv / "__init__.py").write_text('__version__ = "4.8.0"\n')
    (opencv.parent / "numpy").mkdir()
    (opencv.parent / "numpy/__init__.py").write_text('__version__ = "1.21.5"\n')
    release_file(native, "# R36 (release), REVISION: 9.9, GCID: 1, BOARD: generic\n")
    pretend_python(native, "3.10")
    before = snapshot(native, times=False)
    # cut off in the middle of pip, again and again
    for seconds in (1.0, 3.0, 6.0):
        process = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, "sh",
             native, INSTALL, "--no-service"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not os.path.lexists(native / "opt/dskd/venv"), "a half environment was switched to"
    lacking = next((native / "release").glob("onnxruntime-*.whl"))
    lacking.rename(native / "tmp" / lacking.name)
    done = run_in(native, INSTALL)
    (native / "tmp" / lacking.name).rename(lacking)
    assert done.returncode == 1
    assert "do not go together" in done.stderr
    assert not os.path.lexists(native / "opt/dskd/venv")
    done = run_in(native, INSTALL)
    assert done.returncode == 0, done.stderr
    assert "the system's OpenCV 4.8.0 stays (NumPy 1)" in done.stdout
    packages = next((native / "opt/dskd/venv").resolve().parent.glob("*/lib/python3.11/site-packages"))
    assert not list(packages.glob("opencv*")), "pip's OpenCV hides the system's"
    assert not list(packages.glob("cv2*"))
    assert next(packages.glob("numpy-*.dist-info")).name.startswith("numpy-1.")
    assert "nothing was changed" in run_in(native, INSTALL).stdout
    kept = run_in(native, INSTALL, "--uninstall")
    assert "kept /var/lib/dskd" in kept.stdout
    assert (native / "etc/dskd").is_dir()
    assert not (native / "opt/dskd").exists()
    assert run_in(native, INSTALL).returncode == 0
    assert run_in(native, INSTALL, "--uninstall", "--purge").returncode == 0
    assert snapshot(native, times=False) == before
    pretend_python(native, None)
    release_file(native, None)


# ------------------------------------------------------------------------------------------ from box to verdict, aarch64

PICTURES = 4  # each takes its time under emulation
MAPS = """
import sys, numpy as np
from pathlib import Path
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.bundle.loading import load_bundle
from dskd.runtime.inspection.preprocess import preprocess
frame = np.random.default_rng(0).integers(0, 256, (512, 768, 3), np.uint8)
np.save("/tmp/quarter.npy", preprocess(frame, 128, 192))
bundle = load_bundle(Path("/root/bundle"))
output = open_backend(bundle).infer(bundle.golden().inputs[:2])
np.save("/tmp/scores.npy", output.scores); np.save("/tmp/maps.npy", output.maps())
"""


def at_network_size(source: Path, bundle: Bundle, out: Path) -> Path:
    """The pictures as the network gets them: OpenCV's INTER_AREA rounds some pixels by one grey level otherwise on arm."""
    spec = bundle.manifest.input
    out.mkdir()
    for k, file in enumerate(sorted(source.rglob("*.png"))[:PICTURES]):
        cv2.imwrite(str(out / f"{k:02}.png"), preprocess(read_image(file), spec.height, spec.width, spec.crop))
    return out


def test_from_a_bare_aarch64_root_to_a_verdict_and_back(
    tmp_path: Path, wheel: Path, bundle: Bundle, small_set: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_root(tmp_path)
    home = root / "root"
    collect(home / "release", "3.11", 36, "constraints-jp7.txt", wheel)
    shutil.copytree(bundle.path, home / "bundle")
    pictures = at_network_size(small_set / "test", bundle, home / "pictures")
    private, _ = make_key(home / "keys", "plant-7")
    publish(tiny_bundle(tmp_path / "tiny"), "bracket", 1, 0, root / "media/stick/bracket", load_private(private))
    private.unlink()
    as_user = 'if [ "$1" = -u ]; then u=$2; shift 2; exec chroot --userspec="$u:$u" / "$@"; fi'
    (root / "usr/bin/sudo").write_text(f'#!/bin/sh\n{as_user}\nexec "$@"\n')
    (root / "usr/bin/sudo").chmod(0o755)
    before = snapshot(root, times=False)
    install, serve, update, remove = blocks("device")
    assert [block.split()[1] for block in (install, remove)] == ["release/install.sh"] * 2

    start = time.monotonic()
    done = run_in(root, "bash", "-c", f"cd; set -eu; {install}")
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert f"captured {PICTURES} inspected {PICTURES} dropped 0" in done.stdout

    done = run_in(root, "bash", "-c", f"cd; set -eu; {serve}")
    assert done.returncode == 0, done.stderr
    done = run_in(root, "bash", "-c", f"cd; set -eu; {update}")
    assert done.returncode == 0, done.stderr
    assert "version 1, tiny-" in done.stdout

    shutil.copytree(pictures, root / "tmp/pictures")  # /root is root's
    told = run_in(  # as the service's user, which may write its own data and nothing else
        root, "chroot", "--userspec=dskd:dskd", "/", "/bin/sh", "-c",
        "exec /usr/local/bin/dskd runtime "
        "--bundle /var/lib/dskd/first/bundle --source /tmp/pictures --sink sqlite:///var/lib/dskd/line.db --json",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    on_x86 = command("runtime", "--bundle", bundle.path, "--source", pictures, "--backend", "onnxruntime", "--json")
    pairs = zip(json.loads(told.stdout)["inspections"], json.loads(on_x86.stdout)["inspections"], strict=True)
    assert max(abs(arm["score"] - x86["score"]) for arm, x86 in pairs) <= 1e-5

    (root / "tmp/maps.py").write_text(MAPS)
    assert run_in(root, "/opt/dskd/venv/bin/python", "/tmp/maps.py").returncode == 0
    frame = np.random.default_rng(0).integers(0, 256, (512, 768, 3), np.uint8)
    np.testing.assert_array_equal(np.load(root / "tmp/quarter.npy"), preprocess(frame, 128, 192))  # halves are exact
    here = open_backend(bundle).infer(bundle.golden().inputs[:2])
    score_difference = float(np.abs(np.load(root / "tmp/scores.npy") - here.scores).max())
    map_difference = float(np.abs(np.load(root / "tmp/maps.npy") - here.maps()).max())
    assert score_difference <= 1e-5
    largest = float(here.maps().max())  # float32 has seven digits, and these maps reach far beyond 1
    assert map_difference <= 1e-5 * max(1.0, largest)

    state = snapshot(root, times=True)
    refused = run_in(
        root, "/root/release/install.sh"
    )  # the fleet's key is there by now, and nobody signed these wheels
    assert refused.returncode == 1
    assert "--unsigned" in refused.stderr
    again = run_in(root, "/root/release/install.sh", "--unsigned")
    assert again.returncode == 0, again.stderr
    assert "nothing was changed" in again.stdout
    assert snapshot(root, times=True) == state

    megabytes = sum(f.lstat().st_size for f in (root / "opt/dskd").rglob("*") if f.is_file()) / 1e6
    gone = run_in(root, "bash", "-c", f"cd; set -eu; {remove}")
    assert gone.returncode == 0, gone.stderr
    assert snapshot(root, times=False) == before
    assert megabytes <= 320  # a whole station: line, fleet and GPU memory beside the base, pip and bytecode
    with capsys.disabled():
        print(
            f"\naarch64 under emulation: from the bare root to verdicts in {seconds:.0f} s, "
            f"{megabytes:.0f} MB; against x86-64 score within {score_difference:.1e}, map within {map_difference:.1e} of {largest:.1f}"
        )
