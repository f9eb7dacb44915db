"""``dskd COMMAND``: every command of the product, from any folder; ``python -m dskd COMMAND`` is the same."""

from __future__ import annotations

import importlib.util
import runpy
import sys

from dskd.runtime.errors import CallError, MissingPart, exit_with_code

COMMANDS = {
    "demo": ("dskd.benchmarks.demo", "the whole path on a small generated set"),
    "train": ("dskd.train", "learn what good parts look like"),
    "train.sweep": ("dskd.train.sweep", "a model and a bundle for each of many products"),
    "train.synthetic": ("dskd.train.synthetic", "make a small generated set to try things on"),
    "export.onnx": ("dskd.export.onnx", "prune a trained run and write a bundle"),
    "export.verify": ("dskd.export.verify", "prove that all forms of the model agree"),
    "calibration": ("dskd.calibration", "add INT8 graphs to a bundle and report what they cost"),
    "export.trt": ("dskd.export.trt", "build the TensorRT engine on the device"),
    "export.serving": ("dskd.export.serving", "files for NVIDIA Triton and DeepStream"),
    "pack": ("dskd.jetson.pack", "a bundle as the one file that a device needs"),
    "unpack": ("dskd.jetson.unpack", "that file becomes a bundle folder again, checked"),
    "runtime": ("dskd.runtime", "inspect images, a video or a camera"),
    "evaluate": ("dskd.benchmarks.evaluate", "score a bundle on labelled pictures, with a report"),
    "init": ("dskd.runtime.station.init", "write a station file for what is found here"),
    "station": ("dskd.runtime.station", "run an inspection station from its file"),
    "recalibrate": ("dskd.runtime.station.recalibrate", "thresholds from what a camera scored on the line"),
    "jetson": ("dskd.jetson", "the device: doctor, power, telemetry, updates"),
    "completion": ("dskd.completion", "a script that completes commands and options in bash and zsh"),
    "benchmarks": ("dskd.benchmarks", "measure accuracy, latency, memory and more"),
}
EXAMPLES = """examples, one after another:
  dskd train --data parts/good
  dskd export.onnx
  dskd runtime --source parts/test --sink images://overlays"""
EXTRAS = {  # the first that fits
    "dskd.benchmarks.evaluate": "evaluate",
    "dskd.train": "train", "dskd.export": "export", "dskd.calibration": "export", "dskd.benchmarks": "export", "dskd.jetson": "fleet",
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Hands over to the module that the first argument names."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print("usage: dskd COMMAND [options]   (dskd COMMAND --help tells more; dskd --version)\n")
        print("\n".join(f"  {command:15} {text}" for command, (_, text) in COMMANDS.items()))
        print(f"\n{EXAMPLES}")
        return 0
    if name == "--version":
        from dskd import __version__

        print(f"dskd {__version__}")
        return 0
    if name not in COMMANDS:
        raise CallError(f"no command {name!r}; one of: {', '.join(COMMANDS)}")
    module = COMMANDS[name][0]
    sys.argv = [f"dskd {name}", *arguments[1:]]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        raise missing(module, error) from error
    return 0


def missing(module: str, error: ModuleNotFoundError) -> Exception:
    """What to install where ``module`` found a package absent; ``error`` itself where that is a fault of the code.

    A module of an installed package that cannot be found is no missing extra.
    """
    absent = (error.name or "").partition(".")[0]
    if not absent or importlib.util.find_spec(absent) is not None:
        return error
    extra = next((extra for room, extra in EXTRAS.items() if module.startswith(room)), "")
    wanted = f"dskd-edge[{extra}]" if extra else "dskd-edge"
    return MissingPart(f"the Python package {absent!r} is not installed; pip install '{wanted}'")


def run() -> None:
    """The installed command ``dskd``."""
    exit_with_code(main)


if __name__ == "__main__":
    run()
