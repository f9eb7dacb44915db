"""Routes to sign in and out."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.web.answers import as_json
from dskd.runtime.web.app_state import AppState
from dskd.runtime.web.auth import SESSION_SECONDS, clean_name
from dskd.runtime.web.changes import Empty
from dskd.runtime.web.endpoint import Call, Endpoint, Refused
from dskd.runtime.web.visitor import visitor_of

log = logging.getLogger(__name__)
WRONG_SECONDS = 0.3  # a wrong guess takes longer than a right one, whatever its first letters are


class SignIn(Strict):
    """The station's token, and the name that the audit log shall show."""

    token: Annotated[str, Field(max_length=256)]
    name: Annotated[str, Field(min_length=1, max_length=80)]


class Session:
    """A cookie for the token."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        return [
            Endpoint("POST", "/api/sign-in", "a session cookie for the token", self.sign_in, open=True, body=SignIn),
            Endpoint(
                "POST",
                "/api/sign-in-link",
                "a link that signs in once, within ten minutes; for the token itself alone",
                self.link,
                changes=True,
                body=Empty,
            ),
            Endpoint("POST", "/api/sign-out", "ends the session", self.sign_out, open=True, body=Empty),
        ]

    async def sign_in(self, call: Call) -> Response:
        """The cookie is out of reach for scripts and is not sent by other sites' pages."""
        visitor = visitor_of(call.request.scope)
        session = self._state.door.sign_in(call.body.token, call.body.name, visitor.address)
        if session is None:
            await asyncio.sleep(WRONG_SECONDS)
            raise Refused(401, "that is not this station's token")
        answer = as_json({"person": clean_name(call.body.name)})
        answer.set_cookie(
            self._state.cookie, session, max_age=int(SESSION_SECONDS), httponly=True, samesite="strict", path="/",
            secure=visitor.secure,
        )  # fmt: skip
        return answer

    async def link(self, call: Call) -> Response:
        """Not for a session: it would never end."""
        if not call.request.headers.get("authorization", "").lower().startswith("bearer "):
            raise Refused(403, "this needs the station's token itself, as a bearer")
        log.info("web page: a sign-in link was made by %s", call.who)
        return as_json({"link": self._state.sign_in_link()})

    async def sign_out(self, call: Call) -> Response:
        """Forgets the session here and in the browser."""
        self._state.door.sign_out(call.request.cookies.get(self._state.cookie, ""))
        answer = as_json({"person": None})
        answer.delete_cookie(self._state.cookie, path="/", httponly=True, samesite="strict")
        return answer
