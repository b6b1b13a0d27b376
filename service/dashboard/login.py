"""Signing in and out, where the service asks for tokens."""

from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from service.api.context import ContextDep
from service.api.tokens import COOKIE, project_of
from service.dashboard.frame import page

router = APIRouter(include_in_schema=False)


@router.get("/login")
def login_page(request: Request, service: ContextDep, next: str = "/searches") -> Response:
    """Where a token is asked for."""
    if not service.settings.tokens:
        return RedirectResponse("/searches", 303)
    return page("login.html", request, next=local(next), wrong=False)


@router.post("/login")
async def login(request: Request, service: ContextDep) -> Response:
    """Exchange a token for a cookie that no script can read and no other site can use."""
    form = parse_qs((await request.body()).decode(errors="replace"))
    token, back = form.get("token", [""])[0].strip(), local(form.get("next", [""])[0])
    if project_of(service.settings, token) is None:
        return page("login.html", request, 401, next=back, wrong=True)
    response = RedirectResponse(back, 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/logout")
def logout() -> Response:
    """Forget the token."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def local(path: str) -> str:
    """`path` if it is one of this site's, otherwise the list's."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/searches"
