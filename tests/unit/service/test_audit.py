"""The audit log: everything that somebody asked for is in it once, with who it was, and no secret ever."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text, update
from typer.testing import CliRunner

from service import cli
from service.callers import GUESS_SECONDS, MOST_GUESSES, MOST_NOTED, Guesses
from service.client import Client, ClientError
from service.counts import Counts
from service.domain.lifecycle import Status
from service.store.database import reading, writing
from service.store.models import Search
from tests import seeding

ASKED: dict[str, Any] = {"dataset": "digits", "budgets": ["300k"]}
TOKENS = {
    "the-operators-token": "*:admin:root",
    "who-administers-vision": "vision:admin:ann",
    "who-submits-to-vision": "vision:submit:ci",
    "who-administers-audio": "audio:admin:bob",
    "who-had-it-until-then": "vision:admin:old@2020-01-31",
}
NAMED = {grant.split(":")[-1].split("@")[0]: token for token, grant in TOKENS.items()}
Connect = Callable[[str], Client]


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Iterator[FastAPI]:
    made = seeding.make_app(tmp_path, database_url, tokens=TOKENS, data_roots=(str(tmp_path),))
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture
def client(url: str) -> Iterator[Connect]:
    """A client with the token of that name."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(Client(url, NAMED.get(name, name)))


def log(client: Client, **filters: Any) -> list[tuple[str | None, str, str | None, str | None]]:
    """Who did what about what in which project, the oldest first."""
    entries = client.audit(500, **filters)["items"]
    return [(one["by"], one["action"], one["about"], one["project"]) for one in reversed(entries)]


def test_everything_that_is_done_is_in_it_once_with_who_did_it(app: FastAPI, client: Connect) -> None:
    root, ann, ci = client("root"), client("ann"), client("ci")
    one = ci.submit(**ASKED)["id"]
    ci.cancel(one)
    ci.cancel(one)  # which changes nothing any more
    ann.retry(one)
    ann.cancel(one)
    ann.delete(one)
    sweep = ann.submit_sweep({"dataset": "digits"}, ["300k"], seeds=[0, 1, 2])["id"]
    for how in ("pause", "resume", "cancel"):
        ann.steer_sweep(sweep, how)
    with writing(seeding.parts(app).searches.engine) as session:
        session.execute(update(Search).where(Search.sweep_id == sweep).values(status=Status.FAILED))
    ann.steer_sweep(sweep, "retry")
    ann.make_token("robot", "read")
    ann.revoke_token("robot")
    root.change_project("vision", max_running=3)
    search, sweep = f"search/{one}", f"sweep/{sweep}"
    assert log(root) == [
        ("ci", "submitted", search, "vision"),
        ("ci", "cancelled", search, "vision"),
        ("ann", "retried", search, "vision"),
        ("ann", "cancelled", search, "vision"),
        ("ann", "deleted", search, "vision"),
        *(("ann", action, sweep, "vision") for action in ("submitted", "paused", "resumed", "cancelled", "retried")),
        ("ann", "token_made", "token/robot", "vision"),
        ("ann", "token_revoked", "token/robot", "vision"),
        ("root", "project_changed", "project/vision", "vision"),
    ]
    [changed] = root.audit(action="project_changed")["items"]
    assert changed["data"] == {"max_running": {"from": None, "to": 3}}
    [deleted] = root.audit(action="deleted")["items"]
    assert deleted["data"] == {"submitted_by": "ci"} and ann.list()["items"], "the search is gone, and not who did it"


def test_a_refused_or_repeated_request_is_not_in_it(client: Connect) -> None:
    ann = client("ann")
    for wrong in ({"budgets": [1]}, {"dataset": "digitz"}):
        with pytest.raises(ClientError):
            ann.submit(**(ASKED | wrong))
    for _ in range(2):
        ann.http.post("/api/v1/searches", json=ASKED, headers={"Idempotency-Key": "monday"})
    assert [action for _, action, _, _ in log(ann)] == ["submitted"]


