"""Who asks: the token or the session that a request carries, and what that opens."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache
from starlette.requests import HTTPConnection

from service.domain.grants import EVERY_PROJECT, Grant, Role
from service.settings import Settings
from service.store.logins import Logins, digest

log = logging.getLogger(__name__)
REMEMBERED_SECONDS = 5.0
"""How long a session is believed without asking the database; signed out of by another replica it lasts so long."""
MOST_GUESSES, GUESS_SECONDS = 10, 60.0
"""How many wrong tokens an address may send in how long."""


@dataclass(frozen=True)
class Caller:
    """Who asks: the `project` that they are confined to (None: no project), their role, and their name in events.

    `key` is the hash of the token that they use; None where the service asks for none. `own` says that they are the
    user of the service's machine.
    """

    project: str | None
    role: Role
    name: str
    key: str | None
    own: bool = False


ANYBODY = Caller(None, Role.ADMIN, "local", None, own=True)
"""Whoever asks a service that has no tokens."""


class Tokens:
    """The tokens of the settings, and the sessions that browsers have exchanged them for."""

    def __init__(self, settings: Settings, logins: Logins) -> None:
        self.logins = logins
        self.cookie = f"yoso_{settings.port}"
        """The name of a session's cookie. Cookies of an address go to all its ports, so that it names this one."""
        self.guesses = Guesses()
        self._grants = {digest(token): grant for token, grant in settings.tokens.items()}
        self._sessions = TTLCache[str, str](10_000, REMEMBERED_SECONDS)

    def of_token(self, token: str) -> Caller | None:
        """Who has that token."""
        return self.of_key(digest(token))

    def of_key(self, key: str) -> Caller | None:
        """Who has the token with that hash; None where there is none, or it has expired."""
        grant = self._grants.get(key)
        if grant is None or grant.expires_at <= time.time():
            return None
        project = None if grant.project == EVERY_PROJECT else grant.project
        return Caller(project, grant.role, grant.name, key, grant.own)

    def session_of(self, request: HTTPConnection) -> str:
        """The session that a browser's request carries; empty where it has none."""
        return request.cookies.get(self.cookie, "")

    def at_once(self, request: HTTPConnection) -> Caller | None:
        """Who asks, as far as that is known without asking the database."""
        if not self._grants:
            return ANYBODY
        if (token := bearer(request)) is not None:
            return self.of_token(token)
        key = self._sessions.get(self.session_of(request))
        return self.of_key(key) if key is not None else None

    async def of_session(self, request: HTTPConnection) -> Caller | None:
        """Who asks in a browser, from the database."""
        session = self.session_of(request)
        key = await asyncio.to_thread(self.logins.token_of, session)
        if key is None:
            return None
        self._sessions[session] = key
        return self.of_key(key)

    def sign_out(self, session: str) -> None:
        """End a session."""
        self.logins.end(session)
        self._sessions.pop(session, None)


class Guesses:
    """Wrong tokens by address: after `MOST_GUESSES` in `GUESS_SECONDS` the address has to wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._failed = TTLCache[str, int](10_000, GUESS_SECONDS, timer=clock)

    def failed(self, address: str) -> None:
        """Count a wrong token, and log it."""
        count = self._failed.get(address, 0) + 1
        self._failed[address] = count
        if count <= MOST_GUESSES:
            log.warning("sign-in failed from %s: a wrong token (%d within %g s)", address, count, GUESS_SECONDS)
        if count == MOST_GUESSES:
            log.warning("sign-ins from %s are refused for %g s", address, GUESS_SECONDS)

    def wait(self, address: str) -> int:
        """How many seconds the address has to wait before it may try again; 0 where it may."""
        return math.ceil(GUESS_SECONDS) if self._failed.get(address, 0) >= MOST_GUESSES else 0


def bearer(request: HTTPConnection) -> str | None:
    """The bearer token that a request carries, if it does."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def grant_for_own_user() -> Grant:
    """What the token opens that the service makes for this machine's user."""
    return Grant(EVERY_PROJECT, Role.ADMIN, "local", own=True)
