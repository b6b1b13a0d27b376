"""Tokens that the service makes: what they open, how they end, and that nothing keeps them."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text, update
from typer.testing import CliRunner, Result

from nas_core.errors import InvalidValue
from service import callers, cli
from service.client import Client, ClientError
from service.domain.grants import EVERY_PROJECT, Grant, NotAllowed, Role, end_of
from service.store.database import connect, reading, writing
from service.store.models import Base, Token
from service.store.tokens import USED_SECONDS, is_token, new_token
from tests import seeding

ASKED: dict[str, Any] = {"dataset": "digits", "budgets": ["300k"]}
SET = {
    "the-operators-token": "*",
    "who-administers-vision": "vision",
    "who-submits-to-vision": "vision:submit:ci",
    "vision-until-the-day": f"vision:admin:brief@{time.gmtime().tm_year + 2}-01-31",
}
NAMED = {grant: token for token, grant in SET.items()}
Connect = Callable[[str], Client]


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Iterator[FastAPI]:
    made = seeding.make_app(tmp_path, database_url, tokens=SET, data_roots=(str(tmp_path),))
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture
def client(url: str) -> Iterator[Connect]:
    """A client with a token."""
    with ExitStack() as stack:
        yield lambda token: stack.enter_context(Client(url, NAMED.get(token, token)))


def refused(ask: Callable[[], object]) -> ClientError:
    with pytest.raises(ClientError) as error:
        ask()
    return error.value


def test_a_token_opens_what_it_was_made_for_until_it_is_revoked(client: Connect) -> None:
    admin = client("vision")
    made = admin.make_token("robot", "submit", expires="90d")
    assert is_token(made["token"]) and re.fullmatch(r"yoso_[0-9a-f]{72}", made["token"])
    assert (made["project"], made["role"], made["created_by"]) == ("vision", "submit", "vision:admin")
    robot = client(made["token"])
    me = robot.me()
    assert (me["name"], me["project"], me["role"], me["expires_at"]) == (
        *("robot", "vision", "submit"),
        made["expires_at"],
    )
    search = robot.submit(**ASKED)
    assert search["submitted_by"] == "robot" and robot.cancel(search["id"])["status"] == "cancelled"
    assert refused(lambda: robot.cancel(admin.submit(**ASKED)["id"])).status == 403
    [listed] = admin.tokens()["items"]
    assert listed["last_used_at"] is not None and "token" not in listed
    assert {**made, "last_used_at": listed["last_used_at"]} == {**listed, "token": made["token"]}
    admin.revoke_token("robot")
    assert refused(robot.list).status == 401 and admin.tokens()["items"] == []
    assert refused(lambda: admin.revoke_token("robot")).status == 404


def test_nothing_keeps_a_token(app: FastAPI, client: Connect, caplog: pytest.LogCaptureFixture) -> None:
    made = client("*").make_token("robot", "admin", "vision")
    robot = client(made["token"])
    robot.submit(**ASKED)
    robot.login_link()
    with reading(seeding.parts(app).searches.engine) as session:
        kept = "".join(str(session.execute(text(f"SELECT * FROM {name}")).all()) for name in Base.metadata.tables)
    assert "robot" in kept and made["token"] not in kept and made["token"] not in caplog.text
    assert made["token"] not in str(client("*").tokens())


def test_its_sessions_and_links_end_with_a_token(url: str, client: Connect) -> None:
    made = client("vision").make_token("person", "read")
    link = client(made["token"]).login_link()["url"]
    with httpx.Client(base_url=url, timeout=60) as browser:
        assert browser.post("/login", data={"token": made["token"]}).status_code == 303
        assert browser.get("/searches").status_code == 200
        client("vision").revoke_token("person")
        assert browser.get("/searches").headers["location"].startswith("/login")
        assert browser.post("/login", data={"code": link.partition("#code=")[2]}).status_code == 401
        client("vision").make_token("person", "read")
        assert browser.get("/searches").status_code == 303, "another of the same name is another"


def test_other_replicas_believe_in_a_revoked_token_for_seconds_at_most(
    tmp_path: Path, app: FastAPI, client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callers.REMEMBERED_SECONDS <= 5
    monkeypatch.setattr(callers, "REMEMBERED_SECONDS", 0.2)
    settings = seeding.parts(app).settings
    other = seeding.make_app(tmp_path, settings.database_url, tokens=SET, data_roots=(str(tmp_path),))
    made = client("vision").make_token("robot", "read")
    with seeding.serving(other) as elsewhere, Client(elsewhere, made["token"]) as robot:
        robot.list()
        client("vision").revoke_token("robot")
        time.sleep(0.3)
        assert refused(robot.list).status == 401
    seeding.parts(other).searches.engine.dispose()


def test_an_expired_token_opens_nothing_and_makes_room_for_another(app: FastAPI, client: Connect) -> None:
    admin = client("vision")
    made = admin.make_token("robot", "read", expires="1h")
    robot = client(made["token"])
    robot.list()
    engine = seeding.parts(app).searches.engine
    with writing(engine) as session:
        session.execute(update(Token).values(expires_at=time.time() - 1))
    seeding.parts(app).callers.forget(seeding.parts(app).callers.tokens.page(1)[0].digest)
    assert refused(robot.list).status == 401
    assert admin.make_token("robot", "read")["expires_at"] is None
    assert refused(robot.list).status == 401 and len(admin.tokens()["items"]) == 1


def test_that_a_token_is_used_is_noted_once_a_minute(app: FastAPI, client: Connect) -> None:
    tokens, engine = seeding.parts(app).callers.tokens, seeding.parts(app).searches.engine
    made = client("vision").make_token("robot", "read")
    assert made["last_used_at"] is None
    client(made["token"]).list()
    [used] = tokens.page(1)
    assert used.last_used_at is not None and abs(used.last_used_at - time.time()) < 60
    for ago, noted in ((USED_SECONDS - 10, False), (USED_SECONDS + 1, True)):
        with writing(engine) as session:
            session.execute(update(Token).values(last_used_at=time.time() - ago))
        before = tokens.page(1)[0].last_used_at
        tokens.grant_of(used.digest)
        assert (tokens.page(1)[0].last_used_at != before) is noted


def test_names_are_one_tokens_alone(client: Connect) -> None:
    client("vision").make_token("robot", "read")
    for name in ("robot", "ci", "brief", "local"):
        told = refused(partial(client("*").make_token, name, "read", "audio"))
        assert told.status == 409 and name in str(told)
    assert refused(lambda: client("*").revoke_token("ci")).problem["errors"][0]["field"] == "name"


@pytest.mark.parametrize(
    ("asked", "field", "accepted"),
    [
        ({"name": "a b"}, "name", "letters"),
        ({"name": ""}, "name", "letters"),
        ({"role": "owner"}, "role", ""),
        ({"project": None}, "project", "* for all"),
        ({"project": "../x"}, "project", "* for all"),
        ({"expires": "soon"}, "expires", "90d"),
        ({"expires": "0d"}, "expires", "a time in the future"),
        ({"expires": "2020-01-31"}, "expires", "a time in the future"),
        ({"expires": "999999y"}, "expires", "90d"),
    ],
)
def test_what_no_token_can_be_is_refused(client: Connect, asked: dict[str, Any], field: str, accepted: str) -> None:
    told = refused(lambda: client("*").make_token(**{"name": "robot", "role": "read", "project": "vision"} | asked))
    [error] = told.problem["errors"]
    assert told.status == 422 and error["field"] == field and accepted in error["accepted"]


def test_nobody_makes_a_token_that_opens_more_than_their_own(url: str, client: Connect) -> None:
    vision, ci, brief = client("vision"), client("vision:submit:ci"), client("vision-until-the-day")
    for project in ("audio", "*"):
        assert refused(partial(vision.make_token, "more", "read", project)).status == 403
    for ask in (lambda: ci.make_token("more", "read"), ci.tokens, lambda: ci.revoke_token("more")):
        assert refused(ask).status == 403
    assert refused(lambda: brief.make_token("more", "read", expires="9y")).problem["errors"][0]["field"] == "expires"
    assert brief.make_token("as-long", "read")["expires_at"] == brief.me()["expires_at"]
    operator = client("*")
    operator.make_token("everything", "admin", "*")
    assert "everything" not in str(vision.tokens()) and refused(lambda: vision.revoke_token("everything")).status == 404
    with httpx.Client(base_url=url, timeout=60) as browser:
        browser.post("/login", data={"token": NAMED["vision"]})
        sent = browser.post("/api/v1/tokens", json={"name": "more", "role": "read"})
        assert sent.status_code == 403 and "the token itself" in sent.json()["detail"]


ROLES, PROJECTS = st.sampled_from(Role), st.sampled_from(["vision", "audio", EVERY_PROJECT])
GRANTS = st.builds(Grant, PROJECTS, ROLES, st.just("t"), st.sampled_from([1e9, 2e9, float("inf")]))


@given(own=GRANTS, other=GRANTS)
def test_what_is_given_is_a_part_of_what_gives(own: Grant, other: Grant) -> None:
    """By role, project and time: all that `other` opens, `own` opens as well, and only an admin's gives anything."""
    order = list(Role)
    part = (
        order.index(other.role) <= order.index(own.role)
        and own.project in (other.project, EVERY_PROJECT)
        and other.expires_at <= own.expires_at
    )
    try:
        own.check_gives(other)
        given_ = True
    except (NotAllowed, InvalidValue):
        given_ = False
    assert given_ is (part and own.role == Role.ADMIN)


