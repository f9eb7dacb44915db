"""The interface of a source, and what a kind of source registers: its options and how it is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dskd.runtime.configuration.options import NoOptions
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.result import Dropped, Frame, Image

Reader = Callable[[Path], Image]  # of picture files; raises BadImage, MemoryShort
# What starts an exposure: the camera itself, again and again; ``Source.trigger``; or the camera's input line.
Trigger = Literal["free", "software", "line"]

PATIENCE = 10.0  # seconds without a frame before a source that nobody triggers counts as lost


class SourceEnded(DskdError):
    """A finite source has given all it has."""


class SourceLost(DskdError):
    """A camera stopped delivering: close it, make it anew, open that."""


class Source(ABC):
    """Something that captures frames. One thread uses it at a time.

    ``live``: frames come in their own time, whether read or not. ``endless``: no end is known, as of a folder that is
    watched. ``triggerable``: ``trigger`` asks the device for one frame.
    """

    uri: str  # without user and password
    live: bool = False
    endless: bool = False
    triggerable: bool = False

    def open(self) -> None:  # noqa: B027 many have nothing to get ready
        """Gets ready to deliver. Raises MissingPart or SourceLost with the next step."""

    @abstractmethod
    def read(self, timeout: float) -> Frame | Dropped | None:
        """The next frame, None where none came within ``timeout`` seconds. Raises SourceEnded or SourceLost.

        A frame that was captured and cannot be used comes as Dropped.
        """

    def trigger(self) -> None:
        """Asks for one frame. Only where ``triggerable``."""
        raise CallError(f"source {self.uri}: cannot be triggered")

    def close(self) -> None:  # noqa: B027 many hold nothing
        """Releases the device; may be called again."""


@dataclass(frozen=True)
class SourceContext:
    """What a source is opened for: what starts an exposure, and what decodes picture files (None: this process)."""

    trigger: Trigger = "free"
    reader: Reader | None = None


@dataclass(frozen=True)
class SourceKind:
    """What is registered under a URI's scheme.

    ``form``: how the URI is written, for help. ``open`` gets the URI, its options and the context; it touches no camera
    and raises CallError where the URI is wrong. ``options``: what may stand behind ``?``; NoOptions where that is part of
    the address; then ``told`` are those that ``open`` reads out of it, for the reference. ``line_input``: the camera has an
    input that starts an exposure.
    """

    form: str
    open: Callable[[str, Any, SourceContext], Source]
    options: type[Strict] = NoOptions
    told: type[Strict] | None = None
    line_input: bool = False


def frames(source: Source) -> Generator[Frame | Dropped, None, None]:
    """Opens ``source``, gives all that it captures in order, and closes it."""
    try:
        source.open()
        while True:
            captured = source.read(PATIENCE)
            if captured is None:
                raise SourceLost(f"source {source.uri}: gave no frame for {PATIENCE:.0f} seconds; check the camera")
            yield captured
    except SourceEnded:
        return
    except (DskdError, OSError):
        raise
    except Exception as error:  # a camera's library may raise anything
        raise SourceLost(f"source {source.uri}: failed ({type(error).__name__}: {error})") from error
    finally:
        source.close()
