"""``python -m jetson doctor``: healthy devices are told so, and each planted fault is named with its mend."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command
from jetson_trees import BOARDS, command, jetson, put
from libcuda_stub import build_stub
from tiny_bundle import tiny_bundle

from dskd.jetson.doctor import software
from dskd.jetson.doctor.base import Context, Finding, User
from dskd.jetson.doctor.command import CHECKS, examine
from dskd.jetson.doctor.probe import Library, cuda_refusal
from dskd.jetson.machine import Machine
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import MissingPart
from dskd.runtime.inspection.engine import BuiltOn, EngineFacts, engine_paths, write_facts

HEALTHY = {
    "numpy": Library("1.26.4", "/usr/lib/python3/dist-packages/numpy/__init__.py"),
    "cv2": Library("4.8.0", "/usr/lib/python3/dist-packages/cv2/__init__.py", gstreamer=True),
    "tensorrt": Library("10.3.0", "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py"),
    "onnxruntime": Library("1.23.2", "/opt/dskd/venv/lib/python3.10/site-packages/onnxruntime/__init__.py"),
    "cuda.bindings": Library("12.9.4", "/opt/dskd/venv/lib/python3.10/site-packages/cuda/bindings/__init__.py"),
    "pycuda": Library(error="No module named 'pycuda'", missing=True),
}
NOBODY = User("dskd", 4711, frozenset((4711,)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def context(tmp_path: Path, tiny: Bundle) -> Context:
    """An Orin Nano on JetPack 6.2.1 in good health, whose libraries are as apt and install.sh put them."""
    made = Context(
        machine=jetson(tmp_path / "root", "nano", "jp6"), bundle=tiny.path, data=tmp_path, user=NOBODY, wait=0.0
    )
    (tmp_path / "root/dev/video0").chmod(0o666)
    tmp_path.chmod(0o777)
    made.__dict__["libraries"] = HEALTHY
    put(tmp_path, "venv/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = true\n")
    made.python = str(tmp_path / "venv/bin/python")
    return made


def look(context: Context, name: str) -> Finding:
    return CHECKS[name](context)


def named(finding: Finding, status: str, *words: str) -> None:
    """The fault is told with these words, and something is said to mend it."""
    assert finding.status == status, finding
    for word in words:
        assert word in f"{finding.detail} | {finding.mend}", finding
    assert finding.mend


# ------------------------------------------------------------------------------------------------------- good health


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("generation", ["jp6", "jp7"])
def test_a_healthy_device_has_nothing_to_mend(context: Context, tmp_path: Path, board: str, generation: str) -> None:
    context.machine = jetson(tmp_path / "other", board, generation)
    (tmp_path / "other/dev/video0").chmod(0o666)
    findings = examine(context)
    findings.pop("cuda")  # asks the real driver of this machine
    findings.pop("engine")  # TensorRT without an engine: below
    if board != "nano" and generation == "jp7":
        assert findings.pop("dla").status == "WARN"
    assert {name: f for name, f in findings.items() if f.status != "OK"} == {}


def test_a_plain_machine_is_told_what_it_is_not(tmp_path: Path, tiny: Bundle) -> None:
    findings = examine(Context(machine=Machine(tmp_path, path=""), bundle=tiny.path, data=tmp_path, wait=0.0))
    assert [name for name, f in findings.items() if f.status == "FAIL"] == []
    assert "not a Jetson" in findings["device"].detail


def test_the_command_keeps_its_contract(command: Command, tiny: Bundle) -> None:
    done = command("jetson", "doctor", "--json", "--bundle", tiny.path)
    checks = json.loads(done.stdout)["checks"]
    assert [check["name"] for check in checks] == list(CHECKS)
    assert all(set(check) >= {"name", "status", "detail", "mend"} for check in checks)
    assert {check["status"] for check in checks} <= {"OK", "WARN", "FAIL"}
    assert done.returncode == (1 if any(check["status"] == "FAIL" for check in checks) else 0)
    assert all(check["mend"] for check in checks if check["status"] != "OK")
    assert command("jetson", "doctor", "--user", "nobody-of-that-name").returncode == 2


def test_a_check_that_breaks_is_a_finding(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Context) -> Finding:
        raise RuntimeError("out of tune")

    monkeypatch.setitem(CHECKS, "clock", broken)
    named(examine(context)["clock"], "FAIL", "out of tune")


# ---------------------------------------------------------------------------------------------- ten planted faults


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A real virtual environment with these requirements; gives its Python."""

    def make(*requirements: str) -> str:
        folder = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(pip, check=True)
        return str(folder / "bin/python")

    return make


