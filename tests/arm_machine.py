"""An emulated aarch64 machine with a GPIO chip and cameras: QEMU's ``virt`` board has a PL061, Debian's kernel drives it,
and its virtual camera driver makes two V4L2 devices.

Nothing here needs root rights or KVM. Kernel, busybox and Python come from Debian's mirror by a private apt.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

from arm_root import Apt, fetch

MODULES = ("virtio_pci", "virtio_mmio", "9pnet_virtio", "9p", "vivid")
SECONDS = 400  # for a job inside
INIT = f"""#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc p /proc; $b mount -t sysfs s /sys; $b mount -t devtmpfs d /dev
for m in $($b cat /order); do
    case $m in vivid.ko) $b insmod /mods/$m n_devs=2 node_types=0x1,0x1;; *) $b insmod /mods/$m;; esac
done
$b mount -t debugfs g /sys/kernel/debug
for share in base work; do
    $b mount -t 9p -o trans=virtio,version=9p2000.L,rw,msize=262144,cache=loose $share /$share
done
for d in proc sys dev; do $b mkdir -p /base/$d; $b mount --move /$d /base/$d; done
$b mkdir -p /base/mnt; $b mount --move /work /base/mnt
$b timeout {SECONDS} $b chroot /base /bin/sh /mnt/job.sh > /base/mnt/out.txt 2>&1
$b echo "exit $?" >> /base/mnt/out.txt
$b sync; $b poweroff -f
"""


def missing() -> str:
    """What is not installed, empty where all is."""
    tools = ("qemu-system-aarch64", "modprobe", "depmod", "cpio", "dpkg-deb")
    absent = [tool for tool in tools if not (shutil.which(tool) or Path("/sbin", tool).exists())]
    return f"needs {', '.join(absent)}: apt install qemu-system-arm kmod cpio" if absent else ""


def fetch_kernel(folder: Path) -> str:
    """Puts Debian's kernel, its modules and busybox below ``folder``; returns the kernel's version."""

    def wanted(apt: Apt) -> list[str]:
        found = re.search(r"linux-image-[0-9]\S*-arm64", apt("apt-cache", "depends", "linux-image-arm64"))
        assert found
        return [found[0], "busybox-static"]

    for package in fetch(folder / "apt", "arm64", wanted):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    (version,) = (path.name for path in (folder / "lib/modules").iterdir())
    subprocess.run(["/sbin/depmod", "-b", folder, version], check=True)
    return version


def make_ram_disk(folder: Path, version: str) -> Path:
    """The modules in the order of their needs, busybox and the script that starts all else."""
    ram = folder / "ram"
    for name in ("bin", "mods", "proc", "sys", "dev", "base", "work"):
        (ram / name).mkdir(parents=True)
    order: list[str] = []
    for module in MODULES:
        command = ["/sbin/modprobe", "-d", str(folder), "-S", version, "--show-depends", module]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for path in re.findall(r"insmod (\S+)", shown):
            if Path(path).name not in order:
                order.append(Path(path).name)
                shutil.copy(path, ram / "mods")
    (ram / "order").write_text("\n".join(order))
    busybox = next(path for path in (folder / "bin/busybox", folder / "usr/bin/busybox") if path.exists())
    shutil.copy(busybox, ram / "bin" / "busybox")
    (ram / "init").write_text(INIT)
    (ram / "init").chmod(0o755)
    names = "\n".join(p.relative_to(ram).as_posix() for p in ram.rglob("*")).encode()
    packed = subprocess.run(["cpio", "-o", "-H", "newc"], input=names, cwd=ram, capture_output=True, check=True).stdout
    disk = folder / "ram.gz"
    disk.write_bytes(gzip.compress(packed, 1))
    return disk


def run(folder: Path, version: str, base: Path, work: Path, timeout: float = 600) -> str:
    """Boots with ``base`` as its root and runs ``work/job.sh``, seen as /mnt; returns its output and ``exit CODE``."""
    shares = []
    for tag, path in (("base", base), ("work", work)):
        shares += ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap"]
        shares += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    command = [
        *("qemu-system-aarch64", "-M", "virt", "-accel", "tcg", "-cpu", "cortex-a57", "-m", "768", "-nodefaults"),
        *("-no-reboot", "-display", "none", "-serial", "stdio", "-nic", "none"),
        *("-kernel", str(folder / f"boot/vmlinuz-{version}"), "-initrd", str(make_ram_disk(folder, version))),
        *("-append", "console=ttyAMA0 quiet panic=-1", *shares),
    ]
    booted = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    out = work / "out.txt"
    return out.read_text() if out.exists() else f"did not boot: {booted.stdout[-2000:]}{booted.stderr[-2000:]}"
