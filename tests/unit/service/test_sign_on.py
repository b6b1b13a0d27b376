"""Signing on with a provider: a real one, on this machine, and a browser that is led there and back."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from nas_core.errors import InvalidValue
from service.answers import AuditEntry
from service.callers import MOST_GUESSES
from service.client import Client
from service.domain.grants import Grant, Role
from service.domain.sign_on import SignOn, parse_grants
from service.settings import Settings
from tests import provider, seeding
from tests.unit.service.test_dashboard import text

OPERATOR = "the-operators-token"
CALLBACK = "/login/oidc/callback"


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with provider.provider(tmp_path_factory.mktemp("provider")) as url:
        yield url


@pytest.fixture
def app(tmp_path: Path, issuer: str, request: pytest.FixtureRequest) -> Iterator[FastAPI]:
    """On SQLite, but for tests that ask for a database."""
    database = request.getfixturevalue("database_url") if "database_url" in request.fixturenames else None
    made = make_app(tmp_path, provider.sign_on(issuer), database)
    yield made
    seeding.parts(made).searches.engine.dispose()


def make_app(folder: Path, sign_on: SignOn | None, database_url: str | None = None) -> FastAPI:
    known = {"tokens": {OPERATOR: "*"}, "data_roots": (str(folder),)}
    return seeding.make_app(folder, database_url, sign_on=sign_on, **known)


@pytest.fixture
def browser(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def led(browser: httpx.Client, name: str, next: str = "/searches") -> str:
    """Where the provider leads somebody back to who has begun to sign on in that browser."""
    begun = browser.get(f"/login/oidc?{urlencode({'next': next})}")
    assert begun.status_code == 302, begun.text
    return provider.approve(begun.headers["location"], name)


def audited(url: str, **filters: Any) -> list[AuditEntry]:
    with Client(url, OPERATOR) as client:
        return client.audit(100, **filters)["items"]


def test_people_sign_on_see_their_project_and_sign_out(
    database_url: str, app: FastAPI, url: str, browser: httpx.Client
) -> None:
    own, other = (seeding.queue(app, project=one, name=f"of-{one}") for one in ("vision", "audio"))
    button = re.search(r'href="(/login/oidc\?[^"]+)">Sign in with Example', browser.get("/login?next=/cluster").text)
    assert button is not None and button[1] == "/login/oidc?next=%2Fcluster"
    done = browser.get(led(browser, "ann", "/cluster"))
    assert done.status_code == 200 and 'content="0; url=/cluster"' in done.text, done.text
    held = {cookie.name: cookie for cookie in browser.cookies.jar}
    assert set(held) == {"yoso_8765"} and "SameSite=strict" in str(done.headers.get_list("set-cookie"))
    assert "ann@example.org" in text(done.text)
    listed = browser.get("/searches").text
    assert "of-vision" in listed and "of-audio" not in listed
    assert browser.get(f"/searches/{own}").status_code == 200 and browser.get(f"/searches/{other}").status_code == 404
    assert browser.post(f"/api/v1/searches/{own}/cancel").status_code == 200
    told = browser.get(f"/api/v1/searches/{own}/events", headers={"Accept": "application/json"}).text
    assert '"by":"ann@example.org"' in told.replace(" ", "")
    assert browser.get("/api/v1/me").json()["name"] == "ann@example.org"
    stolen = {"Cookie": f"yoso_8765={held['yoso_8765'].value}"}
    assert httpx.get(url + "/searches", headers=stolen).status_code == 200
    assert browser.post("/logout").status_code == 303
    assert httpx.get(url + "/searches", headers=stolen).status_code == 303
    entries = audited(url, by="ann@example.org")
    assert [one["action"] for one in entries] == ["signed_out", "cancelled", "signed_in"]
    assert entries[2]["about"] == "person/ann@example.org" and entries[2]["project"] == "vision"
    known = {"how": "oidc", "subject": "ann", "email": "ann@example.org", "role": "admin"}
    assert known.items() <= entries[2]["data"].items()


def test_what_is_sent_to_the_provider_is_random_and_holds_no_secret(app: FastAPI, browser: httpx.Client) -> None:
    sent = [urlsplit(browser.get("/login/oidc").headers["location"]) for _ in range(2)]
    asked = [{name: values[0] for name, values in parse_qs(one.query).items()} for one in sent]
    for name in ("state", "nonce", "code_challenge"):
        assert asked[0][name] != asked[1][name] and len(asked[0][name]) >= 20
    assert asked[0]["code_challenge_method"] == "S256" and asked[0]["response_type"] == "code"
    assert "code_verifier" not in asked[0] and provider.SECRET not in sent[0].query


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example", "javascript:alert(1)", ""]
)
def test_signing_on_leads_nowhere_else(browser: httpx.Client, to: str) -> None:
    assert 'content="0; url=/searches"' in browser.get(led(browser, "ann", to)).text


def test_the_provider_leads_back_to_where_users_are(tmp_path: Path, issuer: str, app: FastAPI, url: str) -> None:
    """As deploy/nginx.conf tells of it: the visitor's host and scheme."""

    def back(at: str, **headers: str) -> str:
        begun = httpx.get(f"{at}/login/oidc", headers=headers).headers
        assert "Secure" in begun["set-cookie"] or not headers
        return parse_qs(urlsplit(begun["location"]).query)["redirect_uri"][0]

    outer = {"Host": "localhost:8443", "X-Forwarded-Proto": "https"}
    assert back(url, **outer) == f"https://localhost:8443{CALLBACK}"
    assert httpx.get(f"{url}/login/oidc", headers={"Host": "evil.example"}).status_code == 421
    named = seeding.make_app(
        tmp_path / "named",
        public_url="https://example.org/yoso",
        data_roots=(str(tmp_path),),
        sign_on=provider.sign_on(issuer),
    )
    with seeding.serving(named) as inner:
        begun = httpx.get(f"{inner}/login/oidc").headers
        assert f"redirect_uri={'https%3A%2F%2Fexample.org%2Fyoso%2Flogin%2Foidc%2Fcallback'}" in begun["location"]
        assert "Path=/yoso/login/oidc;" in begun["set-cookie"] and "Secure" in begun["set-cookie"]
        assert httpx.get(f"{inner}/searches").status_code == 303, "although there are no tokens"
    seeding.parts(named).searches.engine.dispose()


