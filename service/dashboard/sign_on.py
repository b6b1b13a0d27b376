"""Signing on with a provider of OpenID Connect, by its authorization code with PKCE.

State, nonce and verifier are made and checked by Authlib. While somebody is at the provider, their browser keeps them
in a signed cookie, so that any replica may go on, and nothing is stored for whoever only asks
(https://openid.net/specs/openid-connect-core-1_0.html, https://www.rfc-editor.org/rfc/rfc9700).
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any

import httpx2
from authlib.integrations.base_client.errors import MismatchingStateError
from authlib.integrations.starlette_client import OAuthError, StarletteIntegration, StarletteOAuth2App
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from itsdangerous import BadSignature, URLSafeTimedSerializer
from joserfc.errors import JoseError

from service.dashboard.frame import page
from service.dashboard.login import address_of, asked, is_secure, local, set_session, too_many
from service.dashboard.submit import FormDep
from service.domain.grants import EVERY_PROJECT, Grant, Role
from service.domain.sign_on import SignOn
from service.proxies import alone, on_this_machine
from service.web.below import path_above
from service.web.context import Context, ContextDep

log = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)
PATH = "/login/oidc"
AWAY_SECONDS = 600
"""How long somebody may stay at the provider, or think about which project."""
ASK_SECONDS = 10.0
"""How long the provider may take to answer the service."""


class Unsound(Exception):
    """What a provider said is not what a provider says; the text tells what is wrong with it."""


NOT_BELIEVED = (Unsound, OAuthError, JoseError, httpx2.InvalidURL, ValueError, KeyError, TypeError, RuntimeError)
"""What Authlib raises for answers that are wrong, or are no answers."""


def provider(sign_on: SignOn) -> StarletteOAuth2App:
    """Authlib's client of a provider, whose endpoints and keys it asks for when it needs them."""
    options = alone(sign_on.issuer) if on_this_machine(sign_on.issuer) else {}
    return StarletteOAuth2App(
        StarletteIntegration("oidc"),
        name="oidc",
        client_id=sign_on.client_id,
        client_secret=sign_on.client_secret,
        server_metadata_url=f"{sign_on.issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={"scope": sign_on.scopes, "code_challenge_method": "S256", "timeout": ASK_SECONDS, **options},
    )


@router.get(PATH)
async def begin(request: Request, service: ContextDep, next: str = "/searches") -> Response:
    """Lead to the provider."""
    sign_on, back = service.settings.sign_on, local(next)
    if sign_on is None:
        return RedirectResponse("/login", 303)
    request.scope["session"] = kept = dict[str, Any]()
    client = request.app.state.provider
    try:
        await checked_metadata(client, sign_on)
        answer: Response = await client.authorize_redirect(request, redirect_uri(request, service))
    except (httpx2.HTTPError, *NOT_BELIEVED) as error:
        return away(request, service, back, error)
    keep(answer, request, service, "state", {"session": kept, "next": back}, "lax")
    answer.headers["Cache-Control"] = "no-store"
    return answer


@router.get(f"{PATH}/callback")
async def callback(request: Request, service: ContextDep) -> Response:
    """Where the provider leads back to: begin a session, or ask which project it is to be of."""
    sign_on = service.settings.sign_on
    if sign_on is None:
        return RedirectResponse("/login", 303)
    address = address_of(request)
    if seconds := await asyncio.to_thread(service.callers.guesses.wait, address):
        return too_many(request, service, "/searches", seconds)
    kept = what_was_kept(request, service, "state")
    claims: Mapping[str, Any] = {}
    back = kept["next"] if kept else "/searches"
    try:
        if kept is None:
            raise Unsound("no sign-on was started in this browser in the last ten minutes")
        request.scope["session"] = kept["session"]
        claims = await claims_of(request, request.app.state.provider, sign_on)
    except httpx2.HTTPError as error:
        return away(request, service, back, error)
    except NOT_BELIEVED as error:
        answer = await refuse(request, service, back, why(error), {}, address)
    else:
        grants = sign_on.opened(claims)
        if not grants:
            answer = await refuse(request, service, back, "no group with access", claims, address)
        elif len(grants) > 1:
            answer = page("projects.html", request, grants=grants, every=EVERY_PROJECT, name=sign_on.named(claims))
            person = {name: claims.get(name) for name in ("sub", "email", "email_verified")}
            opened = [(grant.project, grant.role) for grant in grants]
            keep(answer, request, service, "projects", {"person": person, "opened": opened, "next": back}, "strict")
        else:
            answer = await let_in(request, service, grants[0], claims, back)
    forget(answer, request, service, "state")
    return answer


@router.post(f"{PATH}/project")
async def choose(request: Request, service: ContextDep, form: FormDep) -> Response:
    """Begin a session of the one project, of those that are open, that somebody has chosen."""
    sign_on = service.settings.sign_on
    kept = what_was_kept(request, service, "projects")
    chosen = [one for one in (kept["opened"] if kept else []) if [one[0]] == form.get("project")]
    if sign_on is None or kept is None or not chosen:
        return RedirectResponse("/login", 303)
    grant = Grant(chosen[0][0], Role(chosen[0][1]))
    answer = await let_in(request, service, grant, kept["person"], kept["next"])
    forget(answer, request, service, "projects")
    return answer


