"""``python -m benchmarks references``: the references of all settings and the list of files in docs/, made from the code."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dskd.jetson.fleet_config import FleetConfig
from dskd.runtime import atomic
from dskd.runtime.capture.sources import SOURCES
from dskd.runtime.configuration.registry import DISABLE
from dskd.runtime.errors import CallError, Parser
from dskd.runtime.sinks import SINKS
from dskd.runtime.station.config import StationConfig
from dskd.train.config import TrainConfig
from dskd.train.methods import METHODS

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
FILES = "files.md"
PACKAGES = ("runtime", "train", "export", "calibration", "jetson", "benchmarks")
PAGES: dict[str, tuple[type[BaseModel], str, str]] = {
    "settings.md": (
        TrainConfig,
        "Training settings",
        "Every setting of `dskd train`: on the command line `--set KEY=VALUE`, in a file for `--config` the same keys as\n"
        "nested YAML. A method may bring other defaults (its `recipe`); what a run used stands in its `config.yaml`.\n"
        "`dskd train --print-schema` prints the JSON schema from which an editor completes keys.",
    ),
    "line-yaml.md": (
        StationConfig,
        "The station file",
        "Every key of the file that `dskd station` runs. NAME is a name of your own. `dskd station FILE --check-config`\n"
        "names every fault with its line; `dskd station --print-schema` prints the JSON schema from which an editor\n"
        "completes keys. Paths are relative to the file.",
    ),
    "fleet-yaml.md": (
        FleetConfig,
        "The fleet file",
        "Every key of `fleet.yaml`, which `dskd jetson agent`, `update` and `slots` read. Paths are relative to the file.\n"
        "`dskd jetson agent --print-schema` prints the JSON schema from which an editor completes keys.",
    ),
}
Schema = Mapping[str, Any]


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="python -m benchmarks references", description=__doc__)
    parser.parse_args(arguments)
    if len(METHODS) > len(METHODS.built_in) or len(SINKS) > len(SINKS.built_in):
        raise CallError(f"packages add kinds of their own, which are none of this documentation; set {DISABLE}=1")
    for name, text in {**{name: page(name) for name in PAGES}, FILES: files_page()}.items():
        atomic.write_text(DOCS / name, text)
        print(DOCS / name)
    return 0


def files_page() -> str:
    """The text of ``docs/files.md``: every package and module with the first sentence of its docstring."""
    parts = ["# Files", "Made by `python -m benchmarks references` from the modules' docstrings; not edited by hand."]
    for folder in (folder for package in PACKAGES for folder in _folders(ROOT / package)):
        modules = sorted(file for file in folder.glob("*.py") if file.name != "__init__.py")
        rows = [f"| `{file.name}` | {_first_sentence(file)} |" for file in modules]
        parts += [f"## `{folder.relative_to(ROOT)}`", _first_sentence(folder / "__init__.py")]
        parts += ["\n".join(["| file | |", "|---|---|", *rows])] if rows else []
    return "\n\n".join(parts) + "\n"


def _folders(package: Path) -> list[Path]:
    return sorted(file.parent for file in package.rglob("__init__.py") if "__pycache__" not in file.parts)


def _first_sentence(file: Path) -> str:
    paragraph = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0].replace("\n", " ")
    return paragraph.replace("``", "`").replace("|", "\\|")


def page(name: str) -> str:
    """The text of ``docs/NAME``."""
    model, title, introduction = PAGES[name]
    schema = model.model_json_schema()
    made = "Made by `python -m benchmarks references` from the code; not edited by hand."
    parts = [f"# {title}", introduction, made]
    for heading, text, rows in [*sections(schema), *(addresses() if model is StationConfig else ())]:
        table = ["| key | value | default | meaning |", "|---|---|---|---|"]
        table += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
        parts += [f"## {heading}", *([text] if text else []), "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def addresses() -> Iterator[tuple[str, str, list[tuple[str, str, str, str]]]]:
    """Heading, text and rows (key, value, default, meaning) of the options behind ``?``, for each source that has some."""
    for kind in SOURCES.all().values():
        options = kind.told or kind.options
        if options.model_fields:
            (_, _, rows), *_ = sections(options.model_json_schema())
            form = kind.form.partition("?")[0]
            yield f"`cameras.NAME.source`, {form}?key=value", _sentence(options.__doc__ or ""), rows


def sections(schema: Schema) -> Iterator[tuple[str, str, list[tuple[str, str, str, str]]]]:
    """Heading, text and rows (key, value, default, meaning) of each group of keys, the top level first."""
    known = schema.get("$defs", {})
    ahead: list[tuple[str, str, Schema]] = [("", "Top level", schema)]
    while ahead:
        prefix, heading, group = ahead.pop(0)
        rows, inner = [], []
        for name, field in group["properties"].items():
            key = prefix + name
            groups = list(_groups(field, known))
            if groups:
                place = f"{key}.NAME" if "patternProperties" in field else key
                inner += [(f"{place}.", _heading(place, found, len(groups)), found) for found in groups]
                rows.append(
                    (f"`{key}`", _of_group(place, field), _default(name, group, bool(groups)), _meaning(field, groups))
                )
            else:
                rows.append((f"`{key}`", _value(field, known), _default(name, group, False), _of_value(name, field)))
        yield heading, "" if not prefix else _sentence(group.get("description", "")), rows
        ahead = inner + ahead


def _groups(field: Schema, known: Schema) -> Iterator[Schema]:
    """The groups of keys that a field may hold; none for a plain value."""
    for part in [field, *field.get("anyOf", []), *field.get("oneOf", []), *field.get("patternProperties", {}).values()]:
        found = _resolved(part, known)
        if "properties" in found:
            yield found
        elif part is not field:
            yield from _groups(part, known)


def _resolved(field: Schema, known: Schema) -> Schema:
    return known[field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def _heading(place: str, group: Schema, of: int) -> str:
    kind = group["properties"].get("kind", {}).get("const")
    return f"`{place}`, kind: {kind}" if kind and of > 1 else f"`{place}`"


def _of_group(place: str, field: Schema) -> str:
    return "keys below, one group for each NAME" if "patternProperties" in field else "keys below"


def _meaning(field: Schema, groups: list[Schema]) -> str:
    own = field.get("description")
    return own or (_first_line(groups[0].get("description", "")) if len(groups) == 1 else "one of the kinds below")


def _of_value(name: str, field: Schema) -> str:
    return str(field.get("description") or ("which kind this is" if name == "kind" else ""))


def _first_line(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _default(name: str, group: Schema, is_group: bool) -> str:
    if name in group.get("required", ()):
        return "needed"
    field = group["properties"][name]
    if is_group and field.get("default") is not None:
        return "as below" if field["default"] else "none"
    if "default" not in field:
        return "found here"
    default = field["default"]
    return "none" if default in (None, {}, []) else f"`{json.dumps(default, ensure_ascii=False)}`"


def _value(field: Schema, known: Schema) -> str:
    """Kind and bounds of a plain value."""
    if "anyOf" in field:
        return " or ".join(_value(part, known) for part in field["anyOf"] if part.get("type") != "null")
    field = {**_resolved(field, known), **field}
    if "const" in field or "enum" in field:
        return ", ".join(f"`{word}`" for word in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        items = field.get("prefixItems") or [field["items"]]
        most = field.get("maxItems")
        count = f"{len(items)} of: " if "prefixItems" in field else f"list{f' of at most {most}' if most else ''}: "
        return count + _value(items[0], known)
    kind = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}[
        field["type"]
    ]
    if field.get("format") == "path":
        kind = "path"
    bounds = [f"{sign} {_number(field[word])}" for word, sign in _BOUNDS.items() if word in field]
    if "maxLength" in field:
        bounds.append(f"at most {field['maxLength']} characters")
    if "pattern" in field:
        bounds.append(_PATTERNS.get(field["pattern"], f"`{field['pattern']}`"))
    return ", ".join([kind, *bounds])


def _number(value: float) -> str:
    return f"{value:.15g}" if abs(value) < 1e15 else "2^63" if value > 9e18 else f"{value:.0f}"


_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_PATTERNS = {
    r"^[\w.:+-]{1,64}$": "a word of at most 64 characters",
    r"^\d{2,4}x\d{2,4}$": "such as `640x480`",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$": "a name: letters, digits, `_ . -`, at most 64",
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$": "a time of day such as `06:00`",
}
