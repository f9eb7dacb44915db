"""``dskd jetson wheels``: on the desktop, everything that a device needs in one folder, to install without a network."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from dskd.jetson.signing import key_id, load_private
from dskd.jetson.wheel_closure import lacking, requirements_of
from dskd.runtime.bundle.loading import file_sha256
from dskd.runtime.errors import CallError, DskdError, Parser

# JetPack 6 is Ubuntu 22.04 with glibc 2.35, JetPack 7 is 24.04 with 2.39
TARGETS = {"jp6": ("3.10", 35), "jp7": ("3.12", 39)}
OLDEST_GLIBC = 17
ROUNDS = 4  # what one round adds may itself require more
EXTRAS = "line,fleet,gpu"
LIST = "wheels.sha256"  # what sha256sum --check reads; its first line says what it is, so no other signature fits it
HEAD = "# dskd-edge wheels 1\n"
EXAMPLES = """examples:
  dskd jetson wheels --for jp6 --out release      then copy release/ to the device: sudo release/install.sh
  dskd jetson wheels --for jp7 --out release --wheel dskd_edge-0.1.0-py3-none-any.whl
  dskd jetson wheels --for jp6 --out release --key keys/plant-7.pem    signed: devices that have keys take no other"""


def platforms(glibc: int, machine: str = "aarch64") -> list[str]:
    """Platform tags that a machine with that glibc (2.N) takes."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, OLDEST_GLIBC - 1, -1)]
    return [*tags, f"manylinux2014_{machine}"]


def pip_words(python: str, glibc: int) -> list[str]:
    """Pip's options to choose for the device instead of for this machine."""
    tags = [word for tag in platforms(glibc) for word in ("--platform", tag)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *tags]


def collect(out: Path, python: str, glibc: int, constraints: str, wheel: Path | None) -> None:
    """Fills ``out`` with our wheel, all it needs, pip itself and ``install.sh``. Raises DskdError."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.whl"):
        old.unlink()
    if wheel is None:
        if not Path("pyproject.toml").is_file():
            raise CallError("there is no pyproject.toml here to build the wheel from; name one with --wheel")
        _pip("wheel", "--no-deps", "--wheel-dir", str(out), ".")
        wheel = next(out.glob("dskd_edge-*.whl"))
    else:
        wheel = Path(shutil.copy(wheel, out))
    wanted = [f"dskd-edge[{EXTRAS}] @ {wheel.resolve().as_uri()}", "pip>=23"]
    with resources.as_file(resources.files("dskd.jetson") / constraints) as limits:
        for _ in range(ROUNDS):
            _pip("download", "--dest", str(out), "--constraint", str(limits), *pip_words(python, glibc), *wanted)
            missing = lacking(requirements_of(out), wanted, python)
            if not missing:
                break
            wanted += missing
        else:
            raise DskdError(f"{out}: still lacks {', '.join(missing)} for Python {python}; report this")
    with resources.as_file(resources.files("dskd.jetson") / "install.sh") as script:
        shutil.copy(script, out / "install.sh")
    (out / "install.sh").chmod(0o755)


def write_list(folder: Path, *keys: Any) -> None:
    """``wheels.sha256``: the sha256 of every wheel and of ``install.sh``; and a signature of it by each of ``keys``."""
    for old in folder.glob(f"{LIST}*"):
        old.unlink()
    files = sorted([*folder.glob("*.whl"), folder / "install.sh"])
    text = HEAD + "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)
    (folder / LIST).write_text(text)
    for key in keys:
        (folder / f"{LIST}.{key_id(key.public_key())}.sig").write_bytes(key.sign(text.encode()))


def _pip(*words: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        # setuptools would put what an older checkout left in build/ into the wheel too
        elsewhere = Path(scratch) / "build.cfg"
        elsewhere.write_text(f"[build]\nbuild_base = {scratch}/build\n")
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", *words[1:]],
            capture_output=True, text=True, check=False, env={**os.environ, "DIST_EXTRA_CONFIG": str(elsewhere)},
        )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise DskdError(f"pip {words[0]} failed: {' '.join(said)[:500]}")


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = Parser(prog="dskd jetson wheels", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    options.add_argument("--for", dest="target", choices=sorted(TARGETS), required=True, help="the device's JetPack")
    options.add_argument("--out", type=Path, required=True, help="folder to fill; wheels in it are replaced")
    options.add_argument("--wheel", type=Path, help="our wheel (default: built from the checkout that you stand in)")
    options.add_argument(
        "--key",
        type=Path,
        action="append",
        default=[],
        help="private key that signs the list of wheels; may be given again",
    )
    chosen = options.parse_args(arguments)
    keys = [load_private(file) for file in chosen.key]
    if chosen.wheel is not None and not chosen.wheel.is_file():
        raise CallError(f"--wheel {chosen.wheel}: no such file")
    python, glibc = TARGETS[chosen.target]
    collect(chosen.out, python, glibc, f"constraints-{chosen.target}.txt", chosen.wheel)
    write_list(chosen.out, *keys)
    files = [*chosen.out.glob("*.whl")]
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{chosen.out}: {len(files)} wheels, {size:.0f} MB, for Python {python} on aarch64")
    print(f"next: copy {chosen.out} to the device, there: sudo {chosen.out.name}/install.sh")
    return 0
