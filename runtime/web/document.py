"""The interface described in OpenAPI 3.1, made from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dskd.runtime.web.endpoint import Endpoint

DESCRIPTION = (
    "Viewing needs no sign-in where the page listens on loopback alone. Everything that changes something needs the station's "
    "token: 'Authorization: Bearer TOKEN', with 'X-Operator: NAME' for the audit log, or the cookie that "
    '/api/sign-in gives. Errors are {"error": sentence}.'
)


def openapi(endpoints: Sequence[Endpoint]) -> dict[str, object]:
    """The document as JSON fields."""
    paths: dict[str, dict[str, object]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Inspection station", "version": "1", "description": DESCRIPTION},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }


def _operation(endpoint: Endpoint) -> dict[str, object]:
    inside = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    asked = [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in endpoint.query.items()
    ]
    operation: dict[str, object] = {
        "summary": endpoint.summary,
        "parameters": [*inside, *asked],
        "responses": {"default": {"description": "see the summary"}},
    }
    if endpoint.body is not None:
        schema = endpoint.body.model_json_schema()
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    if endpoint.changes:
        operation["security"] = [{"token": []}]
    return operation
