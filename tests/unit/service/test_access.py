"""Who may do what: every route is tried with every kind of token, and docs/access.md has what came of it.

Neither can drift from the other: a route that is new, or that lets in somebody else than the page says, fails here.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import delete, update

from service.domain.grants import EVERY_PROJECT, Grant, Role
from service.domain.lifecycle import Status
from service.domain.receivers import ENDS
from service.folders.runs import driver_log
from service.store import changes
from service.store.database import writing
from service.store.models import Search, Token, Webhook
from tests import seeding

PAGE = Path(__file__).parents[3] / "docs" / "access.md"
SET = {
    "the-operators-token": "*:admin:root",
    "who-administers-audio": "audio:admin:bob",
    "who-had-it-until-then": "vision:admin:old@2020-01-31",
}
GRANTS = {
    "read": Grant("vision", Role.READ, "reader"),
    "submit": Grant("vision", Role.SUBMIT, "ci"),
    "admin": Grant("vision", Role.ADMIN, "ann"),
    "`*` read": Grant(EVERY_PROJECT, Role.READ, "prometheus"),
    "`*` submit": Grant(EVERY_PROJECT, Role.SUBMIT, "robot"),
    "`*` admin": Grant(EVERY_PROJECT, Role.ADMIN, "operator"),
}
NOBODY, ELSEWHERE = "nobody", "another project"


@dataclass
class World:
    """A service with everything that routes ask for, and the tokens of those who ask."""

    app: FastAPI
    tokens: dict[str, str]
    """By column of the table."""
    worthless: dict[str, str]
    """Tokens that open nothing, by what they are."""
    done: str = ""
    """A search of the project vision that has succeeded."""
    snapshot: int = 0
    sweep: str = ""
    made: int = 0
    names: dict[str, str] = field(default_factory=dict)
    """The names in events of those who ask, by column."""

    def search(self, by: str, ended: bool = False) -> str:
        """A new search of the project vision that was submitted by the token of that name."""
        before = changes.BY.set(by)
        made = seeding.queue(self.app, project="vision")
        changes.BY.reset(before)
        if ended:
            seeding.change(self.app, made, status=Status.FAILED, ended_at=1.0)
        return made

    def swept(self, by: str) -> str:
        """A new sweep, likewise, whose only search has succeeded."""
        before = changes.BY.set(by)
        made = seeding.sweep(self.app, project="vision", budgets=["300k"], seeds=[0])
        changes.BY.reset(before)
        with writing(seeding.parts(self.app).sweeps.engine) as session:
            session.execute(update(Search).where(Search.sweep_id == made).values(status=Status.SUCCEEDED))
        return made

    def name(self) -> str:
        """A name that nothing has."""
        self.made += 1
        return f"made-{self.made}"

    def token(self) -> str:
        """The name of a new token of the project vision."""
        grant = Grant("vision", Role.READ, self.name())
        with writing(seeding.parts(self.app).searches.engine) as session:
            return seeding.parts(self.app).callers.tokens.make(grant, session)[0].name

    def webhook(self) -> str:
        """The id of the project vision's only webhook, a new one."""
        store = seeding.parts(self.app).webhooks.store
        with writing(store.engine) as session:
            session.execute(delete(Webhook))
            return store.make("vision", "https://93.184.216.34/yoso", "93.184.216.34", ENDS, session).id