@pytest.mark.parametrize(
    "how", ["forged state", "another browser's", "used twice", "forged cookie", "too old", "no code"]
)
def test_an_answer_to_nothing_that_this_browser_asked_is_refused(
    app: FastAPI, url: str, browser: httpx.Client, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = led(browser, "ann")
    [kept] = [cookie.value or "" for cookie in browser.cookies.jar]
    if how == "forged state":
        back = back.replace("state=", "state=x")
    elif how == "another browser's":
        browser.cookies.clear()
        led(browser, "ann")
    elif how == "used twice":
        assert browser.get(back).status_code == 200
        browser.cookies.clear()
        browser.cookies.set("yoso_8765_state", kept, path="/login/oidc", domain="127.0.0.1")
    elif how == "forged cookie":
        browser.cookies.clear()
        body, _, rest = kept.partition(".")
        browser.cookies.set("yoso_8765_state", f"{body[:-2]}AA.{rest}", path="/login/oidc", domain="127.0.0.1")
    elif how == "too old":
        monkeypatch.setattr("service.dashboard.sign_on.AWAY_SECONDS", -1)
    else:
        back = re.sub("code=[^&]+", "code=", back)
    refused = browser.get(back)
    assert refused.status_code == 401 and "Signing on failed" in refused.text, refused.text
    assert "yoso_8765=" not in str(refused.headers.get_list("set-cookie"))
    [entry] = audited(url, action="sign_in_refused")
    assert entry["data"]["how"] == "oidc" and entry["data"]["subject"] is None and entry["by"] is None


def test_an_id_token_of_another_sign_on_is_refused(app: FastAPI, browser: httpx.Client) -> None:
    """The nonce binds it: whoever got hold of another's code could sign in as them otherwise."""
    stolen = led(browser, "ann")
    theirs = {cookie.name: cookie.value for cookie in browser.cookies.jar}
    browser.cookies.clear()
    led(browser, "eve")
    own = signer_of(app)
    [(name, value)] = theirs.items()
    ann, eve = own.loads(value), own.loads(next(iter(browser.cookies.jar)).value)
    [first], [second] = ann["session"].values(), eve["session"].values()
    first["data"]["nonce"] = second["data"]["nonce"]
    browser.cookies.clear()
    browser.cookies.set(name, own.dumps(ann), path="/login/oidc", domain="127.0.0.1")
    refused = browser.get(stolen)
    assert refused.status_code == 401 and "the ID token is refused" in refused.text


def signer_of(app: FastAPI) -> Any:
    from service.dashboard.sign_on import signer

    return signer(seeding.parts(app), "state")


def test_who_is_in_no_group_is_refused_by_name(
    url: str, browser: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        refused = browser.get(led(browser, "eve"))
    assert refused.status_code == 403
    assert "eve@example.org has signed on with Example, but is in no group with access to a project" in text(
        refused.text
    )
    assert browser.get("/searches").status_code == 303
    [entry] = audited(url, action="sign_in_refused")
    assert entry["data"]["email"] == "eve@example.org" and entry["data"]["why"] == "no group with access"
    assert "'eve' signed on: no group with access" in caplog.text


def test_who_has_several_projects_chooses_one(app: FastAPI, browser: httpx.Client) -> None:
    seeding.queue(app, project="audio", name="of-audio")
    asked = browser.get(led(browser, "bob", "/cluster"))
    assert re.findall(r'name="project" value="(\w+)"', asked.text) == ["audio", "vision"]
    assert browser.get("/searches").status_code == 303, "nothing is open before that"
    assert browser.post("/login/oidc/project", data={"project": "secret"}).headers["location"] == "/login"
    done = browser.post("/login/oidc/project", data={"project": "audio"})
    assert 'content="0; url=/cluster"' in done.text
    me = browser.get("/api/v1/me").json()
    assert (me["name"], me["project"], me["role"]) == ("bob@example.org", "audio", "read")
    assert "of-audio" in browser.get("/searches").text
    refused = browser.post("/api/v1/searches", json={"dataset": "digits", "budgets": ["300k"]})
    assert refused.status_code == 403 and "bob@example.org may read, but not" in refused.json()["detail"]
    assert browser.post("/login/oidc/project", data={"project": "vision"}).headers["location"] == "/login", "once"


def test_without_an_address_people_are_called_by_their_subject(tmp_path: Path, issuer: str) -> None:
    app = make_app(tmp_path, provider.sign_on(issuer, scopes="openid"))
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as browser:
        browser.get(led(browser, "ann"))
        assert browser.get("/api/v1/me").json()["name"] == "localhost/ann"
    seeding.parts(app).searches.engine.dispose()


def test_a_session_ends_with_what_its_group_opened(tmp_path: Path, app: FastAPI, issuer: str, url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as browser:
        browser.get(led(browser, "ann"))
        [session] = [cookie.value for cookie in browser.cookies.jar]
    inside = seeding.parts(app).settings
    others = SignOn(issuer, provider.CLIENT, provider.SECRET, parse_grants('{"vision-leads": "vision:read"}'))
    for sign_on, code in ((provider.sign_on(issuer), 200), (others, 303), (None, 303)):
        changed = make_app(tmp_path, sign_on, inside.database_url)
        with seeding.serving(changed) as at:
            assert httpx.get(f"{at}/searches", headers={"Cookie": f"yoso_8765={session}"}).status_code == code
        seeding.parts(changed).searches.engine.dispose()


def test_admins_who_signed_on_make_no_tokens_and_are_told_how(browser: httpx.Client) -> None:
    browser.get(led(browser, "ann"))
    page = browser.get("/tokens")
    assert page.status_code == 200 and "signed on without a token" in page.text and 'name="own"' not in page.text
    made = browser.post("/tokens", data={"name": "x", "role": "read", "own": "anything"})
    assert made.status_code == 403 and "ann@example.org has signed on without a token" in made.text
    assert browser.post("/api/v1/tokens", json={"name": "x", "role": "read"}).status_code == 403
    assert browser.post("/api/v1/login-links").status_code == 403


def test_a_provider_that_is_away_is_told_of_and_tokens_go_on(tmp_path: Path) -> None:
    app = make_app(tmp_path, provider.sign_on("http://localhost:9"))
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as browser:
        told = browser.get("/login/oidc")
        assert told.status_code == 503 and "Example does not answer as it should" in told.text
        assert browser.post("/login", data={"token": OPERATOR}).status_code == 303
        assert audited(url, action="sign_in_refused") == []
    seeding.parts(app).searches.engine.dispose()


def test_another_provider_than_was_named_is_not_believed(tmp_path: Path, issuer: str) -> None:
    other = issuer.replace("localhost", "127.0.0.1")  # the same server, which says that it is somebody else
    app = seeding.make_app(tmp_path, data_roots=(str(tmp_path),), sign_on=provider.sign_on(other))
    with seeding.serving(app) as url:
        assert httpx.get(f"{url}/login/oidc").status_code == 503
    seeding.parts(app).searches.engine.dispose()


@pytest.mark.parametrize("endpoint", ["http://[", "http://localhost:port", "", None, 7])
def test_a_provider_that_describes_itself_wrongly_lets_nobody_in(
    app: FastAPI, browser: httpx.Client, endpoint: Any
) -> None:
    back = led(browser, "ann")
    app.state.provider.server_metadata["token_endpoint"] = endpoint
    refused = browser.get(back)
    assert refused.status_code in (401, 503) and "yoso_8765=" not in str(refused.headers.get_list("set-cookie"))


def test_guesses_at_the_callback_are_slowed_down(browser: httpx.Client) -> None:
    codes = [browser.get(f"{CALLBACK}?code=x&state=x").status_code for _ in range(MOST_GUESSES + 1)]
    assert codes == [401] * MOST_GUESSES + [429]


def test_what_the_provider_says_is_not_shown_as_it_is(browser: httpx.Client) -> None:
    browser.get("/login/oidc")
    told = browser.get(f"{CALLBACK}?error=access_denied&error_description=Call+555-0100")
    assert told.status_code == 401 and "the provider says access_denied" in told.text and "555" not in told.text


def test_no_secret_is_in_the_log(
    app: FastAPI, url: str, browser: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        back = led(browser, "ann")
        browser.get(back)
        browser.get(back)
    [session] = [cookie.value for cookie in browser.cookies.jar]
    logged = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    code = parse_qs(urlsplit(back).query)["code"][0]
    assert not [secret for secret in (session, code, provider.SECRET) if secret and secret in logged]


ISSUER = {
    "YOSO_STORAGE": "/data",
    "YOSO_DATA_ROOTS": "/data",
    "YOSO_OIDC_ISSUER": "https://id.example.org/realms/ml",
    "YOSO_OIDC_CLIENT_ID": "yoso",
    "YOSO_OIDC_CLIENT_SECRET": "a-secret-of-the-client",
    "YOSO_OIDC_GRANTS": '{"ml-team": "vision:submit", "cn=leads,dc=example": "*:admin"}',
}


def test_the_settings_name_a_provider(tmp_path: Path) -> None:
    found = Settings.from_environment(ISSUER).sign_on
    assert found is not None and found.name == "id.example.org" and found.claim == "groups"
    assert found.grants["cn=leads,dc=example"] == Grant("*", Role.ADMIN)
    assert "a-secret-of-the-client" not in repr(Settings.from_environment(ISSUER))
    (tmp_path / "secret").write_text("another-secret-of-the-client\n")
    given = {name: value for name, value in ISSUER.items() if name != "YOSO_OIDC_CLIENT_SECRET"}
    named = {"YOSO_OIDC_CLIENT_SECRET_FILE": f"{tmp_path}/secret", "YOSO_OIDC_NAME": "ACME", "YOSO_OIDC_CLAIM": "roles"}
    found = Settings.from_environment(given | named).sign_on
    assert found is not None and found.client_secret == "another-secret-of-the-client"
    assert (found.name, found.claim) == ("ACME", "roles") and Settings.from_environment(
        {"YOSO_STORAGE": "/"}
    ).sign_on is None


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"YOSO_OIDC_ISSUER": ""}, "YOSO_OIDC_ISSUER"),
        ({"YOSO_OIDC_ISSUER": "http://id.example.org"}, "YOSO_OIDC_ISSUER"),
        ({"YOSO_OIDC_ISSUER": "https://user:secret@id.example.org"}, "YOSO_OIDC_ISSUER"),
        ({"YOSO_OIDC_ISSUER": "https://id.example.org:secret"}, "YOSO_OIDC_ISSUER"),
        ({"YOSO_OIDC_CLIENT_ID": ""}, "YOSO_OIDC_CLIENT_ID"),
        ({"YOSO_OIDC_CLIENT_SECRET": "short-secret"}, "YOSO_OIDC_CLIENT_SECRET"),
        ({"YOSO_OIDC_GRANTS": ""}, "YOSO_OIDC_GRANTS"),
        ({"YOSO_OIDC_GRANTS": "ml-team=vision"}, "YOSO_OIDC_GRANTS"),
        ({"YOSO_OIDC_GRANTS": '["ml-team"]'}, "YOSO_OIDC_GRANTS"),
        ({"YOSO_OIDC_GRANTS": '{"ml-team": "vision"}'}, "YOSO_OIDC_GRANTS"),
        ({"YOSO_OIDC_GRANTS": '{"ml-team": "vision:owner"}'}, "YOSO_OIDC_GRANTS"),
        ({"YOSO_OIDC_GRANTS": '{"ml-team": "vision:read@2027-01-31"}'}, "YOSO_OIDC_GRANTS"),
        ({"YOSO_OIDC_SCOPES": "profile"}, "YOSO_OIDC_SCOPES"),
        ({"YOSO_DATA_ROOTS": ""}, "YOSO_DATA_ROOTS"),
    ],
)
def test_a_provider_that_cannot_be_used_is_refused(changed: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Settings.from_environment(ISSUER | changed)
    assert refused.value.field == field and "secret" not in str(refused.value)


def opened(grants: dict[str, str], held: Any) -> list[tuple[str, str]]:
    made = SignOn("https://id.example.org", "yoso", "a-secret-of-the-client", parse_grants(json.dumps(grants)))
    return [(one.project, one.role) for one in made.opened({"groups": held})]


def test_groups_open_what_the_best_of_them_does() -> None:
    grants = {"a": "vision:read", "b": "vision:admin", "c": "audio:submit", "d": "*:submit"}
    assert opened(grants, ["a", "b"]) == [("vision", "admin")]
    assert opened(grants, ["c", "a"]) == [("audio", "submit"), ("vision", "read")]
    assert opened(grants, ["c", "b", "d"]) == [("*", "submit"), ("vision", "admin")]
    assert opened(grants, "a") == [("vision", "read")]
    for nothing in ([], None, ["e"], [["a"]], {"a": 1}, 7):
        assert opened(grants, nothing) == []


def test_nobody_passes_for_somebody_else() -> None:
    made = SignOn("https://id.example.org", "yoso", "a-secret-of-the-client", parse_grants('{"a": "vision:read"}'))

    def verified(email: Any) -> dict[str, Any]:
        return {"sub": "7", "email": email, "email_verified": True}

    assert made.named(verified("ann@example.org")) == "ann@example.org"
    for claims in ({"sub": "7", "email": "ann@example.org"}, verified("ci"), verified(None), verified("a/b@c")):
        assert made.named(claims) == "id.example.org/7"
    assert made.named({"sub": "x" * 255}).startswith("person/") and len(made.named({"sub": "x" * 255})) < 80
