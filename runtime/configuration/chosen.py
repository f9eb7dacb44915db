"""A group of settings whose key ``kind`` says which of a registry's kinds it configures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from dskd.runtime.configuration.registry import Registry
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.errors import DskdError

Kind = TypeVar("Kind")


class Chosen:
    """As in ``Annotated[SinkConfig, Chosen(SINKS, ...)]``: the kind's own model, looked up when a value is read.

    So a kind is imported where a file names it, and a package's broken kind is nothing to files that do not. ``config``
    gives the model of a kind.
    """

    def __init__(self, registry: Registry[Kind], config: Callable[[Kind], type[Strict]]) -> None:
        self._registry, self._config = registry, config

    def model_of(self, value: object) -> type[BaseModel] | None:
        """The model by which ``value`` is read, None where its kind is unknown or cannot be used."""
        kind = value.get("kind") if isinstance(value, dict) else None
        try:
            return self._config(self._registry[kind]) if isinstance(kind, str) else None
        except DskdError:
            return None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        models = [self._config(kind) for kind in self._registry.all().values()]
        return {"oneOf": [handler(model.__pydantic_core_schema__) for model in models]}

    def _read(self, value: Any, info: ValidationInfo) -> BaseModel:
        if isinstance(value, BaseModel):
            value = value.model_dump()
        kind = value.get("kind") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "kind"})
        if kind not in self._registry:
            known = ", ".join(map(repr, self._registry))
            raise PydanticKnownError(
                "union_tag_invalid", {"discriminator": "kind", "tag": kind, "expected_tags": known}
            )
        try:
            model = self._config(self._registry[kind])
        except DskdError as error:
            raise PydanticCustomError("unusable_kind", "{reason}", {"reason": str(error)}) from error
        return model.model_validate(value, context=info.context)


class Named:
    """As in ``Annotated[str, Named(BACKENDS)]``: one of a registry's names."""

    def __init__(self, registry: Registry[Any]) -> None:
        self._registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._read, core_schema.str_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": list(self._registry)}

    def _read(self, name: str) -> str:
        if name not in self._registry:
            raise PydanticCustomError("unknown_name", "{reason}", {"reason": str(self._registry.unknown(name))})
        return name
