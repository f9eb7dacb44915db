"""``dskd train …`` once installed: the same commands as ``python -m train …``."""

from __future__ import annotations

import runpy
import sys

MODULES = {
    "station": "runtime.station",
    "recalibrate": "runtime.recalibrate",
}  # where the command's name is not the module's
COMMANDS = {
    "train": "learn what good parts look like",
    "train.sweep": "a model and a bundle for each of many products",
    "export.onnx": "prune a trained run and write a bundle",
    "export.verify": "prove that all forms of the model agree",
    "calibration": "add INT8 graphs to a bundle and report what they cost",
    "export.trt": "build the TensorRT engine on the device",
    "runtime": "inspect images, a video or a camera",
    "station": "run an inspection station from its file",
    "recalibrate": "thresholds from what a camera scored on the line",
    "jetson": "the device: doctor, power, telemetry, updates",
}


def main() -> None:
    """Hands over to the module that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: dskd COMMAND [options]   (dskd COMMAND --help tells more)\n")
        print("\n".join(f"  {command:14} {text}" for command, text in COMMANDS.items()))
        raise SystemExit(0)
    if name not in COMMANDS:
        print(f"error: no command {name!r}; one of: {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = [f"dskd {name}", *sys.argv[2:]]
    try:
        runpy.run_module(MODULES.get(name, name), run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        extra = "" if name in ("runtime", "station", "recalibrate", "jetson") else "[export]"
        print(f"error: {error.name} is not installed; pip install 'dskd-edge{extra}'", file=sys.stderr)
        raise SystemExit(3) from error
