"""What ``dskd runtime`` imports before it inspects: each module costs every start, so parts that few use come later."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LATER = (  # what a folder of pictures, a bundle without a fixture and a CPU do not need
    "dskd.runtime.capture.camera_thread",
    "dskd.runtime.inspection.fixture.find",
    "dskd.runtime.inspection.cuda",
    "dskd.runtime.sinks",
    "dskd.runtime.station",
    "dskd.runtime.store",
    "dskd.runtime.web",
    "openvino",
    "onnxruntime",
    "sqlite3",
    "asyncio",
    "http",
    "ssl",
)
MOST_OF_OURS = 42


@pytest.fixture(scope="module")
def imported() -> set[str]:
    script = "import dskd.runtime.__main__, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("name", LATER)
def test_the_start_does_not_import(imported: set[str], name: str) -> None:
    assert not [one for one in imported if one == name or one.startswith(f"{name}.")]


def test_the_start_imports_few_of_our_modules(imported: set[str]) -> None:
    ours = sorted(one for one in imported if one.startswith("dskd."))
    assert len(ours) <= MOST_OF_OURS, ours
