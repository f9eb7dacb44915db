"""Picture files decoded in a process of its own: what crashes, bloats or stalls a decoder costs that file alone.

``python -m dskd.runtime.capture.decoding_process`` is the process: a path comes as a line of JSON, and a line with what
was found goes back, followed by the pixels.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from dskd.runtime.capture.image_files import BadImage, MemoryShort, read_image
from dskd.runtime.capture.pixel_limit import BYTES_PER_PIXEL, VARIABLE, largest_pixels
from dskd.runtime.errors import one_line
from dskd.runtime.result import Image

DEADLINE = 30.0  # seconds for one picture, with the start of the process; the largest take five
PROGRAM = (sys.executable, "-m", "dskd.runtime.capture.decoding_process")
BESIDE = 512 << 20  # bytes of address space that the process needs beside the picture: libraries, the file itself
_MOST_KILLS = 2  # of one file by the kernel, which may have meant others' memory


class DecodingProcess:
    """Reads files like ``image_files.read_image``, with the same errors. One at a time; any thread may ask."""

    def __init__(self, program: Sequence[str] = PROGRAM, deadline: float = DEADLINE) -> None:
        self._program, self._deadline = list(program), deadline
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed: dict[Path, int] = {}

    def read(self, path: Path) -> Image:
        """uint8 BGR [H, W, 3]. Raises BadImage, also for a file that a decoder does not survive, and MemoryShort."""
        with self._lock:
            process = self._running()
            late = threading.Timer(self._deadline, process.kill)
            late.daemon = True
            late.start()
            try:
                picture = _ask(process, path)
            except (OSError, EOFError, ValueError) as error:
                in_time = late.is_alive()
                raise self._lost(process, path, in_time) from error
            finally:
                late.cancel()
            self._killed.pop(path, None)
            return picture

    def close(self) -> None:
        """Ends the process; the next ``read`` starts another."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            environment = {**os.environ, VARIABLE: str(largest_pixels() >> 20)}
            self._process = subprocess.Popen(  # noqa: S603
                self._program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            process.wait()

    def _lost(self, process: subprocess.Popen[bytes], path: Path, in_time: bool) -> BadImage | MemoryShort:
        """What became of a file whose process ended."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        code = process.returncode
        self._end()
        if not in_time:
            return BadImage(f"{path}: decoding takes over {self._deadline:g} s; save it again as PNG or JPEG")
        if code == -signal.SIGKILL:
            self._killed[path] = self._killed.get(path, 0) + 1
            if self._killed[path] < _MOST_KILLS:
                return MemoryShort(f"{path}: memory is short to read it; free some")
        how = "does not answer" if code is None else f"ends with {code}"
        return BadImage(f"{path}: the decoder does not survive it ({how}); save it again as PNG or JPEG")


def _ask(process: subprocess.Popen[bytes], path: Path) -> Image:
    """One question and its answer. Raises OSError, EOFError or ValueError where the process is no longer of use."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(os.fspath(path)).encode() + b"\n")
    head = json.loads(_exactly(process, int.from_bytes(_exactly(process, 4), "big")))
    if "short" in head:
        raise MemoryShort(str(head["short"]))
    if "bad" in head:
        raise BadImage(str(head["bad"]))
    height, width = head["size"]
    if not 0 < height * width <= largest_pixels():
        raise ValueError("a picture of impossible size")
    return np.frombuffer(_exactly(process, 3 * height * width), np.uint8).reshape(height, width, 3)


def _exactly(process: subprocess.Popen[bytes], number: int) -> bytearray:
    assert process.stdout is not None
    data = bytearray(number)
    rest = memoryview(data)
    while rest:
        came = process.stdout.readinto(rest)  # type: ignore[attr-defined]
        if not came:
            raise EOFError
        rest = rest[came:]
    return data


def _limit_memory() -> bool:
    """Whether this process has a limit that every picture of a sound size fits in; it may have been given a lower one."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = used + BESIDE + largest_pixels() * BYTES_PER_PIXEL
    lowest = min((limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit >= 0), default=most)
    resource.setrlimit(resource.RLIMIT_AS, (min(most, lowest), min(most, lowest)))
    return lowest >= most


def _serve() -> None:
    """The process: answers until its input ends."""
    cv2.setNumThreads(1)
    limited = _limit_memory()
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        path = Path(json.loads(line))
        picture: Image | None = None
        try:
            picture = read_image(path)
            head: dict[str, object] = {"size": picture.shape[:2]}
        except MemoryShort as error:  # within a limit of its own it is the decoder that takes more than it should
            head = {"bad" if limited else "short": str(error)}
        except BadImage as error:
            head = {"bad": str(error)}
        except Exception as error:
            head = {"bad": one_line(f"{path}: cannot be read ({type(error).__name__}: {error})")}
        said = json.dumps(head).encode()
        out.write(len(said).to_bytes(4, "big") + said)
        if picture is not None:
            out.write(np.ascontiguousarray(picture).data)
        out.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent says when
    with suppress(BrokenPipeError):
        _serve()
