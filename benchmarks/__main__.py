"""``python -m benchmarks NAME``: what is measured."""

from __future__ import annotations

import signal
import sys

from dskd.runtime.errors import CallError, exit_with_code
from dskd.runtime.imports import LABORATORY, import_command

NAMES = {
    "all": "latency, throughput, memory, coldstart, parity and energy in one file",
    "latency": "frame to verdict, stage by stage, beside the network and the floor",
    "throughput": "images a second by batch and by number of cameras",
    "memory": "what a running inspection holds, and whether it grows",
    "tiles": "what a large frame costs in tiles, and whether that grows as their number does",
    "coldstart": "from the start of a process to its first verdict",
    "parity": "how far each graph on each backend is from the trained model",
    "energy": "joules for an inspection, from a Jetson's power rails",
    "evaluate": "a bundle on labelled pictures of one's own",
    "compare": "two results: faster, slower or not distinguishable",
    "hardware": "the first day on a GPU or a Jetson, in twelve minutes",
    "demo": "the whole path on a generated set",
}
# Not installed: what proves the product, by the folder of the laboratory that it stands in.
LAB = {
    "faults": ("station", "what a station does when a part of it fails"),
    "chaos": ("chaos", "faults at random, several at once, against a whole line; health and every part accounted for"),
    "kills": ("station", "SIGKILL again and again: every acknowledged trigger is answered or listed"),
    "scaling": ("station", "cameras per Orin module, and what a line, a plant and a fleet fill up first"),
    "soak": ("station", "a station under full load for a long time"),
    "triggers": ("station", "a PLC that triggers at a steady rate, and every part's answer"),
    "few_pictures": ("models", "image AUROC and false rejects by the number of good pictures, without training"),
    "readings": ("models", "other scores and maps from the same trained model"),
    "ablation": ("models", "what each part of the recipe is worth"),
    "accuracy": ("models", "every method on one set, as it is exported"),
    "references": ("documents", "docs/settings.md, line-yaml.md and fleet-yaml.md from the code"),
    "report": ("documents", "docs/performance.md from results"),
    "deployed": ("peers", "image AUROC of what runs on the line, ours and anomalib's"),
    "peers": ("peers", "the same frames through anomalib, or through trtexec on a device"),
}

EXAMPLES = """examples:
  dskd benchmarks latency --bundle runs/latest/bundle
  dskd benchmarks all --out all.json
  dskd benchmarks compare before.json after.json"""


def main(arguments: list[str]) -> int:
    """Hands over to the benchmark that the first argument names."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print("usage: python -m benchmarks NAME [options]   (NAME --help tells more)\n")
        print("\n".join(f"  {known:12} {text}" for known, text in NAMES.items()))
        print(f"\n{EXAMPLES}")
        print("\nin a checkout:\n")
        print("\n".join(f"  {known:12} {text}" for known, (_, text) in LAB.items()))
        return 0
    if name not in NAMES and name not in LAB:
        raise CallError(f"no benchmark {name!r}; one of: {', '.join([*NAMES, *LAB])}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # cleared up behind, as after Ctrl-C
    module = f"{LABORATORY}.{LAB[name][0]}.{name}" if name in LAB else f"dskd.benchmarks.{name}"
    code: int = import_command(module, f"benchmarks {name}").main(arguments[1:])
    return code


if __name__ == "__main__":
    exit_with_code(main)
