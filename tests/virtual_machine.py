"""An emulated PC with a real V4L2 camera: Debian's kernel with its virtual camera driver, this machine's files read-only.

Nothing here needs root rights or KVM. The kernel comes by ``apt-get download``; a few modules and busybox make the
initial RAM disk, and the root file system is this machine's own, shared by 9p, so the same Python runs inside.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

MODULES = ("virtio_pci", "9pnet_virtio", "9p", "vivid")
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc p /proc; $b mount -t sysfs s /sys; $b mount -t devtmpfs d /dev
for m in $($b cat /order); do
    case $m in vivid.ko) $b insmod /mods/$m n_devs=2 node_types=0x1,0x1;; *) $b insmod /mods/$m;; esac
done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /root
for d in proc sys dev; do $b mount --move /$d /root/$d; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,rw,msize=262144 work /root/mnt
$b ip link set lo up
$b timeout 400 $b chroot /root /bin/sh /mnt/job.sh > /root/mnt/out.txt 2>&1
$b echo "exit $?" >> /root/mnt/out.txt
$b sync; $b poweroff -f
"""


def missing() -> str:
    """What is not installed, empty where all is."""
    tools = ("qemu-system-x86_64", "busybox", "modprobe", "depmod", "cpio", "dpkg-deb", "apt-get")
    absent = [tool for tool in tools if not (shutil.which(tool) or Path("/sbin", tool).exists())]
    return f"needs {', '.join(absent)}: apt install qemu-system-x86 busybox-static kmod cpio" if absent else ""


def download_kernel(folder: Path) -> str:
    """Puts Debian's kernel and its modules below ``folder``; returns its version, empty where it cannot be had."""
    depends = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=False)
    package = re.search(r"linux-image-(\S+-amd64)", depends.stdout.partition("Depends")[2])
    if not package:
        return ""
    got = subprocess.run(
        ["apt-get", "download", f"linux-image-{package[1]}"], cwd=folder, capture_output=True, check=False
    )
    if got.returncode:
        return ""
    subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder], check=True)
    subprocess.run(["/sbin/depmod", "-b", folder, package[1]], check=True)
    return package[1]


def make_ram_disk(folder: Path, version: str) -> Path:
    """The modules in the order of their needs, busybox and the script that starts all else."""
    root = folder / "ram"
    for name in ("bin", "mods", "proc", "sys", "dev", "root"):
        (root / name).mkdir(parents=True)
    order: list[str] = []
    for module in MODULES:
        command = ["/sbin/modprobe", "-d", str(folder), "-S", version, "--show-depends", module]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for path in re.findall(r"insmod (\S+)", shown):
            if Path(path).name not in order:
                order.append(Path(path).name)
                shutil.copy(path, root / "mods")
    (root / "order").write_text("\n".join(order))
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin" / "busybox")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    names = "\n".join(p.relative_to(root).as_posix() for p in root.rglob("*")).encode()
    packed = subprocess.run(["cpio", "-o", "-H", "newc"], input=names, cwd=root, capture_output=True, check=True).stdout
    disk = folder / "ram.gz"
    disk.write_bytes(gzip.compress(packed, 1))
    return disk


def run(folder: Path, version: str, job: str) -> str:
    """Boots, runs the shell script ``job`` in this machine's root; returns its output and ``exit CODE``."""
    work = Path(tempfile.mkdtemp(prefix="work-", dir=folder))  # a second attempt finds nothing of the first
    (work / "job.sh").write_text(job)
    shares = []
    for tag, path, option in (("host", "/", ",readonly=on"), ("work", str(work), "")):
        shares += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{option}"]
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1536", "-nodefaults", "-no-reboot"),
        *("-display", "none", "-serial", "stdio", "-nic", "none", "-kernel", str(folder / f"boot/vmlinuz-{version}")),
        *("-initrd", str(make_ram_disk(folder, version)), "-append", "console=ttyS0 quiet panic=-1", *shares),
    ]
    booted = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    out = work / "out.txt"
    return out.read_text() if out.exists() else f"did not boot: {booted.stdout[-2000:]}{booted.stderr[-2000:]}"
