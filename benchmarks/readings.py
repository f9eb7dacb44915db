"""``python -m benchmarks.readings`` is ``python -m benchmarks readings``."""

from __future__ import annotations

import sys

from dskd.benchmarks.__main__ import main
from dskd.runtime.errors import exit_with_code

if __name__ == "__main__":
    sys.argv.insert(1, "readings")
    exit_with_code(main)
