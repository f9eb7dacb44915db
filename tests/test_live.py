"""``python -m runtime`` with a live camera: the newest frames, every one accounted for, and a clean end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Command

from dskd.benchmarks.lab.station.rtsp_camera import RtspCamera
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.capture.sources.gstreamer import has_elements


def listens_to_ctrl_c() -> None:
    """A shell starts its background jobs, the tests among them, deaf to Ctrl-C, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("camera", "asked", "code"),
    [
        ("test://pattern?size=128x128&fps=200", signal.SIGINT, 130),
        ("test://pattern?size=128x128&fps=200", signal.SIGTERM, 143),
        ("rtsp", signal.SIGINT, 130),
    ],
)
def test_a_live_camera_until_it_is_asked_to_stop(
    camera: str, asked: signal.Signals, code: int, bundle: Bundle, tmp_path: Path
) -> None:
    with RtspCamera(fps=60) as served:
        uri = served.uri.replace("rtsp://", "rtsp://user:geheim@") if camera == "rtsp" else camera
        lines, store = tmp_path / "line.jsonl", tmp_path / "line.db"
        command = [
            sys.executable,
            "-m",
            "dskd.runtime",
            "--bundle",
            str(bundle.path),
            "--source",
            uri,
            "--threads",
            "1",
        ]
        command += ["--sink", f"sqlite://{store}", "--sink", f"jsonl://{lines}"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            preexec_fn=listens_to_ctrl_c,
        ) as process:  # fmt: skip
            end = time.monotonic() + 60
            while time.monotonic() < end and not (lines.exists() and len(lines.read_text().splitlines()) > 20):
                time.sleep(0.1)
            process.send_signal(asked)
            out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    counts = dict(zip(*[iter(out.splitlines()[-1].split())] * 2, strict=True))
    assert int(counts["captured"]) == int(counts["inspected"]) + int(counts["dropped"])
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len({line["frame"] for line in told}) == len(told)
    assert "replaced" not in err  # one line a frame would drown what matters
    assert "geheim" not in out + err + lines.read_text()
    assert b"geheim" not in store.read_bytes()


def test_a_camera_that_is_not_there_is_a_missing_part(bundle: Bundle, command: Command) -> None:
    done = command("runtime", "--bundle", bundle.path, "--source", "rtsp://user:geheim@127.0.0.1:9/none")
    assert done.returncode == 3
    assert "rtsp://127.0.0.1:9/none" in done.stderr
    assert "geheim" not in done.stdout + done.stderr


def test_a_camera_that_dies_ends_the_run_with_its_name(bundle: Bundle) -> None:
    with RtspCamera() as served:
        command = [sys.executable, "-m", "dskd.runtime", "--bundle", str(bundle.path), "--source", served.uri]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            served.kill()
            out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert served.uri in err
    assert "captured" in out


@pytest.mark.skipif(not has_elements("videotestsrc"), reason="needs apt install gstreamer1.0-plugins-base")
def test_a_pipeline_that_ends_is_inspected_whole(bundle: Bundle, command: Command) -> None:
    uri = "gst://videotestsrc num-buffers=12 pattern=ball ! video/x-raw,width=128,height=128"
    done = command("runtime", "--bundle", bundle.path, "--source", uri)
    assert done.returncode == 0, done.stderr
    assert "captured 12 inspected 12 dropped 0" in done.stdout


def test_json_lines_need_somewhere_to_go(bundle: Bundle) -> None:
    words = [sys.executable, "-m", "dskd.runtime", "--bundle", str(bundle.path), "--sink", "jsonl://-"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "standard output is closed" in done.stderr


@pytest.mark.parametrize("source", ["test://pattern", "watch:///tmp"])
def test_json_needs_an_end(bundle: Bundle, command: Command, source: str) -> None:
    done = command("runtime", "--bundle", bundle.path, "--source", source, "--json")
    assert done.returncode == 2
