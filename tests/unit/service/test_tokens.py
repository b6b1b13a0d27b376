"""Tokens, roles and sessions: what each opens, how it ends, and who is said to have done what."""

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import make_url
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from service import cli, own_token, private
from service.callers import GUESS_SECONDS, MOST_GUESSES, Guesses
from service.client import Client, ClientError
from service.counts import Counts
from service.domain.grants import Grant, Role
from service.settings import Settings, parse_tokens
from tests import seeding
from tests.unit.service.test_dashboard import text

PATH = "/api/v1/searches"
ASKED: dict[str, Any] = {"dataset": "digits", "budgets": ["300k"]}
TOKENS = {
    "the-operators-token": "*",
    "who-reads-all-of-it": "*:read:prometheus",
    "who-administers-vision": "vision",
    "who-submits-to-vision": "vision:submit:ci",
    "who-reads-vision": "vision:read",
    "who-administers-audio": "audio",
    "who-had-it-until-then": "vision:admin:old@2020-01-31",
}
NAMED = {grant: token for token, grant in TOKENS.items()}


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Iterator[FastAPI]:
    made = seeding.make_app(tmp_path, database_url, tokens=TOKENS, data_roots=(str(tmp_path),))
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture
def client(url: str) -> Iterator[Callable[[str], Client]]:
    """A client with the token of a grant."""
    with ExitStack() as stack:
        yield lambda grant: stack.enter_context(Client(url, NAMED[grant]))


def refused(ask: Any) -> int:
    with pytest.raises(ClientError) as error:
        ask()
    return error.value.status


def test_each_role_may_do_its_own(url: str, client: Callable[[str], Client]) -> None:
    admin, ci, reader = (client(grant) for grant in ("vision", "vision:submit:ci", "vision:read"))
    theirs, own = admin.submit(**ASKED)["id"], ci.submit(**ASKED)["id"]
    assert refused(lambda: reader.submit(**ASKED)) == 403 and refused(lambda: reader.cancel(own)) == 403
    assert refused(lambda: ci.cancel(theirs)) == 403
    assert reader.inspect("digits")["usable"], "to look at a dataset changes nothing"
    assert reader.get(theirs)["status"] == ci.get(theirs)["status"] == "queued"
    assert ci.cancel(own)["status"] == "cancelled" and ci.retry(own)["status"] == "queued"
    assert admin.cancel(own)["status"] == "cancelled"
    sweep = admin.submit_sweep({"dataset": "digits"}, ["300k"])["id"]
    for how in ("cancel", "pause", "resume", "retry"):
        assert refused(lambda how=how: ci.steer_sweep(sweep, how)) == 403
    assert refused(lambda: admin.change_project("vision", weight=2.0)) == 403
    assert refused(lambda: client("*:read:prometheus").change_project("vision", weight=2.0)) == 403
    assert client("*").change_project("vision", weight=2.0)["weight"] == 2.0
    scraped = httpx.get(url + "/metrics", headers={"Authorization": f"Bearer {NAMED['*:read:prometheus']}"})
    assert scraped.status_code == 200


def test_a_token_that_has_expired_opens_nothing(client: Callable[[str], Client]) -> None:
    assert refused(client("vision:admin:old@2020-01-31").list) == 401


def test_who_did_it_is_in_the_search_and_in_every_event_that_a_user_caused(
    app: FastAPI, client: Callable[[str], Client]
) -> None:
    ci, admin = client("vision:submit:ci"), client("vision")
    search = ci.submit(**ASKED)
    assert search["submitted_by"] == "ci" and search["project"] == "vision"
    sweep = admin.submit_sweep({"dataset": "digits"}, ["300k"], seeds=[0, 1], finals=False)
    assert sweep["submitted_by"] == "vision:admin"
    admin.cancel(search["id"])
    admin.steer_sweep(sweep["id"], "cancel")
    told = [(event.data["status"], event.data["by"]) for event in ci.events(search["id"])]
    assert told == [("queued", "ci"), ("cancelled", "vision:admin")]
    page = text(admin.http.get(f"/searches/{search['id']}").text)
    assert "queued by ci" in page and "cancelled by vision:admin" in page and re.search(r"submitted .* by ci ", page)
    assert "by vision:admin" in text(admin.http.get(f"/sweeps/{sweep['id']}").text)
    for one in ci.sweep_searches(sweep["id"])["items"]:
        assert one["submitted_by"] == "vision:admin"
        assert [event.data["by"] for event in ci.events(one["id"])] == ["vision:admin"] * 2
    run = seeding.Run(app, seeding.queue(app, project="vision")).move()
    assert all("by" not in event.data for event in seeding.parts(app).searches.events(run.id)), "nobody asked for it"


