"""Misspelt settings of training: a hint is a full name, and who follows it has a valid call."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from dskd.runtime.errors import CallError
from dskd.train.config import OWN, TrainConfig, load_config
from dskd.train.key_hints import section_of


def settings_of(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, object]]:
    """Full name and default of each setting with a plain value that has one."""
    for name, field in model.model_fields.items():
        section = section_of(model, name)
        if section is not None and f"{before}{name}" not in ("input.tiling", "input.fixture"):
            yield from settings_of(section, f"{before}{name}.")
        elif section is None:
            yield f"{before}{name}", field.get_default(call_default_factory=True)


def misspelt(name: str) -> set[str]:
    """The name with slips: in the key, in the section, with neither or another section."""
    section, _, key = name.rpartition(".")
    keys = {key[:-1], key + "s", key[1:], key.replace("_", ""), key[:2] + key[3:], key}
    sections = {"", section + "s", section[:-1], section, "loss"}
    return {f"{s}.{k}" if s else k for s in sections for k in keys if k} - {name}


@pytest.mark.parametrize("method", ["dskd", "urd"])
def test_who_follows_a_hint_has_a_valid_call(method: str) -> None:
    defaults = {name: json.dumps(value, default=str) for name, value in settings_of(TrainConfig)}
    own = {name: value for name, value in defaults.items() if name.partition(".")[0] not in set(OWN) - {method}}
    valid = own | {"method": method, "fixture": "none", "input.tiling.side": "256"}
    followed = set()
    for name in own:
        for slip in misspelt(name) - own.keys():
            with pytest.raises(CallError) as refused:
                load_config(None, [f"method={method}", f"{slip}={own[name]}"])
            hint = re.search(r"did you mean (\S+)\?", str(refused.value))
            if hint and hint[1] not in followed:
                load_config(None, [f"method={method}", f"{hint[1]}={valid[hint[1]]}"])
                followed.add(hint[1])
    assert followed >= own.keys()


def test_a_misspelt_section_names_what_there_is_in_the_true_one() -> None:
    with pytest.raises(CallError, match=r"los\.xyz is unknown; known are loss\.cosine, loss\.flattened"):
        load_config(None, ["los.xyz=1"])
    with pytest.raises(CallError, match=r"recipie is unknown; known are recipe\.epochs"):
        load_config(None, ["recipie=1"])
    with pytest.raises(CallError, match="did you mean fixture\\?"):
        load_config(None, ["fixtur=none"])
