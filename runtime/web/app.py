"""The application: all routes in one table, and the door that each request goes through."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dskd.runtime.configuration.strict_yaml import first_fault
from dskd.runtime.web import static_files
from dskd.runtime.web.answers import as_json, problem
from dskd.runtime.web.app_state import AppState
from dskd.runtime.web.auth import Person, TooManyGuesses
from dskd.runtime.web.calls import Busy
from dskd.runtime.web.changes import Changes
from dskd.runtime.web.document import openapi
from dskd.runtime.web.endpoint import Call, Endpoint, Refused
from dskd.runtime.web.export import Export
from dskd.runtime.web.guard import Guard
from dskd.runtime.web.history import History
from dskd.runtime.web.session import Session
from dskd.runtime.web.status_routes import StatusRoutes
from dskd.runtime.web.trend import Trend
from dskd.runtime.web.visitor import Entrance, visitor_of

LONGEST_TOKEN = 256
log = logging.getLogger(__name__)


def endpoints(state: AppState) -> list[Endpoint]:
    """Every route there is."""
    found = [
        *static_files.endpoints(),
        *StatusRoutes(state).endpoints(),
        *History(state).endpoints(),
        *Trend(state).endpoints(),
        *Export(state).endpoints(),
        *Changes(state).endpoints(),
        *Session(state).endpoints(),
    ]
    document = openapi(found)

    async def describe(_: Call) -> Response:
        return as_json(document)

    return [*found, Endpoint("GET", "/api", "this interface, as OpenAPI", describe, open=True)]


def build(state: AppState, entrance: Entrance) -> tuple[ASGIApp, list[Endpoint]]:
    """The application and its table."""
    table = endpoints(state)
    routes = [Route(e.path, _handler(e, state), methods=[e.method]) for e in table]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_problem})
    app.router.redirect_slashes = False
    return Guard(app, entrance), table


def _handler(endpoint: Endpoint, state: AppState) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        try:
            person = _person(request, state)
            if person is None and (endpoint.changes or not (endpoint.open or _is_free(request, state))):
                raise Refused(401, "this needs the station's token; sign in", {"www-authenticate": "Bearer"})
            body = None if endpoint.body is None else await _body(request, endpoint.body)
            return await endpoint.handler(Call(request, person, body))
        except Refused as refused:
            return problem(refused.status, str(refused), refused.headers)
        except TooManyGuesses as error:
            return problem(429, str(error), {"retry-after": str(int(error.seconds) + 1)})
        except Busy as error:
            return problem(503, str(error), {"retry-after": "1"})
        except Exception:  # a fault of ours: said in the log, without a word of it to the caller
            log.exception("web page: %s %s failed", endpoint.method, endpoint.path)
            return problem(500, "the page failed; the station's log says how")

    return handle


def _is_free(request: Request, state: AppState) -> bool:
    """Whether looking needs no token: on this machine, through no proxy."""
    return state.door.viewing_is_free and visitor_of(request.scope).near


def _person(request: Request, state: AppState) -> Person | None:
    """Who asks, by the bearer token where one is given, else by the cookie."""
    scheme, _, word = request.headers.get("authorization", "").partition(" ")
    bearer = word.strip()[:LONGEST_TOKEN] if scheme.lower() == "bearer" else None
    address = visitor_of(request.scope).address
    name = request.headers.get("x-operator", "")
    person = state.door.person(bearer, request.cookies.get(state.cookie), name, address)
    if bearer is not None and person is None:
        raise Refused(401, "that is not this station's token", {"www-authenticate": "Bearer"})
    return person


async def _body(request: Request, model: type[BaseModel]) -> BaseModel:
    """The checked body. JSON by its content type alone: a form of another site cannot send that."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the body must be application/json")
    try:
        return model.model_validate(json.loads(await request.body() or b"{}", object_pairs_hook=_once))
    except ValidationError as error:
        raise Refused(400, first_fault(error)) from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5000 digits, nested too deep
        raise Refused(400, "the body is no JSON") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; which of two values was meant is not guessed."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise Refused(400, "the body names a field twice")
    return fields


async def _http_problem(_: Request, error: Exception) -> Response:
    """Starlette's own: no such route, wrong method."""
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, dict(error.headers or {}))
