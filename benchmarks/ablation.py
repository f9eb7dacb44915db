"""``python -m benchmarks.ablation`` is ``python -m benchmarks ablation``."""

from __future__ import annotations

import sys

from dskd.benchmarks.__main__ import main
from dskd.runtime.errors import exit_with_code

if __name__ == "__main__":
    sys.argv.insert(1, "ablation")
    exit_with_code(main)
