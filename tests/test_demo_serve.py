"""``dskd demo --serve``: an earlier demo's station runs on its pictures and answers on its page."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from broker import wait_for
from conftest import ROOT

from dskd.benchmarks.lab.station.drill import free_port
from dskd.runtime.bundle.loading import Bundle
from dskd.train.synthetic import NAME


def test_a_demo_that_was_made_before_is_served(bundle: Bundle, small_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    shutil.copytree(bundle.path, out / "runs" / NAME / "bundle")
    (out / NAME).mkdir()
    (out / NAME / "test").symlink_to(small_set / "test")
    words = [sys.executable, "-m", "dskd"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pictures = (out / NAME / "test").resolve()
    made = [*words, "init", out / "line.yaml", "--bundle", out / "runs" / NAME / "bundle", "--source"]
    subprocess.run([*made, f"folder://{pictures}?loop=1&fps=20"], env=environment, check=True, capture_output=True)
    address = f"127.0.0.1:{free_port()}"
    text = (out / "line.yaml").read_text()
    assert "127.0.0.1:8080" in text
    (out / "line.yaml").write_text(text.replace("127.0.0.1:8080", address))
    log = (tmp_path / "log").open("wb")
    demo = subprocess.Popen(
        [*words, "demo", "--serve", "--out", out], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:

        def inspected() -> bool:
            try:
                state = httpx.get(f"http://{address}/api/state", timeout=5).json()
            except (httpx.HTTPError, ValueError):
                return False
            return bool(state["cameras"][0]["inspected"] > 2)

        wait_for(inspected, 90)
        os.killpg(demo.pid, signal.SIGINT)  # Ctrl-C, to all of the terminal
        assert demo.wait(60) == 0
    finally:
        demo.kill()
        demo.wait()
        log.close()
    assert address in (tmp_path / "log").read_text()
