"""The dashboard: pages for people, rendered on the server and kept live by server-sent events."""

from urllib.parse import urlencode

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

from service.dashboard import (
    cluster,
    compare,
    docs,
    login,
    logs,
    network,
    refusals,
    searches,
    sign_on,
    submit,
    sweeps,
    tokens,
    webhooks,
)
from service.dashboard.frame import STATIC, SignInNeededError, sharing

__all__ = ["add_dashboard"]


def add_dashboard(app: FastAPI) -> None:
    """Add the pages and their static files to the service."""
    app.state.shared = sharing()
    if (settings := app.state.context.settings).sign_on is not None:
        app.state.provider = sign_on.provider(settings.sign_on)
    app.add_api_route("/", home, include_in_schema=False)
    for pages in (searches, network, logs, sweeps, submit, cluster, tokens, webhooks, compare, login, sign_on, docs):
        app.include_router(pages.router)
    app.include_router(login.links)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    refusals.install(app)

    @app.exception_handler(SignInNeededError)
    def sign_in_first(request: Request, error: SignInNeededError) -> Response:
        if "hx-request" in request.headers:
            return Response(status_code=401, headers={"HX-Redirect": "/login"})
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?{urlencode({'next': back})}", 303)


def home() -> Response:
    """The searches."""
    return RedirectResponse("/searches", 307)