Sent = tuple[str, dict[str, Any]]
"""A path, and what goes with it."""
SEARCH = {"dataset": "digits", "budgets": ["300k"], "project": "vision"}
STEERED: dict[str, Callable[[World, str], Sent]] = {
    **{
        f"POST /api/v1/searches/{{search_id}}/{how}": lambda w, by, how=how: (  # type: ignore[misc]
            f"/api/v1/searches/{w.search(by, how == 'retry')}/{how}",
            {},
        )
        for how in ("cancel", "retry")
    },
    "DELETE /api/v1/searches/{search_id}": lambda w, by: (f"/api/v1/searches/{w.search(by, True)}", {}),
    "PATCH /api/v1/searches/{search_id}": lambda w, by: (
        f"/api/v1/searches/{w.search(by)}",
        {"json": {"tags": ["phone"]}},
    ),
    "POST /searches/{search_id}/describe": lambda w, by: (
        f"/searches/{w.search(by)}/describe",
        {"data": {"name": "x"}},
    ),
    "POST /searches/{search_id}/delete": lambda w, by: (f"/searches/{w.search(by, True)}/delete", {}),
    **{
        f"POST /api/v1/sweeps/{{sweep_id}}/{how}": lambda w, by, how=how: (  # type: ignore[misc]
            f"/api/v1/sweeps/{w.swept(by)}/{how}",
            {"json": {"baselines": ["random"]}} if how == "networks" else {},
        )
        for how in ("cancel", "pause", "resume", "retry", "networks")
    },
    "PATCH /api/v1/sweeps/{sweep_id}": lambda w, by: (f"/api/v1/sweeps/{w.swept(by)}", {"json": {"tags": ["phone"]}}),
    "POST /sweeps/{sweep_id}/describe": lambda w, by: (f"/sweeps/{w.swept(by)}/describe", {"data": {"tags": "phone"}}),
    "POST /sweeps/{sweep_id}/networks": lambda w, by: (
        f"/sweeps/{w.swept(by)}/networks",
        {"data": {"baselines": "random"}},
    ),
}
"""What changes something that was submitted: each is tried on what the asker's token submitted, and on another's."""
OTHERS: dict[str, Callable[[World, str], Sent]] = {
    "POST /api/v1/searches": lambda w, by: ("/api/v1/searches", {"json": SEARCH}),
    "POST /api/v1/sweeps": lambda w, by: (
        "/api/v1/sweeps",
        {"json": {"search": {"dataset": "digits"}, "budgets": ["300k"], "project": "vision"}},
    ),
    "POST /submit": lambda w, by: ("/submit", {"data": {**SEARCH, "budgets": "300k", "key": w.name()}}),
    "POST /fragments/submit": lambda w, by: ("/fragments/submit", {"data": {"dataset": "digits"}}),
    "POST /api/v1/datasets/inspect": lambda w, by: ("/api/v1/datasets/inspect", {"json": {"dataset": "digits"}}),
    "POST /api/v1/estimates": lambda w, by: (
        "/api/v1/estimates",
        {"json": {"dataset": "digits", "budgets": ["300k"]}},
    ),
    "GET /api/v1/datasets/contact-sheet": lambda w, by: ("/api/v1/datasets/contact-sheet?dataset=digits", {}),
    "PATCH /api/v1/projects/{name}": lambda w, by: ("/api/v1/projects/vision", {"json": {"weight": 2.0}}),
    "POST /api/v1/tokens": lambda w, by: (
        "/api/v1/tokens",
        {"json": {"name": w.name(), "role": "read", "project": "vision"}},
    ),
    "POST /tokens": lambda w, by: ("/tokens", {"data": {"name": w.name(), "role": "read", "project": "vision"}}),
    "POST /tokens/{name}/revoke": lambda w, by: (f"/tokens/{w.token()}/revoke", {}),
    "DELETE /api/v1/tokens/{name}": lambda w, by: (f"/api/v1/tokens/{w.token()}", {}),
    "POST /api/v1/webhooks": lambda w, by: (
        "/api/v1/webhooks",
        {"json": {"url": "https://93.184.216.34/yoso", "project": "vision"}},
    ),
    **{
        f"{method} /api/v1/webhooks/{{webhook_id}}{below}": lambda w, by, below=below: (  # type: ignore[misc]
            f"/api/v1/webhooks/{w.webhook()}{below}",
            {},
        )
        for method, below in (("DELETE", ""), ("POST", "/test"), ("GET", "/deliveries"))
    },
    "POST /webhooks": lambda w, by: (
        "/webhooks",
        {"data": {"url": "https://93.184.216.34/yoso", "project": "vision", "event": "failed"}},
    ),
    **{
        f"{method} /webhooks/{{webhook_id}}{below}": lambda w, by, below=below: (  # type: ignore[misc]
            f"/webhooks/{w.webhook()}{below}",
            {},
        )
        for method, below in (("GET", ""), ("POST", "/test"), ("POST", "/delete"))
    },
    "POST /login": lambda w, by: ("/login", {"data": {"token": "-"}}),
}
"""What else needs more than a path."""
AS_THEY_ARE: dict[str, Callable[[World], str]] = {
    "search_id": lambda w: w.done,
    "sweep_id": lambda w: w.sweep,
    "architecture_id": lambda w: f"{w.done}-300000",
    "kind": lambda w: "onnx",
    "seq": lambda w: str(w.snapshot),
    "number": lambda w: "1",
    "name": lambda w: "300000",
}
"""What stands in the paths of all others."""