def test_a_session_is_random_ends_with_signing_out_and_with_its_token(tmp_path: Path, app: FastAPI, url: str) -> None:
    token = NAMED["vision"]
    with httpx.Client(base_url=url, timeout=60) as browser:
        first = browser.post("/login", data={"token": token, "next": "/cluster"})
        assert first.status_code == 303 and first.headers["location"] == "/cluster"
        set_cookie = first.headers["set-cookie"]
        assert "HttpOnly" in set_cookie and "SameSite=strict" in set_cookie and token not in set_cookie
        [session] = [cookie.value for cookie in browser.cookies.jar]
        assert session and browser.get("/searches").status_code == 200
        url_of_store = seeding.parts(app).settings.database_url
        kept = seeding.parts(app).callers.logins
        assert kept.of(session) is not None and session not in repr(kept)
        stolen = {"Cookie": f"yoso_8765={session}"}
        assert httpx.post(url + "/logout", headers=stolen).status_code == 303
        assert browser.get("/searches").status_code == 303, "what was stolen is worth nothing any more"
        browser.post("/login", data={"token": token})
        [session] = [cookie.value for cookie in browser.cookies.jar]
    left = {other: grant for other, grant in TOKENS.items() if other != token}
    without = seeding.make_app(tmp_path, url_of_store, tokens=left, data_roots=(str(tmp_path),))
    with seeding.serving(without) as other_url:
        assert httpx.get(other_url + "/searches", headers={"Cookie": f"yoso_8765={session}"}).status_code == 303
    seeding.parts(without).searches.engine.dispose()


def test_a_link_signs_in_once_and_its_code_is_behind_the_hash(url: str, client: Callable[[str], Client]) -> None:
    with client("vision") as asking, httpx.Client(base_url=url, timeout=60) as browser:
        link = asking.login_link("/cluster")["url"]
        page, _, code = link.partition("#code=")
        assert page == f"{url}/login?next=%2Fcluster" and len(code) > 30
        assert browser.post("/login", data={"code": code, "next": "/cluster"}).headers["location"] == "/cluster"
        assert browser.get("/searches").status_code == 200
        assert httpx.post(url + "/login", data={"code": code}).status_code == 401, "once"
        assert browser.post("/api/v1/login-links").status_code == 403, "no session makes others"
        assert httpx.get(url + "/searches", headers={"Cookie": f"yoso_8765={code}"}).status_code == 303


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example", "javascript:alert(1)", ""]
)
def test_signing_in_leads_nowhere_else(url: str, to: str) -> None:
    sent = httpx.post(url + "/login", data={"token": NAMED["vision"], "next": to})
    assert sent.status_code == 303 and sent.headers["location"] == "/searches"


def test_wrong_tokens_are_logged_by_address_and_slowed_down(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), httpx.Client(base_url=url, timeout=60) as http:
        codes = [http.post("/login", data={"token": f"guess-{n}"}).status_code for n in range(MOST_GUESSES + 2)]
        assert codes == [401] * MOST_GUESSES + [429] * 2
        assert http.post("/login", data={"token": NAMED["vision"]}).status_code == 429, "a right guess is not told"
        bearer = {"Authorization": "Bearer guess"}
        assert http.get(PATH, headers=bearer).status_code == 429
        assert http.get(PATH, headers={"Authorization": f"Bearer {NAMED['vision']}"}).status_code == 200
    told = [record.message for record in caplog.records if "sign-in" in record.message]
    assert len(told) == MOST_GUESSES + 1 and all("127.0.0.1" in line and "guess" not in line for line in told)


def test_who_waits_may_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [0.0]
    monkeypatch.setattr("time.time", lambda: moment[0])
    guesses = Guesses(Counts())
    for _ in range(MOST_GUESSES):
        assert guesses.wait("a") == 0
        guesses.failed("a")
    moment[0] = 20
    assert guesses.wait("a") == GUESS_SECONDS - 20 and guesses.wait("b") == 0
    moment[0] = GUESS_SECONDS + 1
    assert guesses.wait("a") == 0


def test_grants_are_read_from_text() -> None:
    assert Grant.parse("vision") == Grant("vision", Role.ADMIN, "vision:admin")
    assert Grant.parse("vision:submit:ci") == Grant("vision", Role.SUBMIT, "ci")
    day = Grant.parse("vision:read@2027-01-31").expires_at
    assert time.gmtime(day)[:5] == (2027, 2, 1, 0, 0), "the day itself is in it"
    assert Grant.parse("*::who@2027-01-31T12:00:00+01:00").expires_at == pytest.approx(day - 13 * 3600)


@pytest.mark.parametrize(
    "text",
    [
        "vision:owner=0123456789abcdef",
        "vision@someday=0123456789abcdef",
        "vi sion=0123456789abcdef",
        "../x=0123456789abcdef",
        "vision:read:a/b=0123456789abcdef",
        "a=0123456789abcdef,b=0123456789abcdef",
        "=0123456789abcdef",
    ],
)
def test_a_grant_that_is_none_is_refused_without_the_token(text: str) -> None:
    with pytest.raises(InvalidValue) as told:
        parse_tokens(text)
    assert told.value.field == "YOSO_TOKENS" and "0123456789abcdef" not in str(told.value)


