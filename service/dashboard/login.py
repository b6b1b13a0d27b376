"""Signing in and out, where the service asks for tokens."""

import asyncio
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from service.answers import LoginLink
from service.callers import Caller, Callers
from service.dashboard.frame import page
from service.store.logins import CODE_SECONDS, SESSION_SECONDS
from service.web.below import path_above
from service.web.context import CallerDep, Context, ContextDep
from service.web.described import PROBLEMS
from service.web.doors import bearer
from service.web.problems import ProblemError

router = APIRouter(include_in_schema=False)
links = APIRouter(prefix="/api/v1/login-links", tags=["login"], responses=PROBLEMS)


@links.post("", operation_id="login_link")
def link(request: Request, service: ContextDep, caller: CallerDep, next: str = "/searches") -> LoginLink:
    """A link that signs a browser in with the caller's token. Its code follows the #, so it is in no log."""
    if caller.key is not None and bearer(request) is None:
        raise ProblemError(403, "Not for sessions", "Ask with the token itself: Authorization: Bearer ….")
    base = service.settings.public_url or str(request.base_url).rstrip("/")
    if caller.key is None:
        return LoginLink(url=base + local(next), seconds=CODE_SECONDS)
    return LoginLink(url=login_url(base, service.callers, caller.key, next), seconds=CODE_SECONDS)


def login_url(base: str, callers: Callers, key: str, next: str = "/searches") -> str:
    """The URL that signs a browser in with the token whose hash is `key`, and then shows the page `next`."""
    return f"{base}/login?{urlencode({'next': local(next)})}#code={callers.logins.begin(key, code=True)}"


@router.get("/login")
def login_page(request: Request, service: ContextDep, next: str = "/searches") -> Response:
    """Where a token is asked for."""
    if not service.settings.guarded:
        return RedirectResponse("/searches", 303)
    return asked(request, service, local(next))


@router.post("/login")
async def login(request: Request, service: ContextDep) -> Response:
    """Exchange a token, or a code, for a cookie that no script can read and no other site can use."""
    form = parse_qs((await request.body()).decode(errors="replace"))
    back, callers, address = local(form.get("next", [""])[0]), service.callers, address_of(request)
    if seconds := await asyncio.to_thread(callers.guesses.wait, address):
        return too_many(request, service, back, seconds)
    caller, wrong = await signed_in(callers, form)
    code = sent(form, "code")
    how = "link" if code else "token"
    if caller is None or caller.key is None:
        await asyncio.to_thread(service.access.refused, code or sent(form, "token"), how, address)
        return asked(request, service, back, 401, wrong=wrong)
    response = RedirectResponse(back, 303)
    set_session(
        response, request, service, await asyncio.to_thread(service.access.sign_in, caller, caller.key, how, address)
    )
    return response


def address_of(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else ""


def set_session(response: Response, request: Request, service: Context, session: str) -> None:
    """Give a browser its session, in a cookie that no script can read and no other site can use."""
    where, seconds = path_above(request) or "/", int(SESSION_SECONDS)
    response.set_cookie(
        service.callers.cookie, session, seconds, path=where, httponly=True, samesite="strict",
        secure=is_secure(request, service),
    )  # fmt: skip


def is_secure(request: Request, service: Context) -> bool:
    """Whether a browser is to send a cookie by HTTPS alone."""
    return request.url.scheme == "https" or (service.settings.public_url or "").startswith("https:")


def too_many(request: Request, service: Context, back: str, seconds: int) -> Response:
    """The page for an address that has to wait."""
    told = f"Too many wrong tokens came from your address. Try again in {seconds} seconds."
    answer = asked(request, service, back, 429, wrong=told)
    answer.headers["Retry-After"] = str(seconds)
    return answer


async def signed_in(callers: Callers, form: dict[str, list[str]]) -> tuple[Caller | None, str]:
    """Who signs in, and what to say where that is nobody."""
    if code := sent(form, "code"):
        key = await asyncio.to_thread(callers.logins.exchange, code)
        told = "This link was used already or has expired. `yoso login` prints another."
        return (await asyncio.to_thread(callers.of_key, key) if key is not None else None), told
    told = "The token is unknown or has expired. Check for missing or repeated characters."
    return await asyncio.to_thread(callers.of_token, sent(form, "token")), told


def sent(form: dict[str, list[str]], field: str) -> str:
    """What a field of the form holds; empty where it is not there."""
    return form.get(field, [""])[0].strip()


def asked(
    request: Request, service: Context, back: str, code: int = 200, wrong: str = "", refused: str = ""
) -> Response:
    """The page that asks for a token, or leads to a provider; with what was `wrong` with a token, or is `refused`."""
    settings = service.settings
    return page(
        "login.html",
        request,
        code,
        next=back,
        wrong=wrong,
        refused=refused,
        provider=settings.sign_on.name if settings.sign_on is not None else None,
        query=urlencode({"next": back}),
        own=all(one.own for one in settings.tokens.values()),
    )


@router.post("/logout")
async def logout(request: Request, service: ContextDep) -> Response:
    """End the session."""
    callers = service.callers
    await asyncio.to_thread(service.access.sign_out, request.state.caller, request.cookies.get(callers.cookie, ""))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(callers.cookie, path=path_above(request) or "/", httponly=True, samesite="strict")
    return response


def local(path: str) -> str:
    """`path` if it is one of this site's, otherwise the list's."""
    good = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if good else "/searches"