def test_signing_in_and_out_and_failing_to(app: FastAPI, url: str, client: Connect) -> None:
    link = client("ann").login_link()["url"].partition("#code=")[2]
    with httpx.Client(base_url=url, timeout=60) as browser:
        browser.post("/login", data={"token": NAMED["ann"]})
        browser.post("/logout")
        browser.post("/login", data={"code": link})
        browser.cookies.clear()
        for shown in ({"token": "a-wrong-guess"}, {"token": NAMED["old"]}, {"code": link}):
            assert browser.post("/login", data=shown).status_code == 401
            seeding.parts(app).callers.counts.memory.reset()
        browser.get("/api/v1/searches", headers={"Authorization": f"Bearer {NAMED['old']}"})
    entries = list(reversed(client("root").audit()["items"]))
    told = [(one["by"], one["action"], one["about"], one["data"].get("how"), one["data"].get("why")) for one in entries]
    assert told == [
        ("ann", "signed_in", "token/ann", "token", None),
        ("ann", "signed_out", "token/ann", None, None),
        ("ann", "signed_in", "token/ann", "link", None),
        (None, "sign_in_refused", None, "token", "no such token"),
        (None, "sign_in_refused", "token/old", "token", "it has expired"),
        (None, "sign_in_refused", None, "link", "no such token"),
        (None, "sign_in_refused", "token/old", "bearer", "it has expired"),
    ]
    assert {one["data"]["address"] for one in entries if "address" in one["data"]} == {"127.0.0.1"}
    assert len(log(client("ann"))) == 5, "guesses are the operators' to know of"
    with reading(seeding.parts(app).searches.engine) as session:
        kept = str(session.execute(text("SELECT * FROM audit")).all())
    assert not any(secret in kept for secret in (*TOKENS, "a-wrong-guess", link))


def test_whoever_guesses_cannot_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [0.0]
    monkeypatch.setattr("time.time", lambda: moment[0])
    guesses = Guesses(Counts())
    assert [guesses.failed("a") for _ in range(30)] == [1, *[0] * (MOST_GUESSES - 2), MOST_GUESSES, *[0] * 20]
    noted = sum(bool(guesses.failed(f"10.0.{n // 256}.{n % 256}")) for n in range(1000))
    assert noted == MOST_NOTED - 2
    moment[0] = GUESS_SECONDS + 1
    assert guesses.failed("b") == 1


def test_a_project_reads_of_itself_and_only_its_admins_do(client: Connect) -> None:
    client("ann").submit(**ASKED)
    client("bob").submit(**ASKED)
    assert {project for *_, project in log(client("root"))} == {"vision", "audio"}
    assert {project for *_, project in log(client("bob"))} == {"audio"}
    assert log(client("bob"), project="audio") == log(client("bob"))
    for name, project in (("ci", None), ("bob", "vision")):
        with pytest.raises(ClientError) as refused:
            client(name).audit(project=project)
        assert refused.value.status == 403


def test_it_is_paged_and_filtered(client: Connect) -> None:
    ann, ci, root = client("ann"), client("ci"), client("root")
    searches = [(ann if n % 2 else ci).submit(**ASKED)["id"] for n in range(7)]
    seen: list[str | None] = []
    after = None
    while True:
        page = root.audit(3, after)
        seen += [one["about"] for one in page["items"]]
        if (after := page["next"]) is None:
            break
    assert seen == [f"search/{one}" for one in reversed(searches)]
    assert len(log(root, by="ci")) == 4 and len(log(root, by="ci", action="cancelled")) == 0
    assert len(log(root, about=f"search/{searches[0]}")) == 1
    tomorrow = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 86400))
    assert log(root, since=tomorrow) == [] and len(log(root, until=tomorrow, since="2020-01-31T12:00Z")) == 7
    wrong: Any
    for wrong in ({"since": "soon"}, {"until": "2020-13-01"}, {"action": "sang"}, {"after": "x"}):
        with pytest.raises(ClientError) as refused:
            root.audit(**wrong)
        assert refused.value.status == 422 and refused.value.problem["errors"][0]["field"] == next(iter(wrong))


def test_the_command_line_shows_it(url: str, client: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    search = client("ci").submit(**ASKED)["id"]
    monkeypatch.setenv("YOSO_URL", url)
    monkeypatch.setenv("YOSO_TOKEN", NAMED["ann"])
    monkeypatch.setattr(cli.out, "width", 160)
    told = CliRunner().invoke(cli.app, ["audit", "--by", "ci"])
    assert f"search/{search}" in told.stdout and "submitted" in told.stdout and "dataset digits" in told.stdout
    assert CliRunner().invoke(cli.app, ["audit", "--action", "deleted"]).stdout == "nothing\n"
