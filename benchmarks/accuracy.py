"""``python -m benchmarks.accuracy`` is ``python -m benchmarks accuracy``."""

from __future__ import annotations

import sys

from dskd.benchmarks.__main__ import main
from dskd.runtime.errors import exit_with_code

if __name__ == "__main__":
    sys.argv.insert(1, "accuracy")
    exit_with_code(main)