async def claims_of(request: Request, client: StarletteOAuth2App, sign_on: SignOn) -> Mapping[str, Any]:
    """What the provider says of whoever it sends back, from their ID token and what that leaves out.

    Raises `Unsound`, and what Authlib and httpx do, where it is not to be believed or there is no answer.
    """
    metadata = await checked_metadata(client, sign_on)
    expected = {
        "iss": {"essential": True, "values": [metadata["issuer"]]},
        "aud": {"essential": True, "value": sign_on.client_id},
    }
    token = await client.authorize_access_token(request, claims_options=expected)
    claims = dict(token.get("userinfo") or {}) if isinstance(token, dict) else {}
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise Unsound("the provider's answer has no ID token")
    if not {sign_on.claim, "email"} <= claims.keys() and "userinfo_endpoint" in metadata:
        more = await client.userinfo(token=token)
        if more.get("sub") != claims["sub"]:
            raise Unsound("the provider's userinfo is for another user")
        claims = {**more, **claims}
    return claims


async def checked_metadata(client: StarletteOAuth2App, sign_on: SignOn) -> Mapping[str, Any]:
    """The provider's description of itself. Raises `Unsound` where it is another's (OpenID Connect Discovery, 4.3)."""
    metadata: Mapping[str, Any] = await client.load_server_metadata()
    issuer = metadata.get("issuer")
    if not isinstance(issuer, str) or issuer.rstrip("/") != sign_on.issuer.rstrip("/"):
        client.server_metadata.clear()  # to be asked for again
        raise Unsound(f"the provider says that it is {str(issuer)[:200]!r}, and not YOSO_OIDC_ISSUER")
    return metadata


async def let_in(request: Request, service: Context, grant: Grant, claims: Mapping[str, Any], back: str) -> Response:
    """A session, and the page that was asked for.

    A page leads there, and not a redirect: a browser sends the session's cookie (SameSite=Strict) only with what one of
    the service's own pages asks for, and a redirect still is the provider's.
    """
    assert service.settings.sign_on is not None
    named = Grant(grant.project, grant.role, service.settings.sign_on.named(claims), person=True)
    address = address_of(request)
    session = await asyncio.to_thread(service.access.sign_on, named, claims, address)
    path = path_above(request)
    inside = back.removeprefix(path) if back.startswith(f"{path}/") else back
    answer = page("signed_on.html", request, name=named.name, whole=path + inside, inside=inside)
    set_session(answer, request, service, session)
    return answer


async def refuse(
    request: Request, service: Context, back: str, why: str, claims: Mapping[str, Any], address: str
) -> Response:
    """Tell somebody that they are not let in, and why."""
    assert service.settings.sign_on is not None
    await asyncio.to_thread(service.access.refused_to_sign_on, why, claims, address)
    if claims:
        name, at = service.settings.sign_on.named(claims), service.settings.sign_on.name
        told = f"{name} has signed on with {at}, but is in no group with access to a project."
        more = "The operator of this service grants access to groups (YOSO_OIDC_GRANTS)."
        return asked(request, service, back, 403, refused=f"{told} {more}")
    return asked(request, service, back, 401, refused=f"Signing on failed: {why}. Try again.")


def away(request: Request, service: Context, back: str, error: Exception) -> Response:
    """Tell somebody that the provider cannot be asked."""
    assert service.settings.sign_on is not None
    log.warning("the provider %s cannot be asked: %s", service.settings.sign_on.issuer, why(error))
    told = f"{service.settings.sign_on.name} does not answer as it should. Try again later, or sign in with a token."
    return asked(request, service, back, 503, refused=told)


def why(error: Exception) -> str:
    """What went wrong, in words that are neither a stranger's nor a secret."""
    if isinstance(error, Unsound):
        return str(error)
    if isinstance(error, MismatchingStateError):
        return "this is not the answer to this browser's sign-on"
    if isinstance(error, OAuthError):
        return f"the provider says {error.error}" if re.fullmatch(r"[a-z_]{1,40}", error.error or "") else "it failed"
    if isinstance(error, JoseError):
        return f"the ID token is refused ({type(error).__name__})"
    return type(error).__name__


def redirect_uri(request: Request, service: Context) -> str:
    """Where the provider is to lead back to: below the URL that users open, as the proxy in front tells of it."""
    return (service.settings.public_url or str(request.base_url).rstrip("/")) + f"{PATH}/callback"


def signer(service: Context, what: str) -> URLSafeTimedSerializer:
    """What signs that which a browser keeps."""
    assert service.settings.sign_on is not None
    return URLSafeTimedSerializer(service.settings.sign_on.client_secret, salt=f"yoso.sign-on.{what}")


def keep(answer: Response, request: Request, service: Context, what: str, value: Any, same_site: Any) -> None:
    """Have the browser keep `value` for a while, for these pages alone."""
    name, text = f"{service.callers.cookie}_{what}", signer(service, what).dumps(value)
    where = path_above(request) + PATH
    answer.set_cookie(
        name, text, AWAY_SECONDS, path=where, httponly=True, samesite=same_site, secure=is_secure(request, service)
    )


def what_was_kept(request: Request, service: Context, what: str) -> Any:
    """What the browser has kept, if it is what it was given, and not too old; else None."""
    if service.settings.sign_on is None:
        return None
    try:
        text = request.cookies.get(f"{service.callers.cookie}_{what}", "")
        return signer(service, what).loads(text, max_age=AWAY_SECONDS)
    except BadSignature:
        return None


def forget(answer: Response, request: Request, service: Context, what: str) -> None:
    """Have the browser keep it no longer."""
    answer.delete_cookie(f"{service.callers.cookie}_{what}", path=path_above(request) + PATH, httponly=True)
