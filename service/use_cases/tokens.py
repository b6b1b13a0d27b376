"""Tokens: made, shown once, listed and taken back by those who may do everything in a project, or in all."""

from sqlalchemy.orm import Session

from service import answers
from service.callers import Caller
from service.domain.grants import Role
from service.store.database import writing
from service.store.idempotency import Key
from service.use_cases.once import Done, once
from service.use_cases.service import Service
from service.use_cases.views import view_token


def make(
    service: Service, caller: Caller, name: str, role: Role, project: str | None, expires: str | None
) -> answers.MadeToken:
    """A new token that opens no more than the caller's own; what is to be sent for it is told this once.

    Raises `InvalidValue`, `NotAllowed` and `NameTaken`.
    """
    with writing(service.searches.engine) as session:
        made, secret = service.access.make(caller, name, role, project, expires, session)
    return answers.MadeToken(**view_token(made), token=secret)


def browse(
    service: Service, caller: Caller, limit: int, after: str = "", project: str | None = None
) -> answers.TokenPage:
    """At most `limit` tokens that were made here, by name, from behind `after`. Raises `NotAllowed`."""
    found = service.access.page(caller, limit + 1, after, project)
    shown = found[:limit]
    return answers.TokenPage(
        items=[view_token(token) for token in shown], next=shown[-1].name if len(found) > limit else None
    )


def revoke(service: Service, caller: Caller, name: str, key: Key | None = None) -> Done[answers.Token]:
    """Take a token back, at once here and within five seconds on other replicas; its sessions end with it.

    Raises `NotAllowed`, `UnknownToken`, `InvalidValue` and `KeyReused`.
    """
    revoked: list[str] = []

    def do(session: Session) -> answers.Token:
        token = service.access.revoke(caller, name, session)
        revoked.append(token.digest)
        return view_token(token)

    done = once(service, key, do)
    for one in revoked:
        service.callers.forget(one)
    return done
