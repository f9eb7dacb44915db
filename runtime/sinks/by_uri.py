"""The sinks of ``dskd runtime``, by URI: those that take results as they come, and those that deliver from a store."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence

from pydantic import ValidationError

from dskd.runtime.configuration.strict_yaml import first_fault
from dskd.runtime.configuration.uri import uri_scheme, without_password
from dskd.runtime.errors import CallError
from dskd.runtime.sinks import SCHEMES, SINKS, Sink, SinkConfig, SinkContext, SinkKind

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
        if targets:
            from dskd.runtime.sinks.delivered import deliver  # threads and a store, only where they are needed

            deliver(targets, opened)
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
