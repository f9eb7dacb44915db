"""A bare Debian below a folder, run in name spaces of its own: aarch64 under emulation, amd64 natively.

Packages come from Debian's mirror by a private apt; the host is not changed, and needs no more than qemu-user-static.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

QEMU = "/usr/bin/qemu-aarch64-static"
# what stands on a Jetson out of the box, as far as an installation needs it; no pip, no ensurepip
NAMES = """libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libcrypt1
libuuid1 libnsl2 libtirpc3 libreadline8 libtinfo6 libncursesw6 libdb5.3 libgssapi-krb5-2 libkrb5-3 libkrb5support0
libk5crypto3 libcom-err2 libkeyutils1 media-types python3.11 python3.11-minimal libpython3.11-minimal
libpython3.11-stdlib base-files base-passwd bash dash coreutils sed grep findutils diffutils debianutils passwd libpam0g
libaudit1 libcap-ng0 libselinux1 libpcre2-8-0 libacl1 libattr1 libsemanage2 libsepol2 libgmp10 login"""
PACKAGES = NAMES.split()
REGISTER = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:" + QEMU + ":OCF"
)
# No SVE, as an Orin's Cortex-A78AE: qemu's own choice has it, and onnxruntime takes ten times as long with it emulated.
CPU = "cortex-a76"
ENTER = f"""
read -r mapped
if [ -e {QEMU} ] && mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; then
    printf '%s' '{REGISTER}' > /proc/sys/fs/binfmt_misc/register
fi
mount --rbind /proc "$1/proc" && mount --rbind /dev "$1/dev"
root=$1; shift
exec chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LC_ALL=C QEMU_CPU={CPU} "$@"
"""
_MERGED = ("bin", "sbin", "lib")


def make_root(folder: Path, architecture: str = "arm64") -> Path:
    """Downloads and unpacks; skips the test where qemu, apt or the mirror are missing."""
    if architecture == "arm64" and not Path(QEMU).exists():
        pytest.skip("qemu-user-static is not installed: nothing ran on aarch64")
    root = folder / "root"
    debs = fetch(folder / "apt", architecture, lambda apt: PACKAGES)
    root.mkdir()
    for package in debs:
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    _merge(root)
    _fill(root)
    return root


Apt = Callable[..., str]


def fetch(folder: Path, architecture: str, wanted: Callable[[Apt], list[str]]) -> list[Path]:
    """Downloads Debian's packages for ``architecture``; ``wanted`` may ask apt-cache first. Skips the test without apt."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt here to fetch Debian's packages")
    for name in ("state/lists/partial", "cache/archives/partial", "debs"):
        (folder / name).mkdir(parents=True)
    (folder / "state/status").touch()
    (folder / "sources.list").write_text(
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {_mirror()} bookworm main\n"
    )
    options = {
        "APT::Architecture": architecture, "APT::Architectures": architecture, "Dir::State": folder / "state",
        "Dir::State::status": folder / "state/status", "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-", "APT::Sandbox::User": "root",
    }  # fmt: skip
    settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]

    def apt(tool: str, *words: str) -> str:
        done = subprocess.run(
            [tool, "-qq", *settings, *words], cwd=folder / "debs", capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"Debian's packages cannot be fetched: {done.stderr.strip()[-200:]}")
        return done.stdout

    apt("apt-get", "update")
    apt("apt-get", "download", *wanted(apt))
    return sorted((folder / "debs").glob("*.deb"))


def _mirror() -> str:
    for source in Path("/etc/apt/sources.list.d").glob("*.sources"):
        for line in source.read_text().splitlines():
            if line.startswith("URIs:"):
                return line.split()[1]
    return "http://deb.debian.org/debian"


def _merge(root: Path) -> None:
    """``/bin`` and its like become links into ``/usr``, as every installed Debian has them."""
    for name in _MERGED:
        old = root / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        if not old.is_symlink():
            old.symlink_to(f"usr/{name}")


def _fill(root: Path) -> None:
    """What packages make when they are configured."""
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
    (root / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
    (root / "etc/gshadow").write_text("root:*::\n")
    for name in ("tmp", "proc", "dev", "root"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")
    (root / "usr/bin/python3").symlink_to("python3.11")
    cpu = root / "sys/devices/system/cpu"
    cpu.mkdir(parents=True)
    for name in (
        "opt",
        "etc/systemd/system",
        "etc/logrotate.d",
        "usr/local/bin",
    ):  # base-files', systemd's, logrotate's
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present"):  # onnxruntime's cpuinfo reads them
        (cpu / name).write_text("0\n")


def run_in(root: Path, *words: object, timeout: float = 3600) -> subprocess.CompletedProcess[str]:
    """Runs a command in the root as its user 0, with every user id of the host where the host lets us."""
    with subprocess.Popen(
        ["unshare", "--user", "--mount", "--kill-child", "sh", "-ec", ENTER, "sh", str(root), *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            _map_users(process.pid)
            out, err = process.communicate("\n", timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(list(words), process.returncode, out, err)


def _map_users(pid: int) -> None:
    own = os.geteuid()
    host = os.readlink("/proc/self/ns/user")
    end = time.monotonic() + 60
    while (
        os.readlink(f"/proc/{pid}/ns/user") == host and time.monotonic() < end
    ):  # until unshare has made the name space
        time.sleep(0.001)
    if own == 0:
        maps = {"uid_map": "0 0 65536", "gid_map": "0 0 65536"}
    else:
        maps = {"uid_map": f"0 {own} 1", "setgroups": "deny", "gid_map": f"0 {os.getegid()} 1"}
    for name, text in maps.items():
        Path(f"/proc/{pid}/{name}").write_text(text)


if __name__ == "__main__":  # python tests/arm_root.py FOLDER COMMAND...: by hand
    made = Path(sys.argv[1]) / "root"
    finished = run_in(made if made.exists() else make_root(Path(sys.argv[1])), *sys.argv[2:])
    print(finished.stdout, finished.stderr)
