"""Sessions of browsers, and the codes that begin them. Of each only a hash is kept.

Both belong to a token, which is known here by its hash alone: a token that is taken back ends them. Sessions of people
who have signed on with a provider have what is open to them beside it, since there is no token.
"""

import hashlib
import secrets
from contextlib import nullcontext
from dataclasses import dataclass

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from service.domain.grants import Grant, Role
from service.store.database import reading, writing
from service.store.models import Login, now

SESSION_SECONDS = 7 * 86400.0
"""How long a browser stays signed in."""
PERSON_SECONDS = 12 * 3600.0
"""How long somebody who has signed on does: who has left a group learns of it with the next sign-on."""
CODE_SECONDS = 3600.0
"""How long a code can be used, once."""


def digest(secret: str) -> str:
    """The SHA-256 of a secret in hexadecimal."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


@dataclass(frozen=True)
class Held:
    """A session: the hash of its token, or of somebody who has signed on, with what is open to them."""

    key: str
    grant: Grant | None


class Logins:
    """The sessions and codes in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def begin(self, token: str, code: bool = False, within: Session | None = None, person: Grant | None = None) -> str:
        """A new session, or a code for one, of the token with this hash; what has expired is forgotten.

        Where there is no token, `person` says what is open to whom, and the hash stands for that.
        """
        secret = secrets.token_urlsafe(32)
        seconds = CODE_SECONDS if code else SESSION_SECONDS if person is None else PERSON_SECONDS
        login = Login(id=digest(secret), token=token, code=code, expires_at=now() + seconds)
        if person is not None:
            login.project, login.role, login.name = person.project, person.role, person.name
        with writing(self.engine) if within is None else nullcontext(within) as session:
            session.execute(delete(Login).where(Login.expires_at < now()))
            session.add(login)
        return secret

    def of(self, secret: str) -> Held | None:
        """The session that a browser shows; None where it is none, or is over."""
        query = select(Login).where(Login.id == digest(secret), Login.code.is_(False), Login.expires_at > now())
        with reading(self.engine) as session:
            found = session.execute(query).scalar_one_or_none()
        if found is None:
            return None
        if found.project is None or found.role is None or found.name is None:
            return Held(found.token, None)
        grant = Grant(found.project, Role(found.role), found.name, found.expires_at, person=True)
        return Held(found.token, grant)

    def exchange(self, code: str) -> str | None:
        """The hash of the token that a code is of, which is used up; None where it is none, or has expired."""
        query = delete(Login).where(Login.id == digest(code), Login.code.is_(True), Login.expires_at > now())
        with writing(self.engine) as session:
            return session.execute(query.returning(Login.token)).scalar_one_or_none()

    def end(self, secret: str, within: Session) -> None:
        """End a session."""
        within.execute(delete(Login).where(Login.id == digest(secret)))