@pytest.mark.thorough
@pytest.mark.slow
def test_1_and_3_pip_opencv_shadows_apts_and_has_no_gstreamer(
    context: Context, environment: Callable[..., str]
) -> None:
    """pip's real OpenCV in a real environment, where the device has one from apt."""
    put(context.machine.root, "/usr/lib/python3/dist-packages/cv2.cpython-310-aarch64-linux-gnu.so", "")
    context.python = environment("numpy<2", "opencv-python-headless<5")
    del context.__dict__["libraries"]
    named(look(context, "opencv"), "FAIL", "hides the system's", "pip uninstall opencv-python")
    named(look(context, "gstreamer"), "FAIL", "has no GStreamer", "apt install python3-opencv")


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="no OpenCV built for NumPy 1 for this Python")
def test_2_numpy_2_under_an_opencv_that_was_built_for_numpy_1(
    context: Context, environment: Callable[..., str]
) -> None:
    """The ABI breaks for real: an OpenCV of that time, as JetPack's, with today's NumPy."""
    context.python = environment("numpy>=2", "opencv-python-headless==4.9.0.80", "--no-deps")
    del context.__dict__["libraries"]
    named(look(context, "numpy"), "FAIL", "built for NumPy 1", "numpy<2")
    named(look(context, "opencv"), "FAIL", "does not import", "numpy<2")


def test_4_wrong_power_mode(context: Context) -> None:
    context.machine = jetson(context.machine.root, "nano", "jp6", mode="15W")
    named(look(context, "power mode"), "WARN", "15W", "power --mode MAXN_SUPER --apply")
    context.power_mode = "15W"
    assert look(context, "power mode").status == "OK"
    context.power_mode = "40W"
    named(look(context, "power mode"), "FAIL", "no power mode 40W")


def test_5_throttling(context: Context) -> None:
    counter = context.machine.file("/sys/class/hwmon/hwmon2/oc1_event_cnt")
    counter.write_text("3")
    named(look(context, "throttling"), "WARN", "under-voltage 3", "supply")
    context.__dict__.pop("reading")
    assert context.reading.throttle["oc1"] == 3
    counter.write_text("5")
    named(look(context, "throttling"), "FAIL", "right now", "supply")


def test_5_heat(context: Context) -> None:
    put(context.machine.root, "/sys/class/thermal/thermal_zone4/temp", 91000)
    named(look(context, "temperatures"), "WARN", "tj with 91.0", "fan")
    context.__dict__.pop("reading")
    put(context.machine.root, "/sys/class/thermal/thermal_zone4/temp", 98500)
    named(look(context, "temperatures"), "FAIL", "tj with 98.5", "fan")


