"""Settings and manifests: plain YAML in, checked models out. Shared by every file a person or another machine writes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable
from typing import Any

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # before the first model: it would search all that is installed

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from yaml.composer import Composer, ComposerError
from yaml.constructor import ConstructorError, SafeConstructor

LARGEST_YAML = 1 << 20  # bytes: settings and manifests have some thousand


class Strict(BaseModel):
    """Refuses unknown keys, infinite numbers, and yes or no where a number belongs; immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and field.annotation in (int, float):
            raise ValueError(f"a number is needed, not {str(value).lower()}")
        return value


# As in YAML 1.2 only true and false are switches: ``on: [REJECT]`` is a key named on, and no is Norway.
_SWITCH = "tag:yaml.org,2002:bool"
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in known if tag != _SWITCH]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _first in "tTfF":
    _RESOLVERS.setdefault(_first, []).append((_SWITCH, re.compile("^(?:true|True|TRUE|false|False|FALSE)$")))


class PlainYaml(yaml.SafeLoader):
    """YAML without aliases, which can make a few lines endless, and without keys given twice."""

    yaml_implicit_resolvers = _RESOLVERS

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """A node that is no alias."""
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "an alias; write the value out", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return Composer.compose_node(self, parent, index)  # type: ignore[arg-type]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """A mapping whose keys differ."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise ConstructorError(None, None, f"the key {twice} twice", node.start_mark)
        return SafeConstructor.construct_mapping(self, node, deep)


def _loader() -> type[PlainYaml]:
    """Reads with libyaml where PyYAML has it, ten times as fast: a bundle's manifest is read at every start."""
    if not yaml.__with_libyaml__:
        return PlainYaml

    class FastPlainYaml(Composer, yaml.CSafeLoader):
        yaml_implicit_resolvers = _RESOLVERS
        compose_node = PlainYaml.compose_node
        construct_mapping = PlainYaml.construct_mapping

        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)

    return FastPlainYaml  # type: ignore[return-value]


LOADER = _loader()


# Nested too deep; a date or number that is none; and what PyYAML trips over where a tag does not fit its text.
_WRONG = (RecursionError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)


_NO_TEXT = re.compile(r"(?<!\\)((?:\\\\)*)\\u(D[89A-F][0-9A-F]{2})")  # how yaml writes half a surrogate pair


def dump_yaml(fields: object, **options: Any) -> str:
    """Plain data as YAML that ``parse_yaml`` reads, in the order of its keys; bytes of names that are no text are escaped."""
    return _NO_TEXT.sub(r"\1\\\\u\2", yaml.safe_dump(fields, sort_keys=False, **options))


def parse_yaml(text: str) -> object:
    """Plain data from YAML. Raises yaml.YAMLError for whatever is wrong with it."""
    try:
        loader = LOADER(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except _WRONG as error:
        raise yaml.YAMLError(
            str(error) if isinstance(error, ValueError | RecursionError) else "a value does not fit its tag"
        ) from error


def nodes_of(text: str) -> yaml.Node | None:
    """The nodes, with their lines, of a text that ``parse_yaml`` takes: another reader may refuse it."""
    loader = LOADER(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def first_fault(error: ValidationError) -> str:
    """The first complaint of pydantic as ``key: what``."""
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc']) or 'top level'}: {fault['msg']}"
