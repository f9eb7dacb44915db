"""The sinks of ``dskd runtime``, by URI: those that take results as they come, and those that deliver from a store."""

from __future__ import annotations

import difflib
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from dskd.runtime.configuration.strict_yaml import first_fault
from dskd.runtime.configuration.uri import uri_scheme, without_password
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.result import Dropped, Result
from dskd.runtime.sinks import SCHEMES, SINKS, Sink, SinkConfig, SinkContext, SinkKind
from dskd.runtime.sinks.delivery import Delivery, Target
from dskd.runtime.store import Store

PATIENCE = 10.0  # seconds without a delivery after which the end of a run waits no longer
LOOK = 0.05  # seconds between looks at how far a sink is
KEPT = 10_000  # delivered records that stay in a temporary store
TIDY_EVERY = 60.0  # seconds
Asked = tuple[str, SinkKind, SinkConfig]


def forms() -> list[str]:
    """How the URI of each kind is written."""
    return [kind.form for kind in SINKS.all().values()]


def open_sinks(uris: Sequence[str]) -> list[Sink]:
    """The sinks that ``uris`` name: the store first, what writes to standard output after other files.

    Sinks that deliver from a store get the first one named, else a temporary one. Raises CallError where there is no
    such kind or a setting is wrong, DskdError where one cannot be opened; then nothing stays open.
    """
    asked = [_asked(uri) for uri in uris]
    opened: list[Sink] = []
    try:
        for name, kind, config in asked:
            if kind.sink is not None:
                opened.append(kind.open_sink(config, SinkContext(name)))
        opened.sort(key=lambda sink: (sink.store is None, sink.to_stdout))
        targets = [(name, kind, config) for name, kind, config in asked if kind.sink is None]
        if targets and not (opened and opened[0].store):
            opened.insert(0, TemporaryStore())
        for name, kind, config in targets:
            store = opened[0].store
            assert store is not None
            lost = isinstance(opened[0], TemporaryStore)
            target = kind.open_target(config, SinkContext(name, store.identity))
            opened.append(Delivered(name, store, target, lost))
    except BaseException:
        for sink in reversed(opened):
            sink.close()
        raise
    return opened


def _asked(uri: str) -> Asked:
    scheme = uri_scheme(uri)
    name, kind_name = _name(uri), SCHEMES.get(scheme, scheme)
    if kind_name not in SINKS:
        raise CallError(f"sink {name}: is of no known kind; use {', '.join(forms())}")
    kind = SINKS[kind_name]
    given = {key: _listed(kind.config, key, value) for key, value in kind.fields(uri).items()}
    settings = [key for key in kind.config.model_fields if key != "kind"]
    for key in given.keys() - set(settings):
        near = difflib.get_close_matches(key, settings, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(settings)}"
        raise CallError(f"sink {name}: is given a setting that it does not have; {hint}")
    try:
        return name, kind, kind.config.model_validate({"kind": kind_name, **given})
    except ValidationError as error:
        raise CallError(f"sink {name}: {first_fault(error).replace('Value error, ', '')}; write {kind.form}") from error


def _name(uri: str) -> str:
    """``uri`` as it is shown and as its cursor in a store is called: a secret may stand behind ? and # or in a web path."""
    shown = re.split("[?#]", without_password(uri))[0]
    if uri_scheme(uri) in ("http", "https"):
        shown = "/".join(shown.split("/")[:3])
    return shown if shown == uri else f"{shown} ({hashlib.sha256(uri.encode(errors='replace')).hexdigest()[:4]})"


def _listed(config: type[SinkConfig], key: str, value: object) -> object:
    """A setting that is a list is written with commas in a URI."""
    field = config.model_fields.get(key)
    is_list = field is not None and getattr(field.annotation, "__origin__", None) is list
    return value.split(",") if is_list and isinstance(value, str) else value


class TemporaryStore(Sink):
    """A store in a temporary folder, for a run that was given none: it goes with the run, old records before that."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dskd-"))
        self.store: Store = Store(self._folder / "store.db")
        self._tidied = time.monotonic()

    def write(self, results: Sequence[Result]) -> None:
        """Stores them until they are delivered."""
        self.store.add([result if isinstance(result, Dropped) else result[1] for result in results])
        if time.monotonic() - self._tidied > TIDY_EVERY:
            self.store.prune(KEPT)
            self._tidied = time.monotonic()

    def close(self) -> None:
        """Deletes it."""
        self.store.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Delivered(Sink):
    """A target that a thread delivers to from the store. ``lost``: what is not delivered at the end goes with the store."""

    def __init__(self, name: str, store: Store, target: Target, lost: bool) -> None:
        self._delivery, self._lost = Delivery(name, store, target), lost
        self._delivery.start()

    def write(self, results: Sequence[Result]) -> None:
        """The store, which comes before it, wakes its thread."""

    def close(self) -> None:
        """Waits as long as records get through. Raises DskdError where some did not."""
        behind, end = -1, 0.0
        while left := self._delivery.status().behind:
            if left != behind:
                behind, end = left, time.monotonic() + PATIENCE
            elif time.monotonic() > end:
                break
            time.sleep(LOOK)
        status = self._delivery.status()
        self._delivery.stop()
        if status.behind:
            keep = "add --sink sqlite://FILE to keep them" if self._lost else "the same command delivers them later"
            why = status.last_error or status.detail
            raise DskdError(f"sink {status.name}: {status.behind} records were not delivered ({why}); {keep}")
