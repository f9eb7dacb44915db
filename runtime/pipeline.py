"""Source to inspector to sinks. Every captured frame is inspected or dropped with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

from runtime.capture import newest_frames
from runtime.errors import DskdError
from runtime.frame_queue import REPLACED
from runtime.inspector import Inspector
from runtime.result import Dropped, Frame, Inspection, Verdict
from runtime.sinks import Sink
from runtime.sources import Source, frames
from runtime.sources.watched_folder import WatchedFolderSource


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


def run(
    source: Source, inspector: Inspector, sinks: Sequence[Sink], tally: Tally
) -> Iterator[tuple[Frame, Inspection] | Dropped]:
    """Inspects every frame; yields each result once all sinks have it, so what was reported is stored."""
    unsteady = source.live or isinstance(source, WatchedFolderSource)  # frames come when they come
    captured_frames = newest_frames(source) if unsteady else read_ahead(frames(source))
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(closing(sink))
        for captured in stack.enter_context(closing(captured_frames)):
            result = captured if isinstance(captured, Dropped) else _inspect(inspector, captured)
            if isinstance(result, Dropped):
                for sink in sinks:
                    sink.drop(result)
                result.stored()
                tally.dropped += 1
                tally.replaced += result.reason == REPLACED
                yield result
            else:
                frame, inspection = result
                for sink in sinks:
                    sink.write(inspection, frame)
                frame.stored()
                tally.verdicts[inspection.verdict] += 1
                yield result


def read_ahead(captured: Generator[Frame | Dropped, None, None]) -> Generator[Frame | Dropped, None, None]:
    """What a source that can wait gives, in order; the next is read and decoded while this one is inspected."""
    with closing(captured), ThreadPoolExecutor(1, "read ahead") as reader:
        coming = reader.submit(next, captured, None)
        while (found := coming.result()) is not None:
            coming = reader.submit(next, captured, None)
            yield found


def _inspect(inspector: Inspector, frame: Frame) -> tuple[Frame, Inspection] | Dropped:
    """A frame that cannot be judged is dropped with the reason, never a PASS."""
    try:
        return frame, inspector.inspect(frame)
    except DskdError as error:
        return frame.dropped(str(error))
