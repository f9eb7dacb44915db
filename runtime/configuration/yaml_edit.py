"""Setting numbers in a person's YAML file without touching anything else in it: comments, order and spacing stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from dskd.runtime.configuration.strict_yaml import parse_yaml
from dskd.runtime.errors import CallError


def with_numbers(text: str, place: Sequence[str], numbers: Mapping[str, float]) -> str:
    """``text`` with ``numbers`` in the mapping at ``place``, added where they are missing.

    Raises CallError where there is no such mapping, or where the result would not say exactly what was asked.
    """
    where, expected = ".".join(place), parse_yaml(text)
    mapping = expected
    for step in place:
        mapping = mapping.get(step) if isinstance(mapping, dict) else None
    if not isinstance(mapping, dict):
        raise CallError(f"there is no {where} in the file; name one that is there")
    try:
        for key, number in numbers.items():
            text = _with_number(text, place, key, number)
            mapping[key] = number
        done = parse_yaml(text) == expected
    except yaml.YAMLError:
        done = False
    if not done:
        raise CallError(f"{where}: cannot be edited in place; write {dict(numbers)} there yourself")
    return text


def _with_number(text: str, place: Sequence[str], key: str, number: float) -> str:
    node = yaml.compose(text, Loader=yaml.SafeLoader)  # libyaml's places are off by one behind a byte order mark
    for step in place:
        node = _child(node, step)
    assert isinstance(node, yaml.MappingNode)
    written = yaml.safe_dump(number).splitlines()[0]  # 1e-05 without a dot would be text
    old = _child(node, key)
    if old is not None:
        return f"{text[: old.start_mark.index]}{written}{text[old.end_mark.index :]}"
    if node.flow_style:
        start = node.start_mark.index + 1
        return f"{text[:start]}{key}: {written}{', ' if node.value else ''}{text[start:]}"
    first = node.value[0][0].start_mark
    return f"{text[: first.index]}{key}: {written}\n{' ' * first.column}{text[first.index :]}"


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)
