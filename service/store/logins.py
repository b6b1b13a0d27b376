"""Sessions of browsers, and the codes that begin them. Of each only a hash is kept.

Both belong to a token, which is known here by its hash alone: a token that is taken back ends them.
"""

import hashlib
import secrets
from contextlib import nullcontext

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from service.store.database import reading, writing
from service.store.models import Login, now

SESSION_SECONDS = 7 * 86400.0
"""How long a browser stays signed in."""
CODE_SECONDS = 3600.0
"""How long a code can be used, once."""


def digest(secret: str) -> str:
    """The SHA-256 of a secret in hexadecimal."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


class Logins:
    """The sessions and codes in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def begin(self, token: str, code: bool = False, within: Session | None = None) -> str:
        """A new session, or a code for one, of the token with this hash; what has expired is forgotten."""
        secret = secrets.token_urlsafe(32)
        with writing(self.engine) if within is None else nullcontext(within) as session:
            session.execute(delete(Login).where(Login.expires_at < now()))
            seconds = CODE_SECONDS if code else SESSION_SECONDS
            session.add(Login(id=digest(secret), token=token, code=code, expires_at=now() + seconds))
        return secret

    def token_of(self, secret: str) -> str | None:
        """The hash of the token whose session this is; None where it is none, or is over."""
        query = select(Login.token).where(Login.id == digest(secret), Login.code.is_(False), Login.expires_at > now())
        with reading(self.engine) as session:
            return session.execute(query).scalar_one_or_none()

    def exchange(self, code: str) -> str | None:
        """The hash of the token that a code is of, which is used up; None where it is none, or has expired."""
        query = delete(Login).where(Login.id == digest(code), Login.code.is_(True), Login.expires_at > now())
        with writing(self.engine) as session:
            return session.execute(query.returning(Login.token)).scalar_one_or_none()

    def end(self, secret: str, within: Session) -> None:
        """End a session."""
        within.execute(delete(Login).where(Login.id == digest(secret)))