def test_6_full_disk(tmp_path: Path) -> None:
    """A real file system that is full, mounted in a name space of its own."""
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"', "sh"]
    program = (
        "from dskd.jetson.doctor.base import Context; from dskd.jetson.doctor.storage import disk; from pathlib import Path; "
        f"print(disk(Context(data=Path({str(tmp_path)!r}))))"
    )
    if shutil.which("unshare") is None or subprocess.run([*mount, tmp_path, "true"], check=False).returncode:
        pytest.skip("no user name spaces here to mount a small disk in")
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [*mount, tmp_path, sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert "FAIL" in done.stdout
    assert "the disk is full: 0.0 GB free" in done.stdout
    assert "max_age_days" in done.stdout


def test_7_stale_engine(context: Context, tiny: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny.path, tmp_path / "bundle")
    context.bundle = tmp_path / "bundle"
    plan, facts = engine_paths(context.loaded_bundle, "fp32")
    plan.parent.mkdir()
    plan.write_bytes(b"plan")
    good = EngineFacts(
        precision="fp32", graph="model.onnx", graph_sha256=tiny.manifest.files["model.onnx"], bundle=tiny.id,
        tensorrt="10.3.0", gpu="Orin", compute_capability="8.7", batch=(1, 1, 4), dla_core=None, build_seconds=1.0,
        plan_sha256=hashlib.sha256(b"plan").hexdigest(), score_difference=0, map_difference=0, created="2026-11-21",
    )  # fmt: skip
    write_facts(facts, good)
    if "no NVIDIA GPU" in look(context, "cuda").detail or "driver" in look(context, "cuda").detail:
        assert look(context, "engine").status == "OK"
        write_facts(facts, good.model_copy(update={"built_on": BuiltOn(power_mode="15W")}))
        named(look(context, "engine"), "WARN", "built in power mode 15W, now is MAXN_SUPER", "export.trt --fp32")
    write_facts(facts, good.model_copy(update={"tensorrt": "8.6.2"}))
    named(look(context, "engine"), "FAIL", "stale", "TensorRT 8.6.2, here is 10.3.0", "export.trt --fp32")
    write_facts(facts, good.model_copy(update={"graph_sha256": "0" * 64}))
    named(look(context, "engine"), "FAIL", "stale", "export.trt --fp32")
    facts.unlink()
    named(look(context, "engine"), "FAIL", "stale", "no engine facts")


def test_8_missing_permissions(context: Context) -> None:
    os.chmod(context.machine.file("/dev/video0"), 0o660)
    named(look(context, "permissions"), "FAIL", "dskd may not use /dev/video0", "usermod -aG video dskd")
    os.chmod(context.machine.file("/dev/video0"), 0o666)
    context.data.chmod(0o755)
    named(look(context, "permissions"), "FAIL", "may not write", "chown dskd")


def test_8_a_gpu_that_the_services_user_cannot_use(context: Context) -> None:
    """CUDA itself is asked: on some releases /dev/nvmap is 0440 and all is well."""
    nodes = [put(context.machine.root, name, "") for name in ("/dev/nvmap", "/dev/dri/renderD128")]
    for node in nodes:
        node.chmod(0o600)
    context.__dict__["cuda_refusal"] = ""
    assert look(context, "permissions").status == "OK"
    context.__dict__["cuda_refusal"] = "cuInit gives 801 CUDA_ERROR_NOT_SUPPORTED"
    named(look(context, "permissions"), "FAIL", "dskd cannot use the GPU (cuInit gives 801", "/dev/dri/renderD128",
          "usermod -aG render,video dskd")  # fmt: skip
    for node in nodes:
        node.chmod(0o666)
    for name in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"):  # JetPack 7
        put(context.machine.root, name, "").chmod(0o600)
    named(look(context, "permissions"), "FAIL", "closed to it: /dev/nvidia0, /dev/nvidiactl, /dev/nvidia-uvm",
          "usermod -aG video dskd")  # fmt: skip


def test_cuda_is_asked_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_stub(tmp_path)))
    assert cuda_refusal(sys.executable, None) == ""
    monkeypatch.setenv("STUB_FAIL", "cuInit=100")
    assert cuda_refusal(sys.executable, None) == "cuInit gives 100 CUDA_ERROR_NO_DEVICE"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "runuser" in cuda_refusal(sys.executable, "dskd")


