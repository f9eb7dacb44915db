"""How far a build is, for people; and a way to stop it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO

from dskd.runtime.verbosity import note, quiet


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Fraction:
    """How much of TensorRT's nested phases is done, from 0 to 1; never falls."""

    def __init__(self) -> None:
        self.value = 0.0
        self._open: dict[str, _Phase] = {}
        self._lock = threading.Lock()  # TensorRT may report from several threads

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` steps begins, inside ``parent`` where there is one."""
        with self._lock:
            self._open[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> None:
        """Step ``step``, counted from 0, of a phase is done."""
        with self._lock:
            if phase := self._open.get(name):
                phase.done = min(step + 1, phase.steps)
            self._update()

    def finish(self, name: str) -> None:
        """A phase is over, be it with steps left."""
        with self._lock:
            phase = self._open.pop(name, None)
            if phase and phase.parent is None:
                self.value = 1.0
            self._update()

    def _update(self) -> None:
        roots = [self._part(name) for name, phase in self._open.items() if phase.parent not in self._open]
        self.value = max([self.value, *roots])

    def _part(self, name: str) -> float:
        phase = self._open[name]
        inside = [self._part(child) for child, other in self._open.items() if other.parent == name]
        return min(1.0, (phase.done + max(inside, default=0.0)) / phase.steps)


@contextmanager
def watching(trt: Any, config: Any, label: str, screen: TextIO | None = None) -> Iterator[None]:
    """Shows a build's progress on ``screen``, by default stderr, while the body builds; Ctrl-C stops the build and raises KeyboardInterrupt.

    TensorRT 8 reports no progress and cannot be stopped in between: there is one line, and Ctrl-C ends the process.
    """
    if not hasattr(trt, "IProgressMonitor"):
        note(f"{label} ... (minutes on a Jetson)")
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        return
    with _bar(label, screen) as show, _interrupts() as interrupted:
        config.progress_monitor = _monitor(trt, Fraction(), show, interrupted)
        yield


def _monitor(trt: Any, fraction: Fraction, show: Callable[[float], None], interrupted: Callable[[], bool]) -> Any:
    """An exception in one of its methods would end the process without a word."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # the bindings do not take super()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            fraction.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            fraction.step(phase_name, step)
            show(fraction.value)
            return not interrupted()  # False ends the build

        def phase_finish(self, phase_name: str) -> None:
            fraction.finish(phase_name)
            show(fraction.value)

    return Monitor()


@contextmanager
def _bar(label: str, screen: TextIO | None = None) -> Iterator[Callable[[float], None]]:
    """A function that takes the fraction done and draws it: tqdm's bar with time left where there is a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:  # a device has what inspection needs, and no more
        note(f"{label} ... (minutes on a Jetson)")
        yield lambda fraction: None
        return
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, desc=label, bar_format=form, disable=quiet() or None, file=screen) as bar:

        def show(fraction: float) -> None:
            with suppress(OSError, ValueError):  # a terminal that has gone is no reason to lose the engine
                bar.update(fraction - bar.n)

        yield show


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed, which raises nothing in the body but KeyboardInterrupt after it.

    It may be asked in any thread: the signal's number comes through a pipe at once, while a handler in Python would
    have to wait until the main thread is back from TensorRT.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    seen = threading.Event()

    def interrupted() -> bool:
        with suppress(BlockingIOError):
            if signal.SIGINT in os.read(reader, 64):
                seen.set()
        return seen.is_set()

    handler = signal.signal(signal.SIGINT, lambda number, frame: None)
    listener = signal.set_wakeup_fd(writer)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, handler)  # first: from here on Ctrl-C raises as ever, and before it was heard
        signal.set_wakeup_fd(listener)
        stopped = interrupted()
        os.close(reader)
        os.close(writer)
    if stopped:
        raise KeyboardInterrupt
