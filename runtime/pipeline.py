"""Source to inspector to sinks. Every captured frame is inspected or dropped with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing

from runtime.capture import newest_frames
from runtime.errors import DskdError
from runtime.frame_queue import REPLACED
from runtime.inspector import Inspector
from runtime.result import Dropped, Frame, Inspection, Verdict
from runtime.sinks import Sink
from runtime.sources import Source, frames
from runtime.sources.watched_folder import WatchedFolderSource

Result = tuple[Frame, Inspection] | Dropped


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
    """Inspects every frame; yields each result once all sinks have it, so what was reported is stored."""
    unsteady = source.live or isinstance(source, WatchedFolderSource)  # frames come when they come
    captured_frames = newest_frames(source) if unsteady else read_ahead(frames(source))

    def kept(result: Result) -> Result:
        store(result, sinks)
        return result

    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(closing(sink))
        captured = stack.enter_context(closing(captured_frames))
        results = (each if isinstance(each, Dropped) else _inspect(inspector, each) for each in captured)
        for result in map(kept, results) if unsteady else stack.enter_context(closing(write_behind(results, kept))):
            if isinstance(result, Dropped):
                tally.dropped += 1
                tally.replaced += result.reason == REPLACED
            else:
                tally.verdicts[result[1].verdict] += 1
            yield result


def read_ahead(captured: Generator[Frame | Dropped, None, None]) -> Generator[Frame | Dropped, None, None]:
    """What a source that can wait gives, in order; the next is read and decoded while this one is inspected."""
    with closing(captured), ThreadPoolExecutor(1, "read ahead") as reader:
        coming = reader.submit(next, captured, None)
        while (found := coming.result()) is not None:
            coming = reader.submit(next, captured, None)
            yield found


def write_behind(results: Iterator[Result], store: Callable[[Result], Result]) -> Generator[Result, None, None]:
    """Each of ``results`` once it is stored, in order; it is stored while the next one is made.

    What was stored is given also where making the next one fails or is interrupted. Nothing is made after ``store``
    failed but what was under way.
    """
    with ThreadPoolExecutor(1, "write behind") as writer:
        storing: Future[Result] | None = None
        ended: BaseException | None = None
        while ended is None:
            try:
                result = next(results)
            except BaseException as error:  # Ctrl-C too; it goes on below
                ended = error
            if storing is not None:
                yield storing.result()
            storing = None if ended else writer.submit(store, result)
        if not isinstance(ended, StopIteration):
            raise ended


def store(result: Result, sinks: Sequence[Sink]) -> None:
    """Gives a result to all sinks, then tells its source."""
    if isinstance(result, Dropped):
        for sink in sinks:
            sink.drop(result)
        result.stored()
    else:
        frame, inspection = result
        for sink in sinks:
            sink.write(inspection, frame)
        frame.stored()


def _inspect(inspector: Inspector, frame: Frame) -> Result:
    """A frame that cannot be judged is dropped with the reason, never a PASS."""
    try:
        return frame, inspector.inspect(frame)
    except DskdError as error:
        return frame.dropped(str(error))
