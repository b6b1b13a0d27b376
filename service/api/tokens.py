"""Tokens: made, shown once, listed and taken back by those who may do everything in a project, or in all."""

import math
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service import answers
from service.domain.grants import Role
from service.domain.request import Text
from service.use_cases import tokens
from service.use_cases.views import iso
from service.web.context import CallerDep, ContextDep
from service.web.described import PROBLEMS, UNKNOWN, Responses, problem
from service.web.doors import bearer
from service.web.idempotency import KeyDep, done
from service.web.problems import ProblemError

router = APIRouter(prefix="/api/v1", tags=["tokens"], responses=PROBLEMS)
FORBIDDEN: Responses = {403: problem("The caller's token allows less, or the caller is a browser session.")}
TAKEN: Responses = {409: problem("There is already a token of this name.")}


class NewToken(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text = Field(description="The name in events and the audit log; unique among tokens.")
    role: Annotated[Role, Field(strict=False)] = Field(description="What the token allows.")
    project: Text | None = Field(None, description="Default: the caller's own; `*` for all projects.")
    expires: Text | None = Field(
        None,
        description="How long it is valid (12h, 90d, 1y), or its last day or its end (ISO 8601). Default: as long as "
        "the caller's own.",
    )


@router.get("/me")
def who(caller: CallerDep) -> answers.Me:
    """The caller."""
    grant, ends = caller.grant, math.isfinite(caller.grant.expires_at)
    expires_at = iso(grant.expires_at) if ends else None
    return answers.Me(name=grant.name, project=grant.project, role=grant.role, expires_at=expires_at)


@router.post("/tokens", status_code=201, responses=FORBIDDEN | TAKEN)
def make(request: Request, wanted: NewToken, service: ContextDep, caller: CallerDep) -> answers.MadeToken:
    """Create a token that allows no more than the caller's own.

    Only this answer contains it, and an `Idempotency-Key` cannot repeat the answer. If it was lost, revoke the token
    and create another.
    """
    if caller.key is not None and bearer(request) is None:
        raise ProblemError(403, "Not for sessions", "Ask with the token itself: Authorization: Bearer ….")
    return tokens.make(service, caller, wanted.name, wanted.role, wanted.project, wanted.expires)


@router.get("/tokens", responses=FORBIDDEN)
def browse(
    service: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Text = "",
    project: Text | None = None,
) -> answers.TokenPage:
    """Tokens by name, a page at a time, without those of `YOSO_TOKENS`."""
    return tokens.browse(service, caller, limit, after, project)


@router.delete("/tokens/{name}", response_model=answers.Token, responses=FORBIDDEN | UNKNOWN)
def revoke(name: Text, service: ContextDep, caller: CallerDep, key: KeyDep) -> Response:
    """Revoke a token and its sessions, at once here and within five seconds on other replicas."""
    return done(tokens.revoke(service, caller, name, key))
