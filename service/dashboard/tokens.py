"""The tokens of a project, or of all: make one, which is shown once, and take others back."""

from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from nas_core.errors import InvalidValue
from service.callers import Caller
from service.dashboard.frame import ViewerDep, page
from service.dashboard.submit import FormDep
from service.domain.grants import NotAllowed, Role
from service.domain.request import Text
from service.store.logins import digest
from service.store.tokens import NameTaken
from service.use_cases import tokens
from service.web.context import CallerDep, Context, ContextDep
from service.web.problems import ProblemError

MOST_SHOWN = 500
FIELDS = ("name", "role", "project", "expires", "own")
router = APIRouter(include_in_schema=False)


@router.get("/tokens")
def tokens_page(
    request: Request, service: ContextDep, project: ViewerDep, caller: CallerDep, after: Text = ""
) -> Response:
    """The tokens, and a form for another."""
    return shown(request, service, caller, after=after)


@router.post("/tokens")
def make(request: Request, service: ContextDep, project: ViewerDep, caller: CallerDep, form: FormDep) -> Response:
    """Make a token and show it, this once.

    A session may be somebody else's who has sat down at a browser, and must not become a token that outlives it: so the
    form asks for the token that was signed in with.
    """
    filled = {field: form.get(field, [""])[0].strip() for field in FIELDS}
    try:
        confirm(request, service, caller, filled.pop("own"))
        if filled["role"] not in list(Role):
            raise InvalidValue("role", filled["role"], "no such role", ", ".join(Role))
        own, until = filled["project"] or None, filled["expires"] or None
        made = tokens.make(service, caller, filled["name"], Role(filled["role"]), own, until)
    except InvalidValue as problem:
        return shown(request, service, caller, 422, filled, problem)
    except NameTaken:
        taken = InvalidValue("name", filled["name"], "there is a token of that name", "another name")
        return shown(request, service, caller, 409, filled, taken)
    return shown(request, service, caller, 200, made=made["name"], secret=made["token"])


@router.post("/tokens/{name}/revoke")
def revoke(service: ContextDep, project: ViewerDep, caller: CallerDep, name: Text) -> Response:
    """Take a token back."""
    tokens.revoke(service, caller, name)
    return RedirectResponse("/tokens", 303)


def confirm(request: Request, service: Context, caller: Caller, token: str) -> None:
    """Raise `InvalidValue` unless `token` is the one that is used, and `ProblemError` 429 after too many guesses."""
    address = request.client.host if request.client else ""
    if caller.key is None:
        return
    if caller.grant.person:
        raise NotAllowed(f"{caller.name} has signed on without a token: sign in with an admin's to make another.")
    if seconds := service.callers.guesses.wait(address):
        told = f"Too many wrong tokens came from your address. Try again in {seconds} seconds."
        raise ProblemError(429, "Too many wrong tokens", told, {"Retry-After": str(seconds)})
    if digest(token) != caller.key:
        service.access.refused(token, "token", address)
        raise InvalidValue("own", "…", "not the token that you have signed in with", "that token")


def shown(
    request: Request,
    service: Context,
    caller: Caller,
    code: int = 200,
    filled: Mapping[str, str] | None = None,
    problem: InvalidValue | None = None,
    made: str = "",
    secret: str = "",
    after: str = "",
) -> Response:
    """The page. Raises `NotAllowed`."""
    found = tokens.browse(service, caller, MOST_SHOWN, after)
    return page(
        "tokens.html",
        request,
        code,
        tokens=found["items"],
        next=found["next"],
        filled=dict.fromkeys(FIELDS, "") | {"role": Role.SUBMIT.value, "expires": "90d"} | dict(filled or {}),
        problem=problem,
        roles=[role.value for role in Role],
        own=caller.project,
        confirmed=caller.key is not None,
        person=caller.grant.person,
        made=made,
        secret=secret,
    )
