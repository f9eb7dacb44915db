"""Checks of Python and its libraries: the right ones, from the right place, fitting each other."""

from __future__ import annotations

import json
from pathlib import Path

from dskd.jetson.doctor.base import Context, Finding, fail, ok, warn
from dskd.jetson.doctor.probe import Library
from dskd.runtime.errors import MissingPart
from dskd.runtime.inspection.cuda.device import find_device

SYSTEM_OPENCV = ("/usr/lib/python3/dist-packages/cv2*", "/usr/lib/python3.*/dist-packages/cv2*")
PIP_OPENCV = "opencv-python opencv-python-headless opencv-contrib-python opencv-contrib-python-headless"
OLDEST_OPENCV = (4, 5)
FEW_NODES = 4  # of /dev/nvhost-*: a GPU that started has more
GPU_MEMORY = ("cuda.bindings", "pycuda")  # either will do
# TensorRT by JetPack generation, as a hint where another one is met
TENSORRT = {"jp6": "10.3 (8.6 on JetPack 6.0)", "jp7": "10.16"}


def python(context: Context) -> Finding:
    """The environment: on a Jetson it must see the system's packages, where TensorRT and OpenCV live."""
    folder = Path(context.python).parent.parent
    settings = context.machine.text(folder / "pyvenv.cfg")
    if settings is None:
        return ok(f"{context.python}, no virtual environment")
    sees = "include-system-site-packages = true" in settings
    if context.platform.is_jetson and not sees:
        return fail(
            f"{folder} does not see the system's packages, so neither its TensorRT nor its OpenCV",
            f"/usr/bin/python3 -m venv --system-site-packages {folder} (install.sh does it)",
        )
    home = next((line.partition("=")[2].strip() for line in settings.splitlines() if line.startswith("home")), "")
    if context.platform.is_jetson and home not in ("/usr/bin", "/bin"):
        return fail(
            f"{folder} was made by the Python in {home}, whose ABI the system's TensorRT need not fit",
            f"/usr/bin/python3 -m venv --system-site-packages {folder}",
        )
    return ok(f"{context.python}{', sees the system' if sees else ''}")


def numpy(context: Context) -> Finding:
    """Whether NumPy and the OpenCV built against it fit each other."""
    found, cv2 = context.libraries["numpy"], context.libraries["cv2"]
    if found.error:
        return fail(f"numpy does not import: {found.error}", f"{context.python} -m pip install --force-reinstall numpy")
    if found.version.startswith("2.") and _is_abi(cv2):
        return fail(
            f"NumPy {found.version} ({found.file}), but the system's OpenCV was built for NumPy 1",
            f"{context.python} -m pip install 'numpy<2' (install.sh's constraint file says so)",
        )
    return ok(f"NumPy {found.version}")


def opencv(context: Context) -> Finding:
    """Which OpenCV is used, and whether a pip one hides the system's."""
    found = context.libraries["cv2"]
    system = [path for pattern in SYSTEM_OPENCV for path in context.machine.glob(pattern)]
    if found.error:
        if _is_abi(found):
            return fail(f"cv2 does not import: {found.error}", f"{context.python} -m pip install 'numpy<2'")
        mend = "sudo apt install python3-opencv (with NVIDIA's apt source: libopencv-python)"
        return fail(f"cv2 does not import: {found.error}", mend)
    shadowed = bool(system) and not any(Path(found.file).is_relative_to(path.parent) for path in system)
    if shadowed:
        return (fail if found.gstreamer is False else warn)(
            f"pip's OpenCV {found.version} ({found.file}) hides the system's {system[0]}",
            f"{context.python} -m pip uninstall {PIP_OPENCV}",
        )
    if tuple(int(part) for part in found.version.split(".")[:2] if part.isdecimal()) < OLDEST_OPENCV:
        return warn(f"OpenCV {found.version} is old", "watch the golden check; it compares the preprocessing")
    return ok(f"OpenCV {found.version}, {found.file}")


def gstreamer(context: Context) -> Finding:
    """Whether OpenCV was built with GStreamer: CSI cameras and hardware decoders come through it."""
    found = context.libraries["cv2"]
    if found.error:
        return fail("cv2 does not import, so it opens no pipeline", "see the check opencv")
    if found.gstreamer:
        return ok("OpenCV was built with GStreamer")
    if not context.platform.is_jetson:
        return ok("OpenCV without GStreamer; V4L2, RTSP through FFmpeg and files work")
    return fail(
        f"OpenCV {found.version} ({found.file}) has no GStreamer: no CSI camera, no hardware decoder",
        f"{context.python} -m pip uninstall {PIP_OPENCV}; sudo apt install python3-opencv",
    )


def tensorrt(context: Context) -> Finding:
    """TensorRT's Python bindings."""
    found = context.libraries["tensorrt"]
    expected = TENSORRT.get(context.platform.generation or "")
    if not found.error:
        missing = [context.libraries[name].error for name in GPU_MEMORY]
        if all(missing):
            return fail(
                f"TensorRT {found.version}, but nothing that gives it GPU memory: {missing[0]}",
                f"{context.python} -m pip install cuda-bindings (install.sh brings the right one)",
            )
        return ok(f"TensorRT {found.version}")
    if not context.platform.is_jetson:
        return ok("no TensorRT; onnxruntime inspects")
    return fail(
        f"TensorRT does not import: {found.error}",
        f"sudo apt install python3-libnvinfer ({expected or 'comes with JetPack'}), and a venv that sees it "
        "(check python)",
    )


def onnxruntime(context: Context) -> Finding:
    """The backend that always works."""
    found = context.libraries["onnxruntime"]
    if found.error:
        return fail(f"onnxruntime does not import: {found.error}", f"{context.python} -m pip install onnxruntime")
    return ok(f"onnxruntime {found.version}")


def cuda(context: Context) -> Finding:
    """GPU and driver, asked of the driver; the toolkit's version from its own file."""
    try:
        gpu = find_device()
    except MissingPart as error:
        if not context.platform.is_jetson:
            return ok("no NVIDIA GPU; onnxruntime inspects on the CPU")
        few = (
            len(context.machine.glob("/dev/nvhost-*")) < FEW_NODES
            and not context.machine.file("/etc/firmware").exists()
        )
        if few and context.platform.generation == "jp7":
            return fail(
                f"{str(error).partition(';')[0]}; the GPU's firmware was not loaded (/etc/firmware is missing)",
                "sudo cp -r /lib/firmware /etc/firmware, then reboot (JetPack 7.2's installer leaves it out)",
            )
        return fail(
            str(error).partition(";")[0], "sudo apt install nvidia-jetpack; in a container add --runtime nvidia"
        )
    try:
        version = json.loads(context.machine.text("/usr/local/cuda/version.json") or "{}")["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        version = "of unknown version"
    return ok(f"{gpu.name}, compute capability {gpu.compute_capability}, CUDA {version}")


def _is_abi(library: Library) -> bool:
    return "_ARRAY_API" in library.error or "multiarray failed" in library.error or "NumPy 1" in library.error