@pytest.fixture
def world(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """On SQLite: who may do what is no matter of the database."""
    app = seeding.make_app(
        tmp_path, tokens=SET, data_roots=(str(tmp_path),), rate=1e6, rate_burst=10**6, max_streams=10**4
    )
    caplog.set_level(logging.ERROR)
    inside = seeding.parts(app)
    inside.stopping.set()  # streams end when they have told what there is
    seeding.report(app)
    tokens = {ELSEWHERE: "who-administers-audio"}
    with writing(inside.searches.engine) as session:
        for column, grant in GRANTS.items():
            tokens[column] = inside.callers.tokens.make(grant, session)[1]
        _, revoked = inside.callers.tokens.make(Grant("vision", name="revoked"), session)
        inside.callers.tokens.revoke("revoked", None, session)
        _, expired = inside.callers.tokens.make(Grant("vision", name="expired"), session)
        session.execute(update(Token).where(Token.name == "expired").values(expires_at=1.0))
    worthless = {"wrong": "a-token-of-nobody", "expired": "who-had-it-until-then"}
    made = World(app, tokens, worthless | {"expired, made": expired, "revoked": revoked})
    made.names = {ELSEWHERE: "bob"} | {column: grant.name for column, grant in GRANTS.items()}
    made.done = seeding.queue(app, project="vision", name="a-secret-of-vision")
    seeding.Run(app, made.done).succeed()
    log = Path(inside.runs.path(made.done, driver_log(1)))
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("trained\n")
    made.snapshot = inside.searches.snapshots(made.done)[0].seq
    made.sweep = made.swept("ann")
    yield made
    inside.searches.engine.dispose()


def routes(app: FastAPI) -> list[str]:
    """Every method and path of the service, in order."""
    own = [one for route in app.routes for one in getattr(getattr(route, "original_router", None), "routes", [route])]
    found = [f"{method} {one.path}" for one in own for method in sorted(getattr(one, "methods", None) or ["GET"])]
    return ["GET /static/{path}" if one == "GET /static" else one for one in found]


def outcome(world: World, http: httpx.Client, method: str, sent: Sent, token: str | None) -> str:
    """What comes of a request: yes, or how it is refused."""
    seeding.parts(world.app).callers.counts.memory.reset()
    path, more = sent
    if path == "/login":
        more = {"data": {"token": token or ""}}
    if path == "/tokens" and more:
        more = {"data": more["data"] | {"own": token or ""}}
    headers = {"Authorization": f"Bearer {token}"} if token and path != "/login" else {}
    told = http.request(method, path, headers=headers, **more)
    if told.status_code in (401, 403, 404) or "not the project of the token" in told.text:
        return str(told.status_code)
    if told.status_code == 303 and told.headers["location"].startswith("/login?"):
        return "to sign in"
    assert told.status_code < 400 or path == "/readyz", f"{method} {path}: {told.status_code} {told.text}"
    return "yes"


def request(world: World, route: str, by: str) -> Sent:
    """A request to a route that tries to do what it is for."""
    if make := STEERED.get(route) or OTHERS.get(route):
        return make(world, by)
    path = route.split(" ")[1].replace("{path}", "yoso.css")
    return re.sub(r"\{(\w+)\}", lambda found: AS_THEY_ARE[found[1]](world), path), {}


@pytest.mark.slow
def test_the_page_says_who_may_do_what(world: World) -> None:
    columns = [NOBODY, ELSEWHERE, *GRANTS]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    with seeding.serving(world.app) as url, httpx.Client(base_url=url, timeout=60) as http:
        for route in routes(world.app):
            method = route.split(" ")[0]

            def tried(token: str, by: str, route: str = route, method: str = method) -> str:
                return outcome(world, http, method, request(world, route, by), token)

            asked = request(world, route, "somebody")
            of_nobody = {
                what: outcome(world, http, method, asked, token)
                for what, token in ({"none": None} | world.worthless).items()
            }
            assert len(set(of_nobody.values())) == 1, f"{route} tells tokens apart that open nothing: {of_nobody}"
            cells = [of_nobody["none"]]
            for column in columns[1:]:
                token, name = world.tokens[column], world.names[column]
                cells.append(cell := tried(token, "somebody"))
                if route in STEERED and cell != "yes" and tried(token, name) == "yes":
                    cells[-1] = "own"
            lines.append(f"| `{route}` | " + " | ".join(cells) + " |")
    table = "\n".join(lines)
    assert table in PAGE.read_text(), f"{PAGE} should have:\n{table}"


def test_lists_hold_nothing_of_another_project(world: World) -> None:
    lists = [route for route in routes(world.app) if route.startswith("GET") and "{" not in route]
    hidden = ("vision", world.done, world.sweep, "a-secret-of-vision")
    with seeding.serving(world.app) as url, httpx.Client(base_url=url, timeout=60) as http:
        for route in lists:
            told = http.get(route.split(" ")[1], headers={"Authorization": f"Bearer {world.tokens[ELSEWHERE]}"})
            described = ("vision",) if "/openapi.json" in route else ()  # as an example
            assert not [word for word in hidden if word in told.text and word not in described], route