def test_secrets_may_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("vision=0123456789abcdef\naudio:read=fedcba9876543210\n")
    (tmp_path / "url").write_text("postgresql://yoso:secret@db/yoso\n")
    given = {
        "YOSO_STORAGE": "/data",
        "YOSO_TOKENS_FILE": f"{tmp_path}/tokens",
        "YOSO_DATABASE_URL_FILE": f"{tmp_path}/url",
    }
    settings = Settings.from_environment(given)
    assert settings.database_url == "postgresql://yoso:secret@db/yoso"
    assert [grant.name for grant in settings.tokens.values()] == ["vision:admin", "audio:read"]
    (tmp_path / "password").write_text("p@ss/w:rd %\n")
    apart = {"YOSO_STORAGE": "/data", "YOSO_DATABASE_PASSWORD_FILE": f"{tmp_path}/password"}
    settings = Settings.from_environment(apart | {"YOSO_DATABASE_URL": "postgresql://yoso@db:5432/yoso"})
    assert make_url(settings.database_url).password == "p@ss/w:rd %" and "p%40ss" not in repr(settings)
    for url in ("sqlite:////data/yoso.db", "postgresql://db/yoso", "postgresql://yoso:other@db/yoso"):
        with pytest.raises(InvalidValue) as told:
            Settings.from_environment(apart | {"YOSO_DATABASE_URL": url})
        assert told.value.field == "YOSO_DATABASE_PASSWORD" and "w:rd" not in str(told.value)
    for wrong in ({"YOSO_TOKENS_FILE": f"{tmp_path}/none"}, {"YOSO_TOKENS": "p=0123456789abcdef"}):
        with pytest.raises(InvalidValue) as told:
            Settings.from_environment(given | wrong)
        assert told.value.field == "YOSO_TOKENS_FILE"


def test_the_cli_submits_with_a_projects_token_as_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOSO_URL", url)
    monkeypatch.setenv("YOSO_TOKEN", NAMED["vision"])
    for words in (["submit", "digits", "-b", "300k"], ["sweep", "digits", "-b", "300k"]):
        told = CliRunner().invoke(cli.app, [*words, "--json"])
        assert told.exit_code == 0 and '"project": "vision"' in told.stdout, told.stderr
    told = CliRunner().invoke(cli.app, ["submit", "digits", "-b", "300k", "--project", "audio"])
    assert told.exit_code == 2 and "not the project of the token" in told.stderr
    assert re.match(rf"{re.escape(url)}/login\?next=%2Fsearches#code=", CliRunner().invoke(cli.app, ["login"]).stdout)


def test_the_own_token_stays_the_same_and_only_its_owner_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    settings = Settings(str(tmp_path / "storage"), f"sqlite:///{tmp_path}/storage/yoso.db", port=1234)
    token = own_token.kept(settings)
    assert len(token) >= 32 and own_token.kept(settings) == token
    assert own_token.find("http://127.0.0.1:1234") is None
    own_token.publish(settings, token)
    for known in ("http://127.0.0.1:1234", "http://localhost:1234/", "http://127.0.0.1:1234/searches"):
        assert own_token.find(known) == token
    for other in (
        "http://127.0.0.1:1235",
        "http://evil.example:1234",
        "https://127.0.0.1:1234",
        "http://[",
        "http://a:b",
    ):
        assert own_token.find(other) is None
    kept = [tmp_path / "storage" / "token", tmp_path / "state" / "yoso" / "127.0.0.1-1234"]
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in kept)
    assert all(stat.S_IMODE(one.parent.stat().st_mode) == 0o700 for one in kept)
    own_token.withdraw(settings, "another")
    assert kept[1].exists(), "another service has taken the port meanwhile"
    own_token.withdraw(settings, token)
    assert not kept[1].exists()


def test_what_an_older_version_left_open_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage, database = tmp_path / "storage", tmp_path / "elsewhere.db"
    storage.mkdir()
    storage.chmod(0o755)
    for path in (database, Path(f"{database}-wal")):
        path.touch()
        path.chmod(0o644)
    private.close(Settings(str(storage), f"sqlite:///{database}"))
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (storage, database, f"{database}-wal")]
    assert modes == [0o700, 0o600, 0o600] and caplog.text.count("others could use") == 3
    everybodys = tmp_path / "tmp"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    private.close(Settings(str(everybodys), f"sqlite:///{database}"))
    assert stat.S_IMODE(everybodys.stat().st_mode) == 0o1777 and "its own folder" in caplog.text
