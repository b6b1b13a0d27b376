"""Signing in and out, where the service asks for tokens."""

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from service.api.below import path_above
from service.api.callers import Caller, Callers, bearer
from service.api.context import CallerDep, ContextDep
from service.api.problems import ProblemError
from service.api.searches import PROBLEMS
from service.dashboard.frame import page
from service.store.logins import CODE_SECONDS, SESSION_SECONDS

router = APIRouter(include_in_schema=False)
links = APIRouter(prefix="/api/v1/login-links", tags=["login"], responses=PROBLEMS)


class LoginLink(BaseModel):
    """A link that signs a browser in, once, within so many seconds."""

    url: str
    seconds: float


@links.post("", operation_id="login_link")
def link(request: Request, service: ContextDep, caller: CallerDep, next: str = "/searches") -> LoginLink:
    """A link that signs a browser in with the caller's own token. Its code is behind the #, which no log ever sees."""
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
    if not service.settings.tokens:
        return RedirectResponse("/searches", 303)
    return asked(request, service.settings.tokens, local(next))


@router.post("/login")
async def login(request: Request, service: ContextDep) -> Response:
    """Exchange a token, or a code, for a cookie that no script can read and no other site can use."""
    form = parse_qs((await request.body()).decode(errors="replace"))
    back, callers = local(form.get("next", [""])[0]), service.callers
    address = request.client.host if request.client else ""
    if seconds := callers.guesses.wait(address):
        told = f"Too many wrong tokens came from your address. Try again in {seconds} seconds."
        answer = asked(request, service.settings.tokens, back, told, 429)
        answer.headers["Retry-After"] = str(seconds)
        return answer
    caller, wrong = await signed_in(callers, form)
    code = sent(form, "code")
    how = "link" if code else "token"
    if caller is None or caller.key is None:
        await asyncio.to_thread(service.access.refused, code or sent(form, "token"), how, address)
        return asked(request, service.settings.tokens, back, wrong, 401)
    response = RedirectResponse(back, 303)
    session = await asyncio.to_thread(service.access.sign_in, caller, caller.key, how, address)
    secure = request.url.scheme == "https" or (service.settings.public_url or "").startswith("https:")
    where, seconds = path_above(request) or "/", int(SESSION_SECONDS)
    response.set_cookie(
        callers.cookie, session, max_age=seconds, path=where, httponly=True, samesite="strict", secure=secure
    )
    return response


async def signed_in(callers: Callers, form: dict[str, list[str]]) -> tuple[Caller | None, str]:
    """Who signs in, and what to say where that is nobody."""
    if code := sent(form, "code"):
        key = await asyncio.to_thread(callers.logins.exchange, code)
        told = "This link has been used, or is too old. `yoso login` prints another."
        return (await asyncio.to_thread(callers.of_key, key) if key is not None else None), told
    told = "No project has this token, or it has expired. Look for a missing or doubled character."
    return await asyncio.to_thread(callers.of_token, sent(form, "token")), told


def sent(form: dict[str, list[str]], field: str) -> str:
    """What a field of the form holds; empty where it is not there."""
    return form.get(field, [""])[0].strip()


def asked(request: Request, tokens: Any, back: str, wrong: str = "", code: int = 200) -> Response:
    """The page that asks for a token."""
    return page("login.html", request, code, next=back, wrong=wrong, own=all(one.own for one in tokens.values()))


@router.post("/logout")
async def logout(request: Request, service: ContextDep) -> Response:
    """End the session."""
    callers = service.callers
    await asyncio.to_thread(service.access.sign_out, request.state.caller, callers.session_of(request))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(callers.cookie, path=path_above(request) or "/", httponly=True, samesite="strict")
    return response


def local(path: str) -> str:
    """`path` if it is one of this site's, otherwise the list's."""
    good = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if good else "/searches"