@given(st.text(max_size=90) | st.builds(lambda at, sign: new_token()[:at] + sign, st.integers(0, 76), st.just("g")))
def test_a_mistyped_token_is_known_without_the_database(typed: str) -> None:
    assert not is_token(typed)


def test_times_are_read_from_text() -> None:
    assert end_of("90d", 0.0) == 90 * 86400 and end_of("12h", 1.0) == 43201 and end_of("1y", 0.0) == 365 * 86400
    assert time.gmtime(end_of("2027-01-31", 0.0))[:4] == (2027, 2, 1, 0), "the day itself is in it"


def test_where_all_folders_are_open_others_get_no_token(tmp_path: Path) -> None:
    alone = seeding.make_app(tmp_path)
    with seeding.serving(alone) as url, Client(url) as client:
        told = refused(lambda: client.make_token("robot", "read", "vision")).problem["errors"][0]
        assert told["field"] == "YOSO_DATA_ROOTS" and "any folder" in told["reason"]
    seeding.parts(alone).searches.engine.dispose()
    database = f"sqlite:///{tmp_path}/yoso.db"
    engine = connect(database)
    with writing(engine) as session:
        seeding.parts(alone).callers.tokens.make(Grant("vision", Role.READ, "robot"), session)
    engine.dispose()
    with pytest.raises(InvalidValue) as refusal:
        seeding.make_app(tmp_path)
    assert refusal.value.field == "YOSO_DATA_ROOTS"


