"""``python -m benchmarks NAME …``: the same as ``python -m benchmarks.NAME …``."""

from __future__ import annotations

import runpy
import sys

from runtime.errors import CallError, exit_with_code

BENCHMARKS = {
    "accuracy": "every method on one set, as it is exported",
    "ablation": "what each part of DSKD is worth",
    "demo": "the whole path on a small generated set",
}


def main(arguments: list[str]) -> int:
    """Hands over to the module that the first argument names; returns its exit code."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python -m benchmarks NAME [options]   (NAME --help tells more)\n")
        print("\n".join(f"  {known:10} {text}" for known, text in BENCHMARKS.items()))
        return 0
    if name not in BENCHMARKS:
        raise CallError(f"no benchmark {name!r}; one of: {', '.join(BENCHMARKS)}")
    sys.argv = [f"python -m benchmarks.{name}", *rest]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    exit_with_code(main)
