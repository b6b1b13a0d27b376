"""Notifications: e-mail that a real server gets, what is shown of their URLs, and where nothing is ever sent."""

import html
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from service import cli, notifications
from service.client import Client
from service.dispatch import webhooks as sending
from service.domain.lifecycle import Status
from service.domain.receivers import PAUSES, SCHEMES, Event, check_notified, parse_schemes
from service.settings import Settings
from service.store.database import reading, writing
from service.store.models import Webhook
from tests import seeding
from tests.mail import PASSWORD, MailServer, mail_server
from tests.unit.service.test_webhooks import (
    HERE,
    NAMED,
    PUBLIC,
    TOKENS,
    Connect,
    app,
    cancelled,
    client,
    receiving,
    refused,
    sender,
    soon,
    tried,
    until,
)  # fmt: skip

__all__ = ["app", "client", "soon"]
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general"


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with mail_server() as made:
        yield made


def test_what_becomes_of_a_search_is_told_by_mail(
    app: FastAPI, client: Connect, mail: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ann = client("ann")
    made = ann.make_webhook(mail.url, [Event.SUCCEEDED, Event.FAILED])
    assert made["secret"] is None and made["url"].startswith("mailto://yoso:****@127.0.0.1:")
    search = seeding.queue(app, project="vision", name="first \N{SNOWMAN} <!channel> @all")
    with sender(app):
        seeding.Run(app, search).succeed()
        until(lambda: [one["outcome"] for one in ann.deliveries(made["id"])["items"]] == ["taken"])
    [got] = mail.got
    assert got["to"] == "ann@example.org" and "yoso@example.org" in str(got["from"])
    subject, body = heading(got), text_of(got)
    assert subject.startswith("Yoso: the search first \N{SNOWMAN} ") and subject.endswith(" has succeeded")
    assert "<!channel>" not in subject and "@all" not in subject
    assert f"{PUBLIC}/searches/{search}" in body and "Project: vision" in body
    assert mail.passwords == [PASSWORD]
    [attempt] = ann.deliveries(made["id"])["items"][0]["attempts"]
    assert (attempt["status"], attempt["reason"]) == (None, None)
    told = caplog.text + json.dumps([ann.webhooks(), ann.deliveries(made["id"]), ann.audit()])
    assert PASSWORD not in told
    [noted] = ann.audit(about=f"webhook/{made['id']}")["items"]
    assert (noted["action"], noted["data"]) == ("webhook_made", {"scheme": "mailto"})
    ann.delete_webhook(made["id"])
    with reading(seeding.parts(app).searches.engine) as session:
        assert session.scalars(select(Webhook)).all() == []


def heading(message: Any) -> str:
    return str(make_header(decode_header(message["subject"])))


def text_of(message: Any) -> str:
    return "\n".join(part.get_payload(decode=True).decode() for part in message.walk() if not part.is_multipart())


def test_a_message_that_is_not_taken_is_sent_again_with_the_reason(
    app: FastAPI, client: Connect, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.webhooks.PAUSES", (0.0, *PAUSES[1:]))
    mail.answer = "451 try again"
    made = client("ann").make_webhook(mail.url, [Event.CANCELLED])
    hook = Webhook(id=made["id"])
    cancelled(app)
    with sender(app):
        first = tried(app, hook, 2)
        assert first.outcome is None and all(one["reason"] for one in first.attempts)
        assert PASSWORD not in str(first.attempts) and mail.got == []
        mail.answer = "250 OK"
    assert client("ann").deliveries(made["id"])["items"][0]["due_at"] is not None


def test_the_cli_makes_tests_and_lists_them(
    app: FastAPI, url: str, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOSO_URL", url)
    monkeypatch.setenv("YOSO_TOKEN", NAMED["ann"])
    made = CliRunner().invoke(cli.app, ["webhook", "create", mail.url])
    assert made.exit_code == 0 and made.stdout == "" and "secret" not in made.stderr
    listed = CliRunner().invoke(cli.app, ["webhook", "list", "--json"])
    assert PASSWORD not in listed.stdout and "mailto://yoso:****@" in listed.stdout
    [hook] = json.loads(listed.stdout)["items"]
    with sender(app):
        told = CliRunner().invoke(cli.app, ["webhook", "test", hook["id"]])
        assert told.exit_code == 0 and told.stdout == "taken\n", told.stderr
    assert heading(mail.got[0]) == "Yoso: a test"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (
            "mailto://user:secretword@169.254.169.254:25?to=a@example.org",
            "169.254.169.254, which is not a public address",
        ),
        ("mailto://user:secretword@localhost:25?to=a@example.org", "leads to ::1|leads to 127.0.0.1"),
        ("mailto://user:secretword@example.org?smtp=10.0.0.7&to=a@example.org", "leads to 10.0.0.7"),
        ("slack://secretword", "not one that Apprise can use"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/?template=/etc/passwd", "parameter"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general?verify=no", "parameter"),
        ("mailtos://user:secretword@example.org?%76erify=no", "parameter"),
        ("mailtos://user:secretword@example.org?pgpkey=/etc/passwd", "parameter"),
        ("mailtos://user:secretword@example.org?+X-Header=secretword", "parameter"),
        ("json://secretword.example.org", "not the URL of a receiver"),
        ("syslog://secretword", "not the URL of a receiver"),
        ("file:///secretword", "not the URL of a receiver"),
        ("secretword", "not the URL of a receiver"),
    ],
)
def test_a_url_that_leads_inside_or_that_cannot_be_used_is_refused_without_it(
    tmp_path: Path, url: str, why: str
) -> None:
    app = seeding.make_app(tmp_path, tokens=TOKENS, data_roots=(str(tmp_path),))
    with seeding.serving(app) as at, Client(at, NAMED["ann"]) as ann:
        told = refused(lambda: ann.make_webhook(url))
        assert told.status == 422 and any(one in str(told) for one in why.split("|")), str(told)
        assert "secretword" not in str(told) and ann.webhooks()["items"] == []
    seeding.parts(app).searches.engine.dispose()


def notified(url: str, networks: str = "", **environment: str) -> list[dict[str, Any]]:
    """What the process tells that sends one message."""
    asked = {"url": url, "networks": networks, "messages": [["title", "body", "info"]]}
    env = notifications._environment() | environment
    done = subprocess.run(
        notifications.COMMAND, input=json.dumps(asked).encode(), capture_output=True, env=env, timeout=60
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_connection_is_made_to_where_nothing_may_be_sent() -> None:
    """However a plugin comes to it: these are not among those that are allowed, but answer on this machine."""
    with receiving() as receiver:
        here = f"json://127.0.0.1:{receiver.port}"
        assert notified(f"{here}/", "127.0.0.0/8")[1]["reason"] is None and len(receiver.got) == 1
        reason = "it leads to 127.0.0.1, which is not a public address"
        assert notified(f"{here}/")[1]["reason"] == reason
        assert notified(f"json://localhost:{receiver.port}/", "10.0.0.0/8")[1]["reason"].endswith("public address")
        by_proxy = notified("json://hooks.example.org/", HTTP_PROXY=f"http://127.0.0.1:{receiver.port}")
        assert by_proxy[1]["reason"] is not None and len(receiver.got) == 1


def test_the_process_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("YOSO_DATABASE_URL", "YOSO_TOKENS", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "a-secret")
    assert "a-secret" not in notifications._environment().values() and "PATH" in os.environ


def test_what_is_secret_in_a_url_is_shown_to_nobody() -> None:
    shown = notifications.check(SLACK, SCHEMES, HERE, lambda host, port: ["93.184.216.34"])
    assert shown.startswith("slack://T...2/A...D/T...Q/") and "TIiajkdnlazkcOXrIdevi7FQ" not in shown


def test_a_process_that_hangs_is_ended(app: FastAPI, mail: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "SEND_SECONDS", 0.01)
    made = seeding.parts(app).webhooks.store
    with writing(made.engine) as session:
        hook = made.make("vision", mail.url, "mailto", tuple(Event), session, "mailto://…")
    cancelled(app)
    with sender(app):
        message = tried(app, hook)
    assert message.attempts[0]["reason"] == "no answer within 0.01 s"


def test_a_scheme_that_is_allowed_no_longer_is_sent_nothing(app: FastAPI, mail: MailServer) -> None:
    store = seeding.parts(app).webhooks.store
    with writing(store.engine) as session:
        hook = store.make("vision", mail.url, "mailto", tuple(Event), session, "mailto://…")
    cancelled(app)
    made = sending.Sender(store.engine, HERE, PUBLIC, ("slack",))
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        assert tried(app, hook).attempts[0]["reason"] == "not the URL of a receiver"
    finally:
        made.stop()
        thread.join()
    assert mail.got == []


def test_the_operator_says_which_schemes_are_allowed() -> None:
    given = {"YOSO_STORAGE": "/data"}
    assert Settings.from_environment(given).notify_schemes == SCHEMES
    assert Settings.from_environment(given | {"YOSO_NOTIFY_SCHEMES": "mailto, gotifys"}).notify_schemes == (
        "mailto",
        "gotifys",
    )
    assert check_notified("gotifys://host/token", ("gotifys",)) == "gotifys"
    for wrong in ("https", "mail to:", "Ä"):
        with pytest.raises(InvalidValue, match="YOSO_NOTIFY_SCHEMES"):
            parse_schemes(wrong)


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("search", Status.RUNNING, ("Yoso: the search night is running", "info")),
        ("search", Status.CANCELLED, ("Yoso: the search night was cancelled", "warning")),
        ("sweep", Status.FAILED, ("Yoso: the sweep night has failed", "failure")),
        ("finals", Status.SUCCEEDED, ("Yoso: finals night have succeeded", "success")),
        ("finals", Status.RUNNING, ("Yoso: finals night are running", "info")),
    ],
)
def test_messages_are_told_in_words(kind: str, status: Status, told: tuple[str, str]) -> None:
    data = {
        "kind": kind,
        "id": "abc",
        "name": "night",
        "project": "vision",
        "status": status.value,
        "links": {"page": "/x"},
    }
    title, body, mood = notifications.in_words({"data": data})
    assert (title, mood) == told and body == "Project: vision\nId: abc"