def yoso(*words: str) -> Result:
    return CliRunner().invoke(cli.app, words)


def test_the_command_line_makes_lists_and_revokes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOSO_URL", url)
    monkeypatch.setenv("YOSO_TOKEN", NAMED["*"])
    monkeypatch.setattr(cli.out, "width", 120)
    for words in (["token"], ["token", "--url", url], ["token", "show", "--url", url]):
        assert yoso(*words).stdout == NAMED["*"] + "\n", "what commands send"
    made = yoso("token", "create", "robot", "--project", "vision", "--role", "submit", "--expires", "90d")
    assert made.exit_code == 0 and is_token(made.stdout.strip()), made.stderr
    assert "robot may submit in vision, until" in made.stderr and made.stdout.strip() not in made.stderr
    monkeypatch.setenv("YOSO_TOKEN", made.stdout.strip())
    assert yoso("list").exit_code == 0
    monkeypatch.setenv("YOSO_TOKEN", NAMED["*"])
    listed = yoso("token", "list").stdout
    assert re.search(r"robot +vision +submit +\*:admin +\d{4}-\d\d-\d\d \d\d:\d\d", listed)
    assert yoso("token", "list", "--project", "audio").stdout == "no tokens\n"
    assert yoso("token", "revoke", "robot").stdout == "revoked token robot\n"
    again = yoso("token", "revoke", "robot")
    assert again.exit_code == 2 and "no token named 'robot'" in again.stderr
    wrong = yoso("token", "create", "robot", "--project", "vision", "--role", "owner")
    assert wrong.exit_code == 2 and wrong.stderr.startswith("role: ")


def test_the_page_makes_shows_once_lists_and_revokes(app: FastAPI, url: str, client: Connect) -> None:
    with httpx.Client(base_url=url, timeout=60) as browser:
        browser.post("/login", data={"token": NAMED["vision"]})
        assert 'href="/tokens"' in browser.get("/cluster").text
        asked = {"name": "robot", "role": "submit", "expires": "90d", "own": NAMED["vision"]}
        for wrong, field in (
            ({"own": NAMED["*"]}, "own"),
            ({"own": ""}, "own"),
            ({"name": "<b>"}, "name"),
            ({"expires": "soon"}, "expires"),
        ):
            told = browser.post("/tokens", data=asked | wrong)
            assert told.status_code == 422 and f'id="wrong-{field}">' in told.text and "No token was made" in told.text
            assert "<b>" not in told.text and NAMED["*"] not in told.text and NAMED["vision"] not in told.text
        assert browser.post("/tokens", data=asked | {"project": "audio"}).status_code == 403
        assert client("vision").tokens()["items"] == []
        made = browser.post("/tokens", data=asked)
        [token] = re.findall(r"yoso_[0-9a-f]{72}", made.text)
        assert made.headers["cache-control"] == "no-store" and client(token).me()["name"] == "robot"
        assert browser.post("/tokens", data=asked).status_code == 409
        listed = browser.get("/tokens").text
        assert "robot" in listed and token not in listed and NAMED["vision"] not in listed
        assert browser.post("/tokens/robot/revoke").headers["location"] == "/tokens"
        assert refused(client(token).list).status == 401 and "Made here" not in browser.get("/tokens").text


def test_whoever_guesses_at_the_pages_own_token_has_to_wait(url: str) -> None:
    asked = {"name": "robot", "role": "read", "own": "a-guess"}
    with httpx.Client(base_url=url, timeout=60) as browser:
        browser.post("/login", data={"token": NAMED["vision"]})
        codes = [browser.post("/tokens", data=asked).status_code for _ in range(callers.MOST_GUESSES + 1)]
        assert codes == [422] * callers.MOST_GUESSES + [429]
