"""Tokens that the service has made: each is shown once, to whoever asked for it, and kept as a hash.

The hash is a plain SHA-256, without salt or stretching. These make it slow to guess what people choose; a token is 256
random bits, which nobody can guess at any speed, and is looked up by its hash with every request.
"""

import logging
import math
import secrets
import zlib
from collections.abc import Sequence

from sqlalchemy import Engine, delete, or_, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.domain.grants import Grant, Role
from service.store import audit, changes
from service.store.audit import Action
from service.store.database import insert, reading, writing
from service.store.logins import digest
from service.store.models import Login, Token, now

log = logging.getLogger(__name__)
PREFIX = "yoso_"
"""What every token begins with, so that people and scanners of repositories know it where they see it."""
USED_SECONDS = 60.0
"""How exactly it is known when a token was last used: to note every request would make each of them a writer."""


class NameTaken(RuntimeError):
    """There is a token of that name."""


class UnknownToken(LookupError):
    """No token of that name, or not in the asker's project."""


def new_token() -> str:
    """A token: the prefix, 256 random bits and their CRC-32, in hexadecimal."""
    bits = secrets.token_hex(32)
    return f"{PREFIX}{bits}{zlib.crc32(bits.encode()):08x}"


def is_token(text: str) -> bool:
    """Whether `text` has the form of a token; the checksum tells so of what is mistyped, without the database."""
    bits, check = text[len(PREFIX) : -8], text[-8:]
    return text.startswith(PREFIX) and len(bits) == 64 and check == f"{zlib.crc32(bits.encode()):08x}"


class Tokens:
    """The tokens in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def make(self, grant: Grant, within: Session) -> tuple[Token, str]:
        """A new token that opens what `grant` says, and what is to be sent for it, which is kept nowhere.

        One of the same name that has expired makes room for it. Raises `NameTaken`.
        """
        expired = select(Token).where(Token.name == grant.name, Token.expires_at <= now())
        if (old := within.execute(expired).scalar_one_or_none()) is not None:
            _end(within, old)
        secret = new_token()
        values = {
            "name": grant.name,
            "digest": digest(secret),
            "project": grant.project,
            "role": grant.role,
            "created_by": changes.BY.get(),
            "created_at": changes.time_of(within),
            "expires_at": grant.expires_at if math.isfinite(grant.expires_at) else None,
        }
        made = within.execute(insert(within, Token).values(values).on_conflict_do_nothing().returning(Token))
        token = made.scalar_one_or_none()
        if token is None:
            raise NameTaken(grant.name)
        told = {"role": token.role, "expires_at": token.expires_at}
        audit.note(within, Action.TOKEN_MADE, token.project, f"token/{token.name}", told, token.created_at)
        return token, secret

    def revoke(self, name: str, project: str | None, within: Session) -> Token:
        """Take a token back, with the sessions that it has begun; one of `project`, or of any.

        Raises `UnknownToken`.
        """
        token = within.get(Token, name, with_for_update=True)
        if token is None or project not in (None, token.project):
            raise UnknownToken(name)
        _end(within, token)
        audit.note(within, Action.TOKEN_REVOKED, token.project, f"token/{token.name}")
        return token

    def page(self, limit: int, after: str = "", project: str | None = None) -> Sequence[Token]:
        """At most `limit` tokens behind the name `after`, by name; those of `project` or all."""
        query = select(Token).where(Token.name > after).order_by(Token.name).limit(limit)
        if project is not None:
            query = query.where(Token.project == project)
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def any(self) -> bool:
        """Whether there is one."""
        return bool(self.page(1))

    def grant_of(self, key: str) -> Grant | None:
        """What the token with this hash opens, which it is noted to have been used for; None where there is none."""
        with reading(self.engine) as session:
            found = session.execute(select(Token, now()).where(Token.digest == key)).one_or_none()
        if found is None:
            return None
        token, time = found
        expires_at = math.inf if token.expires_at is None else token.expires_at
        if expires_at > time and (token.last_used_at is None or token.last_used_at < time - USED_SECONDS):
            self._use(token.name, time)
        return Grant(token.project, Role(token.role), token.name, expires_at)

    def _use(self, name: str, time: float) -> None:
        # Again in the condition: of those who ask at the same moment only one need write.
        stale = or_(Token.last_used_at.is_(None), Token.last_used_at < time - USED_SECONDS)
        try:
            with writing(self.engine) as session:
                session.execute(update(Token).where(Token.name == name, stale).values(last_used_at=time))
        except OperationalError as error:  # a full or locked database can still be read, and so be asked
            log.warning("it cannot be noted that the token %s is used: %s", name, error.orig)


def _end(session: Session, token: Token) -> None:
    session.execute(delete(Login).where(Login.token == token.digest))
    session.delete(token)
    session.flush()
