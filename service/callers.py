"""Who asks: the token or the session that they show, and what that opens."""

import itertools
import logging
import math
import threading
import time
from dataclasses import dataclass

from cachetools import TTLCache

from service.counts import Counts, Storage
from service.domain.grants import EVERY_PROJECT, Grant, Role
from service.settings import Settings
from service.store.logins import Logins, digest
from service.store.tokens import Tokens, is_token

log = logging.getLogger(__name__)
REMEMBERED_SECONDS = 5.0
"""How long a token or a session is believed without asking the database: so long it lasts on another replica than the
one that it was revoked, or signed out of, on."""
MOST_GUESSES, GUESS_SECONDS = 10, 60
"""How many wrong tokens an address may send in how long."""
MOST_NOTED = 60
"""How many of all addresses the audit log is told of in that time."""


@dataclass(frozen=True)
class Caller:
    """Who asks: what their token opens, and `key`, its hash; None where the service asks for none."""

    grant: Grant
    key: str | None

    @property
    def project(self) -> str | None:
        """The project that they are confined to; None for no project."""
        return self.grant.confined_to

    @property
    def role(self) -> Role:
        """What they may do there."""
        return self.grant.role

    @property
    def name(self) -> str:
        """Their name in events."""
        return self.grant.name

    @property
    def own(self) -> bool:
        """Whether they are the user of the service's machine."""
        return self.grant.own


def grant_for_own_user() -> Grant:
    """What the token opens that the service makes for this machine's user."""
    return Grant(EVERY_PROJECT, Role.ADMIN, "local", own=True)


ANYBODY = Caller(grant_for_own_user(), None)
"""Whoever asks a service that has no tokens."""


class Callers:
    """The tokens of the settings and of the database, and the sessions that browsers have exchanged them for, or that
    people have signed on to."""

    def __init__(self, settings: Settings, logins: Logins, tokens: Tokens) -> None:
        self.logins, self.tokens = logins, tokens
        self.cookie = f"yoso_{settings.port}"
        """The name of a session's cookie. Cookies of an address go to all its ports, so that it names this one."""
        self.counts = Counts(settings.rate_storage)
        self.guesses = Guesses(self.counts)
        self.names = frozenset({ANYBODY.name, *(grant.name for grant in settings.tokens.values())})
        """Those that no token of the database may have."""
        self._set = {digest(token): grant for token, grant in settings.tokens.items()}
        self._guarded, self._sign_on = settings.guarded, settings.sign_on
        self._lock = threading.Lock()
        self._made = TTLCache[str, Grant](10_000, REMEMBERED_SECONDS)
        self._sessions = TTLCache[str, str](10_000, REMEMBERED_SECONDS)

    def at_once(self, token: str | None, session: str) -> Caller | None:
        """Who shows that token, else that session, as far as that is known without asking the database."""
        if not self._guarded:
            return ANYBODY
        if token is not None:
            return self._known(digest(token))
        with self._lock:
            key = self._sessions.get(session)
        return self._known(key) if key is not None else None

    def asked(self, token: str | None, session: str) -> Caller | None:
        """The same, from the database."""
        if token is not None:
            return self.of_token(token)
        held = self.logins.of(session) if session else None
        if held is None:
            return None
        if held.grant is None:
            with self._lock:
                self._sessions[session] = held.key
            return self.of_key(held.key)
        if self._sign_on is None or not self._sign_on.gives(held.grant):
            return None  # the settings are others now than when they signed on
        with self._lock:
            self._sessions[session] = held.key
            self._made[held.key] = held.grant
        return self._known(held.key)

    def of_token(self, token: str) -> Caller | None:
        """Who has that token, from the database if need be; None where nobody has, or it has expired."""
        key = digest(token)
        return self.of_key(key) if is_token(token) else self._known(key)

    def of_key(self, key: str) -> Caller | None:
        """The same of the token with that hash."""
        if key not in self._set:
            grant = self.tokens.grant_of(key)
            with self._lock:
                if grant is None:
                    self._made.pop(key, None)
                else:
                    self._made[key] = grant
        return self._known(key)

    def expired(self, key: str) -> Grant | None:
        """What the token with that hash has opened, where `of_key` has just found that it has expired."""
        with self._lock:
            return self._set.get(key) or self._made.get(key)

    def forget(self, key: str = "", session: str = "") -> None:
        """Believe in a token's hash, or a session, no longer; other replicas do for `REMEMBERED_SECONDS` at most."""
        with self._lock:
            self._made.pop(key, None)
            self._sessions.pop(session, None)

    def _known(self, key: str) -> Caller | None:
        with self._lock:
            grant = self._set.get(key) or self._made.get(key)
        return Caller(grant, key) if grant is not None and grant.expires_at > time.time() else None


class Guesses:
    """Wrong tokens by address: after `MOST_GUESSES` in `GUESS_SECONDS` the address has to wait for the rest of them.

    `counts` has them, and may be a Redis: not for the event loop.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._noted = TTLCache[int, None](MOST_NOTED, GUESS_SECONDS, timer=time.time)
        self._numbers = itertools.count()

    def failed(self, address: str, why: str = "a wrong token") -> int:
        """Count a wrong token, or what else was refused, and log it; returns the count where it is to be in the audit
        log, else 0.

        That has the first of an address and the one after which it has to wait, and `MOST_NOTED` in `GUESS_SECONDS` of
        one process: whoever has many addresses could fill the database.
        """
        count = self._counts.use(lambda storage: storage.incr(f"guesses/{address}", GUESS_SECONDS))
        if count <= MOST_GUESSES:
            log.warning("sign-in failed from %s: %s (%d within %g s)", address, why, count, GUESS_SECONDS)
        if count == MOST_GUESSES:
            log.warning("sign-ins from %s are refused for %g s", address, GUESS_SECONDS)
        if count not in (1, MOST_GUESSES) or len(self._noted) >= MOST_NOTED:
            return 0
        self._noted[next(self._numbers)] = None
        return count

    def wait(self, address: str) -> int:
        """How many seconds the address has to wait before it may try again; 0 where it may."""
        return self._counts.use(lambda storage: left(f"guesses/{address}", storage))


def left(key: str, storage: Storage) -> int:
    """For how many seconds as many guesses are counted under `key` as there may be; 0 where there are fewer."""
    if storage.get(key) < MOST_GUESSES:
        return 0
    return max(1, math.ceil(storage.get_expiry(key) - time.time()))