def test_firmware_that_jetpack_7_2_left_out(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise MissingPart("the NVIDIA driver finds no GPU; use another backend")

    monkeypatch.setattr(software, "find_device", absent)
    named(look(context, "cuda"), "FAIL", "finds no GPU", "nvidia-jetpack")
    context.machine = jetson(context.machine.root, "nano", "jp7")
    context.__dict__.pop("platform")
    named(look(context, "cuda"), "FAIL", "/etc/firmware is missing", "cp -r /lib/firmware")
    put(context.machine.root, "/etc/firmware/x", "")
    named(look(context, "cuda"), "FAIL", "finds no GPU", "nvidia-jetpack")


@pytest.mark.parametrize("generation", ["jp6", "jp7"])
@pytest.mark.parametrize("text", ["outputs:\n  gate:\n    kind: gpio\n", 'outputs: {gate: {kind: "gpio", line: 7}}\n'])
def test_a_line_that_the_pinmux_may_not_give(context: Context, text: str, generation: str) -> None:
    context.machine = jetson(context.machine.root, "nano", generation)
    assert look(context, "gpio").status == "OK"
    put(context.machine.root, "/etc/dskd/station.yaml", text)
    named(look(context, "gpio"), "FAIL", "no /dev/gpiochip*", "gpiodetect")
    put(context.machine.root, "/dev/gpiochip0", "")
    named(look(context, "gpio"), "WARN", "nothing moves", "jetson-io.py", "test-output")


def test_a_csi_camera_whose_daemon_may_stand_still(context: Context) -> None:
    put(context.machine.root, "/tmp/argus_socket", "")
    named(look(context, "cameras"), "WARN", "36.4.4", "restart nvargus-daemon")
    put(context.machine.root, "/etc/nv_tegra_release", "# R36 (release), REVISION: 5.0, GCID: 1")
    context.__dict__.pop("platform")
    assert look(context, "cameras").status == "OK"


def test_9_no_camera(context: Context) -> None:
    context.machine.file("/dev/video0").unlink()
    named(look(context, "cameras"), "WARN", "no camera", "dmesg")


def test_10_clock_not_set(context: Context) -> None:
    context.now = 3600.0
    named(look(context, "clock"), "FAIL", "1970-01-01", "set-ntp true")
    context.now = time.time()
    command(context.machine.root / "bin", "timedatectl", "echo no")
    named(look(context, "clock"), "WARN", "no time server", "set-ntp true")
    command(context.machine.root / "bin", "timedatectl", "echo yes")
    assert look(context, "clock").status == "OK"


# ------------------------------------------------------------------------------------------------------ further faults


def test_an_environment_that_does_not_see_the_system(context: Context) -> None:
    folder = Path(context.python).parent.parent
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    named(look(context, "python"), "FAIL", "does not see the system's packages", "--system-site-packages")
    (folder / "pyvenv.cfg").write_text("home = /home/me/conda/bin\ninclude-system-site-packages = true\n")
    named(look(context, "python"), "FAIL", "/home/me/conda/bin", "/usr/bin/python3 -m venv")


def test_jetpack_5_and_an_unknown_l4t(context: Context) -> None:
    context.machine = jetson(context.machine.root, "agx", "jp5")
    named(look(context, "l4t"), "FAIL", "35.4.1", "flash JetPack 6.2 or 7.2")
    put(context.machine.root, "/etc/nv_tegra_release", "# R39 (release), REVISION: 5.0, ")
    context.__dict__.pop("platform")
    named(look(context, "l4t"), "WARN", "39.5.0", "nearest is JetPack 7.2.1")


def test_tensorrt_that_is_missing(context: Context) -> None:
    missing = {**HEALTHY, "tensorrt": Library(error="No module named 'tensorrt'", missing=True)}
    context.__dict__["libraries"] = missing
    named(look(context, "tensorrt"), "FAIL", "No module named", "python3-libnvinfer")
    assert look(context, "engine").status == "OK"
    context.__dict__["libraries"] = HEALTHY
    named(look(context, "engine"), "WARN", "no engine", "export.trt")


def test_a_damaged_bundle_and_one_that_disagrees(context: Context, tmp_path: Path) -> None:
    made = tiny_bundle(tmp_path / "damaged")
    (made.path / "model.onnx").write_bytes(b"other")
    context.bundle = made.path
    named(look(context, "bundle"), "FAIL", "sha256", "copy the bundle again")
    context.bundle = tiny_bundle(tmp_path / "wrong", golden_error=1.0).path
    context.__dict__.pop("loaded_bundle", None)
    named(look(context, "bundle"), "FAIL", "not exact enough", "export the bundle again")


def test_little_memory_and_free_clocks(context: Context) -> None:
    put(context.machine.root, "/proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 300000 kB\n")
    named(look(context, "memory"), "FAIL", "0.3 GB", "swap")
    put(context.machine.root, "/sys/class/devfreq/17000000.gpu/min_freq", 306000000)
    named(look(context, "clocks"), "WARN", "free", "--clocks lock")
