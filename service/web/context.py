"""What the resources need of the service, and who may ask."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request

from service.callers import Caller
from service.domain.grants import Role
from service.domain.request import Text
from service.use_cases.service import Service
from service.web.doors import SAFE
from service.web.limits import Streams
from service.web.problems import ProblemError
from service.web.turns import Checks

T = TypeVar("T")


@dataclass(frozen=True)
class Context(Service):
    """The parts of a running service, and what requests over HTTP are held to."""

    checks: Checks
    """Whose turn it is to have a request checked."""
    streams: Streams
    """The streams of events that are open."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the service is about to stop: open streams end then."""


def context(request: Request) -> Context:
    """The service that answers `request`."""
    found = request.app.state.context
    assert isinstance(found, Context)
    return found


def caller(request: Request) -> Caller:
    """The caller. Raises `ProblemError` 401 where the token or the session is missing, wrong or expired."""
    found = request.state.caller
    if found is None:
        raise ProblemError(
            401, "Not authorised", "Send a valid token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
        )
    assert isinstance(found, Caller)
    return found


def authorised(request: Request) -> str | None:
    """The project that the caller is confined to; None for all.

    Raises `ProblemError`: 401 where nobody is known to ask, 403 where they want to change something and may only read.
    """
    asking = caller(request)
    if asking.role == Role.READ and request.method not in SAFE:
        raise ProblemError(403, "Read only", f"{asking.grant.whose} may read, but not change anything.")
    return asking.project


def steered(request: Request, submitted_by: str | None) -> None:
    """Refuse (403) to steer what others have submitted with a token that is only for its own."""
    asking = caller(request)
    if asking.role == Role.SUBMIT and request.method not in SAFE and submitted_by != asking.name:
        own = "they have submitted" if asking.grant.person else "was submitted with it"
        told = f"{asking.grant.whose} may only change what {own}; this was submitted by {submitted_by}."
        raise ProblemError(403, "Not allowed", told)


def at_once(ask: Callable[[Request], T]) -> Callable[[Request], Awaitable[T]]:
    """`ask` as a dependency that needs no thread: to wait for one takes longer than to look something up."""

    async def asked(request: Request) -> T:
        return ask(request)

    return asked


Words = Annotated[Text, Query(alias="q", max_length=200, description="Part of the name, the ID or the dataset.")]
"""What a list is narrowed to."""
ContextDep = Annotated[Context, Depends(at_once(context))]
CallerDep = Annotated[Caller, Depends(at_once(caller))]
ProjectDep = Annotated[str | None, Depends(at_once(authorised))]
"""The project that the caller is confined to; None for any."""
ReaderDep = Annotated[str | None, Depends(at_once(lambda request: caller(request).project))]
"""The same for a request that changes nothing, although its method is one that might."""
