"""Settings and manifests: plain YAML in, checked models out. Shared by every file a person or another machine writes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # before the first model: it would search all that is installed

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

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


class _PlainYaml(yaml.SafeLoader):
    """YAML without aliases, which can make a few lines endless, and without keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "an alias; write the value out", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)  # type: ignore[arg-type]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise ConstructorError(None, None, f"the key {twice} twice", node.start_mark)
        return super().construct_mapping(node, deep)


# As in YAML 1.2 only true and false are switches: ``on: [REJECT]`` is a key named on, and no is Norway.
_PlainYaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:bool"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainYaml.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def parse_yaml(text: str) -> object:
    """Plain data from YAML. Raises yaml.YAMLError for whatever is wrong with it."""
    try:
        loader = _PlainYaml(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except (RecursionError, ValueError) as error:  # nested too deep; a date or number that is none
        raise yaml.YAMLError(str(error)) from error


def first_fault(error: ValidationError) -> str:
    """The first complaint of pydantic as ``key: what``."""
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc']) or 'top level'}: {fault['msg']}"
