"""Tokens: made, shown once, listed and taken back by those who may do everything in a project, or in all."""

import math
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from service.api.callers import bearer
from service.api.context import CallerDep, ContextDep
from service.api.idempotency import KeyDep, once
from service.api.problems import Problem, ProblemError
from service.api.searches import PROBLEMS, UNKNOWN
from service.api.views import iso
from service.domain.grants import Role
from service.domain.request import Text
from service.store.database import writing
from service.store.idempotency import Answer
from service.store.models import Token

router = APIRouter(prefix="/api/v1", tags=["tokens"], responses=PROBLEMS)
FORBIDDEN: dict[int | str, dict[str, Any]] = {
    403: {"model": Problem, "description": "The caller's token opens less, or the caller is a browser's session."}
}
TAKEN: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "There is a token of that name."}}


class CallerView(BaseModel):
    """Who asks, as events name them, and what their token opens."""

    name: str
    project: str
    """`*` for all."""
    role: str
    expires_at: str | None


class TokenView(BaseModel):
    """A token, without what is sent for it."""

    name: str
    project: str
    """`*` for all."""
    role: str
    created_by: str | None
    created_at: str
    expires_at: str | None
    """None where it never ends."""
    last_used_at: str | None
    """To about a minute; None where it was not used yet."""


class MadeToken(TokenView):
    """A token that was just made."""

    token: str
    """What is to be sent as `Authorization: Bearer …`; it is told here and nowhere again."""


class TokenPage(BaseModel):
    """A page of tokens, by name; `next` asks for the following one, as `after`."""

    items: list[TokenView]
    next: str | None


class NewToken(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text = Field(description="The name of its user in events and the audit log; unique among tokens.")
    role: Annotated[Role, Field(strict=False)] = Field(description="What may be done with it.")
    project: Text | None = Field(None, description="By default the caller's own; `*` for all projects.")
    expires: Text | None = Field(
        None,
        description="How long it holds (12h, 90d, 1y), or its last day or its end (ISO 8601); by default as "
        "long as the caller's own.",
    )


@router.get("/me")
def who(caller: CallerDep) -> CallerView:
    """Who asks."""
    grant, ends = caller.grant, math.isfinite(caller.grant.expires_at)
    expires_at = iso(grant.expires_at) if ends else None
    return CallerView(name=grant.name, project=grant.project, role=grant.role, expires_at=expires_at)


@router.post("/tokens", status_code=201, responses=FORBIDDEN | TAKEN)
def make(request: Request, wanted: NewToken, service: ContextDep, caller: CallerDep) -> MadeToken:
    """Make a token that opens no more than the caller's own.

    It is in this answer alone. So no `Idempotency-Key` can have the answer given again: where it was lost, revoke the
    token and make another.
    """
    if caller.key is not None and bearer(request) is None:
        raise ProblemError(403, "Not for sessions", "Ask with the token itself: Authorization: Bearer ….")
    with writing(service.searches.engine) as session:
        made, secret = service.access.make(caller, wanted.name, wanted.role, wanted.project, wanted.expires, session)
    return MadeToken(**view(made).model_dump(), token=secret)


@router.get("/tokens", responses=FORBIDDEN)
def browse(
    service: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Text = "",
    project: Text | None = None,
) -> TokenPage:
    """Tokens that were made here, by name, a page at a time; those of `YOSO_TOKENS` are not among them."""
    found = service.access.page(caller, limit + 1, after, project)
    shown = found[:limit]
    return TokenPage(items=[view(token) for token in shown], next=shown[-1].name if len(found) > limit else None)


@router.delete("/tokens/{name}", response_model=TokenView, responses=FORBIDDEN | UNKNOWN)
def revoke(name: Text, service: ContextDep, caller: CallerDep, key: KeyDep) -> Response:
    """Take a token back, at once here and within five seconds on other replicas; its sessions end with it."""
    revoked: list[str] = []

    def do(session: Session) -> Answer:
        token = service.access.revoke(caller, name, session)
        revoked.append(token.digest)
        return Answer(200, view(token).model_dump(mode="json"))

    answer = once(service, key, do)
    for one in revoked:
        service.callers.forget(one)
    return answer


def view(token: Token) -> TokenView:
    """What the API says of a token."""
    expires_at, used = token.expires_at, token.last_used_at
    return TokenView(
        name=token.name,
        project=token.project,
        role=token.role,
        created_by=token.created_by,
        created_at=iso(token.created_at),
        expires_at=iso(expires_at) if expires_at is not None else None,
        last_used_at=iso(used) if used is not None else None,
    )
