"""Source to inspector to sinks. Every captured frame is inspected or dropped with a reason."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from inspect import GEN_RUNNING, getgeneratorstate
from typing import TYPE_CHECKING

from dskd.runtime.capture.sources import Source, frames
from dskd.runtime.errors import DeviceLost, DskdError
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Dropped, Frame, Result, Verdict

if TYPE_CHECKING:
    from dskd.runtime.sinks import Sink

MOST_TOGETHER = 4  # results of one write to the sinks: their pictures wait in memory
LONGEST_TOGETHER = 0.05  # seconds to make them; what takes longer is hardly slowed by a write of its own
MOST_OVERTAKEN = 256  # records of overtaken frames in one write


class Tally:
    """Counts: ``captured == inspected + dropped`` at all times."""

    def __init__(self) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self.dropped = 0
        self.replaced = 0  # of ``dropped``: a live camera's frames that a newer one overtook

    @property
    def inspected(self) -> int:
        """Frames with a verdict."""
        return self.verdicts.total()

    @property
    def captured(self) -> int:
        """Frames that the source gave."""
        return self.inspected + self.dropped

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        counts = {verdict.value: self.verdicts[verdict] for verdict in Verdict}
        return {"captured": self.captured, "inspected": self.inspected, "dropped": self.dropped, **counts}


def run(source: Source, inspector: Inspector, sinks: Sequence[Sink], tally: Tally) -> Iterator[Result]:
    """Inspects every frame; yields each result once all sinks have it, so what was reported is stored.

    A kill leaves at most one write stored and not reported: up to ``MOST_TOGETHER`` results of a source that can wait, of
    a camera one and the frames that it overtook.
    """
    unsteady = comes_when_it_comes(source)
    captured_frames = _of_camera(source) if unsteady else read_ahead(frames(source))

    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(closing(sink))
        captured = stack.enter_context(closing(captured_frames))
        results = (each if isinstance(each, Dropped) else _inspect(inspector, each) for each in captured)
        write = write_at_once if unsteady else write_behind
        for result in stack.enter_context(closing(write(results, sinks))):
            if isinstance(result, Dropped):
                tally.dropped += 1
                tally.replaced += result.reason is Reason.REPLACED
            else:
                tally.verdicts[result[1].verdict] += 1
            yield result


def _of_camera(source: Source) -> Generator[Frame | Dropped, None, None]:
    from dskd.runtime.capture.newest_frames import newest_frames  # files need no capture thread

    return newest_frames(source)


def comes_when_it_comes(source: Source) -> bool:
    """Whether frames come in their own time, as those of cameras and watched folders."""
    return source.live or source.endless


def read_ahead(captured: Generator[Frame | Dropped, None, None]) -> Generator[Frame | Dropped, None, None]:
    """What a source that can wait gives, in order; the next is read and decoded while this one is inspected."""
    try:
        with ThreadPoolExecutor(1, "read ahead") as reader:
            coming = reader.submit(next, captured, None)
            while (found := coming.result()) is not None:
                coming = reader.submit(next, captured, None)
                yield found
    finally:
        # Who asked twice to stop does not wait for the read under way; until it ends the generator cannot be closed.
        if getgeneratorstate(captured) != GEN_RUNNING:
            captured.close()


def write_behind(results: Iterator[Result], sinks: Sequence[Sink]) -> Generator[Result, None, None]:
    """Each of ``results`` once it is stored, in order; it is stored while the next ones are made.

    Those that are made fast are stored together: a durable commit takes its time from the network, whatever it holds.
    What was made is stored and given also where making the next one fails or is interrupted. Nothing is made after a
    sink failed but what was under way.
    """
    with ThreadPoolExecutor(1, "write behind") as writer:
        storing: Future[None] | None = None
        stored: list[Result] = []
        ended: BaseException | None = None
        while ended is None or stored:
            made, ended = ([], ended) if ended else _some(results)
            ended = (storing and _interruption(storing)) or ended
            told, stored = stored, made
            storing = writer.submit(store, made, sinks) if made else None
            yield from told
        if not isinstance(ended, StopIteration):
            raise ended


def _some(results: Iterator[Result]) -> tuple[list[Result], BaseException | None]:
    """The next of ``results`` that are to be stored together, and what ended them."""
    made: list[Result] = []
    begun = time.monotonic()
    while len(made) < MOST_TOGETHER and time.monotonic() - begun < LONGEST_TOGETHER:
        try:
            made.append(next(results))
        except BaseException as error:  # Ctrl-C too; the caller raises it once all is stored
            return made, error
    return made, None


def _interruption(storing: Future[None]) -> BaseException | None:
    """What interrupted the waiting for ``storing``, which then goes on. Raises where the storing itself failed."""
    try:
        return storing.result()
    except BaseException as error:
        if storing.done() and storing.exception() is error:
            raise
        storing.result()
        return error


def write_at_once(results: Iterator[Result], sinks: Sequence[Sink]) -> Generator[Result, None, None]:
    """Each of ``results``, in order, once it is stored.

    Frames that a newer one overtook are stored with it: were each written by itself, a slow disk would let the next ones
    be overtaken meanwhile, and so on for ever.
    """
    ended: BaseException | None = None
    while ended is None:
        made: list[Result] = []
        while not made or (_overtaken(made[-1]) and len(made) < MOST_OVERTAKEN):
            try:
                made.append(next(results))
            except BaseException as error:
                ended = error
                break
        if made:
            store(made, sinks)
        yield from made
    if not isinstance(ended, StopIteration):
        raise ended


def _overtaken(result: Result) -> bool:
    return isinstance(result, Dropped) and result.reason is Reason.REPLACED


def store(results: Sequence[Result], sinks: Sequence[Sink]) -> None:
    """Gives each sink what it wants of the results, then tells their sources."""
    for sink in sinks:
        if wanted := [result for result in results if sink.wants(result)]:
            sink.write(wanted)
    for result in results:
        (result if isinstance(result, Dropped) else result[0]).stored()


def _inspect(inspector: Inspector, frame: Frame) -> Result:
    """A frame that cannot be inspected is dropped with the reason, never a PASS. Raises DeviceLost."""
    try:
        return frame, inspector.inspect(frame)
    except DeviceLost:
        raise
    except DskdError as error:
        why = NotInspected.of(error)
        return frame.dropped(why.reason, why.detail)