def test_the_pages_make_show_try_and_delete(app: FastAPI, url: str, client: Connect, mail: MailServer) -> None:
    with httpx.Client(base_url=url, timeout=60) as browser:
        browser.post("/login", data={"token": NAMED["ann"]})
        assert 'href="/webhooks"' in browser.get("/cluster").text
        for wrong, field in (
            ({"url": "ftp://<b>/"}, "url"),
            ({"url": "mailto://user:secretword@10.0.0.1"}, "url"),
            ({"event": []}, "event"),
            ({"event": "<b>"}, "event"),
        ):
            told = browser.post("/webhooks", data={"url": mail.url, "event": ["failed"]} | wrong)
            assert told.status_code == 422 and "No webhook was made" in told.text and field in told.text
            assert "<b>" not in told.text
        assert (
            browser.post("/webhooks", data={"url": mail.url, "event": "failed", "project": "audio"}).status_code == 403
        )
        assert client("ann").webhooks()["items"] == []
        made = browser.post("/webhooks", data={"url": mail.url, "event": ["failed", "cancelled"]})
        assert made.status_code == 200 and "created" in made.text and PASSWORD not in made.text
        [hook] = client("ann").webhooks()["items"]
        assert hook["events"] == ["failed", "cancelled"]
        signed = browser.post("/webhooks", data={"url": "http://127.0.0.1:9/", "event": "failed"})
        assert len(re.findall(r"whsec_[A-Za-z0-9+/]{43}=", html.unescape(signed.text))) == 1
        assert "whsec_" not in browser.get("/webhooks").text
        tried = browser.post(f"/webhooks/{hook['id']}/test")
        assert tried.headers["location"] == f"/webhooks/{hook['id']}"
        with sender(app):
            until(lambda: client("ann").deliveries(hook["id"])["items"][0]["outcome"])
        shown = browser.get(f"/webhooks/{hook['id']}").text
        assert "taken" in shown and PASSWORD not in shown and "yoso:****@127.0.0.1" in shown
        browser.post(f"/webhooks/{hook['id']}/delete")
        gone = browser.get(f"/webhooks/{hook['id']}", headers={"Accept": "text/html"})
        assert gone.status_code == 404 and "No such webhook" in gone.text
