"""Who may look and who may change: a bearer token or a session, and a limit on wrong guesses.

Viewing needs no sign-in where the page listens on loopback alone; everything else needs the token. A session is made by the
sign-in form, lives in memory, and comes as a cookie that scripts cannot read and other sites cannot send.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from hashlib import sha256

from dskd.runtime.web.token import Token

log = logging.getLogger(__name__)
SESSION_SECONDS = 12 * 3600.0  # one shift with some overtime
MOST_SESSIONS = 64
WRONG_GUESSES, GUESS_SECONDS = 5, 30.0  # per address: so many wrong tokens in that time, then a pause
MOST_ADDRESSES = 1024
ONE_TIME_SECONDS = 600.0  # that a sign-in link holds which was printed at start
LONGEST_NAME = 40
NOBODY = "somebody"


@dataclass(frozen=True)
class Person:
    """Who signed in, by the name they gave."""

    name: str
    expires: float


class TooManyGuesses(Exception):
    """Wrong tokens came too fast from one address. ``seconds`` until the next is listened to."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many wrong tokens; wait {seconds:.0f} seconds")
        self.seconds = seconds


class Guesses:
    """Counts wrong tokens per address. Bounded: the address heard of longest ago is forgotten first."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raises TooManyGuesses where ``address`` has to wait."""
        now = time.monotonic()
        with self._lock:
            times = self._wrong.get(address)
            while times and now - times[0] > GUESS_SECONDS:
                times.popleft()
            if times and len(times) >= WRONG_GUESSES:
                raise TooManyGuesses(max(1.0, GUESS_SECONDS - (now - times[0])))

    def wrong(self, address: str) -> None:
        """Notes one wrong token."""
        with self._lock:
            times = self._wrong.setdefault(address, deque(maxlen=WRONG_GUESSES))
            times.append(time.monotonic())
            self._wrong.move_to_end(address)
            if len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)


class Authenticator:
    """Tells by a request's bearer token or session cookie who it is from."""

    def __init__(self, token: Token, viewing_is_free: bool) -> None:
        self.viewing_is_free = viewing_is_free
        self._token = token
        self._guesses = Guesses()
        self._sessions: OrderedDict[str, Person] = OrderedDict()
        self._lock = threading.Lock()
        self._one_time: tuple[bytes, float] | None = None  # hash of a code, and when it ends

    def one_time_code(self) -> str:
        """A code that signs in once, within ten minutes; the one before it ends."""
        code = secrets.token_urlsafe(32)
        with self._lock:
            self._one_time = sha256(code.encode()).digest(), time.monotonic() + ONE_TIME_SECONDS
        return code

    def _takes_code(self, word: str) -> bool:
        with self._lock:
            if self._one_time is None or self._one_time[1] < time.monotonic():
                return False
            if not hmac.compare_digest(sha256(word.encode(errors="replace")).digest(), self._one_time[0]):
                return False
            self._one_time = None
            return True

    def sign_in(self, word: str, name: str, address: str) -> str | None:
        """A new session's secret, None where ``word`` is neither the token nor a code. Raises TooManyGuesses."""
        if not self._takes_code(word) and not self._knows(word, address):
            return None
        session = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[session] = Person(clean_name(name), time.monotonic() + SESSION_SECONDS)
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return session

    def sign_out(self, session: str) -> None:
        """Ends a session."""
        with self._lock:
            self._sessions.pop(session, None)

    def person(self, bearer: str | None, session: str | None, name: str, address: str) -> Person | None:
        """Who asks; None for nobody known. Raises TooManyGuesses where a wrong bearer token came too often."""
        if bearer is not None:
            known = self._knows(bearer, address)
            return Person(clean_name(name or "api"), time.monotonic() + SESSION_SECONDS) if known else None
        with self._lock:
            person = self._sessions.get(session or "")
            if person and person.expires < time.monotonic():
                del self._sessions[session or ""]
                return None
            return person

    def _knows(self, word: str, address: str) -> bool:
        self._guesses.check(address)
        if self._token.matches(word):
            return True
        self._guesses.wrong(address)
        log.warning("web page: a wrong token from %s", address or "this machine")
        return False


def clean_name(name: str) -> str:
    """A name as it may stand in the audit log: printable, on one line, short."""
    joined = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return joined[:LONGEST_NAME].strip() or NOBODY
