"""Webhooks: what they are told and how it arrives, and where nothing is ever sent; with a real receiver."""

import json
import re
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI
from sqlalchemy import Engine, select, text, update
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from service import addresses, cli
from service.addresses import Resolve, addresses_of
from service.client import Client, ClientError
from service.dispatch import webhooks as sending
from service.dispatch.webhooks import Sender
from service.domain.lifecycle import Status
from service.domain.receivers import PAUSES, Event, may_be_sent_to, new_secret, parse_networks, sign
from service.settings import Settings
from service.store.database import connect as connect_to
from service.store.database import reading, writing
from service.store.models import Delivery, Webhook
from service.store.webhooks import AT_ONCE, MOST_OF_PROJECT, WebhookStore
from service.store.work import Work
from tests import seeding

TOKENS = {
    "the-operators-token": "*:admin:root",
    "who-administers-vision": "vision:admin:ann",
    "who-submits-to-vision": "vision:submit:ci",
    "who-administers-audio": "audio:admin:bob",
}
NAMED = {grant.split(":")[-1]: token for token, grant in TOKENS.items()}
HERE = parse_networks("127.0.0.0/8")
PUBLIC = "https://yoso.example.org"
PATIENCE = 60.0
Connect = Callable[[str], Client]


@dataclass
class Received:
    """A request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Receiver:
    """A server that keeps what it gets, and answers it as its path says: `/500`, `/302`, `/slow`, `/trickle`, …"""

    port: int = 0
    got: list[Received] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    """What paths answer instead."""
    patience: threading.Event = field(default_factory=threading.Event)
    """Set when `/slow` may answer."""

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def types(self, path: str = "/") -> list[str]:
        return [one.document["type"] for one in self.got if one.path == path]


@contextmanager
def receiving(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.got.append(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if self.path == "/slow":
                made.patience.wait(PATIENCE)
            if self.path == "/trickle":
                while not made.patience.wait(0.05):
                    self.wfile.write(b"H")
                return
            asked = self.path.lstrip("/")
            self.send_response(made.answers.get(self.path, int(asked) if asked.isdigit() else 204))
            self.send_header("location", made.url("/elsewhere"))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A sender that was killed, or has given up, is no fault of the receiver's."""

    server = Server(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.patience.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due is looked for at once."""
    monkeypatch.setattr(sending, "POLL_SECONDS", 0.05)


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Iterator[FastAPI]:
    made = seeding.make_app(tmp_path, database_url, tokens=TOKENS, data_roots=(str(tmp_path),), webhook_networks=HERE)
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture
def client(url: str) -> Iterator[Connect]:
    """A client with the token of that name."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(Client(url, NAMED[name]))


@contextmanager
def sender(app: FastAPI, public_url: str | None = PUBLIC, resolve: Resolve = addresses.resolve) -> Iterator[Sender]:
    """What sends in a process that dispatches."""
    made = Sender(seeding.parts(app).searches.engine, HERE, public_url, resolve=resolve)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.stop()
        thread.join()


def hook(app: FastAPI, url: str, *events: Event, project: str = "vision") -> Webhook:
    """A new webhook of all events, unless some are named."""
    store = seeding.parts(app).webhooks.store
    with writing(store.engine) as session:
        return store.make(project, url, "host", events or tuple(Event), session)


def messages(app: FastAPI, webhook: Webhook) -> list[Delivery]:
    """Those to a webhook, the oldest first."""
    store = seeding.parts(app).webhooks.store
    return list(reversed(store.deliveries(webhook.id, None, 500)))


def until(holds: Callable[[], Any]) -> Any:
    """Wait until something holds; its value."""
    give_up = time.monotonic() + PATIENCE
    while not (value := holds()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return value


def tried(app: FastAPI, webhook: Webhook, times: int = 1) -> Delivery:
    """The oldest message to a webhook, once it was sent so many times."""
    until(lambda: len(messages(app, webhook)[0].attempts) == times)
    return messages(app, webhook)[0]


def cancelled(app: FastAPI, project: str = "vision") -> str:
    """A search that is queued and cancelled: one event."""
    made = seeding.queue(app, project=project)
    seeding.parts(app).searches.cancel(made)
    return made


def refused(ask: Callable[[], object]) -> ClientError:
    with pytest.raises(ClientError) as error:
        ask()
    return error.value


def snippet() -> dict[str, Any]:
    """What the documentation shows to receivers."""
    told = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text()
    names: dict[str, Any] = {}
    exec(told.partition("```python\n")[2].partition("```")[0], names)
    return names


def test_a_search_is_told_from_its_start_to_its_end(
    app: FastAPI, client: Connect, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    caplog.set_level("WARNING", "httpx")  # as service.logs does
    ann = client("ann")
    made = ann.make_webhook(receiver.url("/hook?for=me"), [*Event])
    elsewhere = client("bob").make_webhook(receiver.url("/of-audio"), [*Event])
    search = seeding.queue(app, project="vision", name="first \N{SNOWMAN}")
    with sender(app):
        seeding.Run(app, search).succeed()
        until(lambda: len(receiver.got) == 2)
        until(lambda: all(one["outcome"] for one in ann.deliveries(made["id"])["items"]))
    # Several may be sent at the same time.
    first, last = sorted(receiver.got, key=lambda one: str(one.document["timestamp"]))
    assert (first.document["type"], last.document["type"]) == ("search.running", "search.succeeded")
    assert last.document == {
        "id": last.headers["webhook-id"],
        "type": "search.succeeded",
        "timestamp": last.document["timestamp"],
        "data": {
            "kind": "search",
            "id": search,
            "name": "first \N{SNOWMAN}",
            "project": "vision",
            "status": "succeeded",
            "sweep": None,
            "links": {"api": f"{PUBLIC}/api/v1/searches/{search}", "page": f"{PUBLIC}/searches/{search}"},
        },
    }
    verify = snippet()["verify"]
    for one in receiver.got:
        assert one.path == "/hook?for=me" and one.headers["content-type"] == "application/json"
        verify(made["secret"], one.headers, one.body)
        for wrong in (
            (new_secret(), one.headers, one.body),
            (made["secret"], one.headers, one.body + b" "),
            (made["secret"], one.headers | {"webhook-id": "another"}, one.body),
        ):
            with pytest.raises(ValueError):
                verify(*wrong)
    [taken] = ann.webhooks()["items"]
    assert taken == {**{k: v for k, v in made.items() if k != "secret"}, "taken_at": taken["taken_at"]}
    assert taken["taken_at"] is not None and taken["created_by"] == "ann"
    for message in ann.deliveries(made["id"])["items"]:
        [attempt] = message["attempts"]
        assert (message["outcome"], message["due_at"]) == ("taken", None)
        assert (attempt["status"], attempt["reason"]) == (204, None) and attempt["seconds"] < PATIENCE
    assert client("bob").deliveries(elsewhere["id"])["items"] == [], "another project's is told nothing"
    told = caplog.text + json.dumps([ann.webhooks(), ann.deliveries(made["id"]), ann.audit()])
    assert made["secret"] and made["secret"] not in told and "for=me" not in json.dumps(ann.audit()) + caplog.text
    noted = [(one["action"], one["about"]) for one in ann.audit(about=f"webhook/{made['id']}")["items"]]
    assert noted == [("webhook_made", f"webhook/{made['id']}")]


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks and its libraries."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    signed = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_sweep_is_told_when_its_first_search_runs_and_its_last_ends(app: FastAPI) -> None:
    made = hook(app, "https://hooks.example.org")
    sweep = seeding.sweep(app, project="vision", name="night", budgets=["300k"], seeds=[0, 1, 2])
    one, two, three = (search.id for search in seeding.parts(app).sweeps.searches(sweep, 9))
    seeding.Run(app, one, only=True).start().move(Status.FAILED, error={"message": "/data/secret-path"})
    seeding.Run(app, two, only=True).start()

    def told() -> Counter[str]:
        return Counter(message.kind for message in messages(app, made))

    assert told() == {"search.running": 2, "sweep.running": 1, "search.failed": 1}
    with writing(seeding.parts(app).sweeps.engine) as session:
        seeding.parts(app).sweeps.cancel(session, sweep)
    assert told()["search.cancelled"] == 1 and told()["sweep.failed"] == 0, "one is still with Ray"
    state = seeding.parts(app).searches.get(two)
    Work(seeding.parts(app).searches.engine).move(two, state.lease_token or "", Status.CANCELLED)
    assert told()["search.cancelled"] == 2 and told()["sweep.failed"] == 1
    [ended] = [message for message in messages(app, made) if message.kind == "sweep.failed"]
    assert ended.document["data"] == {
        **{"kind": "sweep", "id": sweep, "name": "night", "project": "vision", "status": "failed", "sweep": sweep},
        "links": {"api": f"/api/v1/sweeps/{sweep}", "page": f"/sweeps/{sweep}"},
    }
    assert "secret-path" not in str([message.document for message in messages(app, made)])
    seeding.parts(app).searches.retry(three)
    seeding.parts(app).searches.cancel(three)
    assert told()["sweep.failed"] == 2, "it has ended once more"


def test_a_sweep_that_is_cancelled_as_a_whole_is_told_once(app: FastAPI) -> None:
    made = hook(app, "https://hooks.example.org", Event.CANCELLED)
    sweep = seeding.sweep(app, project="vision", budgets=["300k"], seeds=[0, 1])
    with writing(seeding.parts(app).sweeps.engine) as session:
        seeding.parts(app).sweeps.cancel(session, sweep)
    assert [message.kind for message in messages(app, made) if "sweep" in message.kind] == ["sweep.cancelled"]
    assert len(messages(app, made)) == 3


def test_of_two_that_end_at_the_same_moment_one_ends_the_sweep(tmp_path: Path, postgres_url: str) -> None:
    app = seeding.make_app(tmp_path, postgres_url)
    made = hook(app, "https://hooks.example.org", project="default")
    sweep = seeding.sweep(app, budgets=["300k"], seeds=[0, 1])
    one, two = (search.id for search in seeding.parts(app).sweeps.searches(sweep, 9))
    searches = seeding.parts(app).searches
    with writing(searches.engine) as session:
        searches.cancel(one, session)
        other = threading.Thread(target=searches.cancel, args=(two,))
        other.start()
        until(lambda: _any_waits(searches.engine))
    other.join()
    assert Counter(message.kind for message in messages(app, made)) == {"search.cancelled": 2, "sweep.cancelled": 1}
    searches.engine.dispose()


def _any_waits(engine: Engine) -> bool:
    """Whether somebody waits for a lock of the database."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with reading(engine) as session:
        return session.execute(text(waiting)).first() is not None


def test_what_did_not_come_to_be_is_not_told_and_what_did_is_sent_later(app: FastAPI, receiver: Receiver) -> None:
    made = hook(app, receiver.url())
    search = seeding.queue(app, project="vision")
    with pytest.raises(RuntimeError), writing(seeding.parts(app).searches.engine) as session:
        seeding.parts(app).searches.cancel(search, session)
        raise RuntimeError("the process dies before it commits")
    assert messages(app, made) == []
    seeding.parts(app).searches.cancel(search)  # and here after it has
    with sender(app, None):
        until(lambda: receiver.got)
    assert receiver.got[0].document["data"]["links"]["page"] == f"/searches/{search}", "no URL is known"


KILLED = """
import sys
from service.dispatch.webhooks import Sender
from service.domain.receivers import parse_networks
from service.store.database import connect
Sender(connect(sys.argv[1]), parse_networks("127.0.0.0/8")).run()
"""


def test_what_a_killed_process_was_sending_is_sent_again_under_the_same_id(
    app: FastAPI, receiver: Receiver, database_url: str
) -> None:
    made = hook(app, receiver.url("/slow"))
    cancelled(app)
    process = subprocess.Popen([sys.executable, "-c", KILLED, database_url])
    until(lambda: receiver.got)
    process.kill()
    process.wait()
    receiver.patience.set()
    with sender(app):
        time.sleep(0.3)
        assert len(receiver.got) == 1, "the dead one's lease has not run out"
        with writing(seeding.parts(app).searches.engine) as session:
            session.execute(update(Webhook).values(leased_until=0.0))
        until(lambda: [message.outcome for message in messages(app, made)] == ["taken"])
    assert len({one.headers["webhook-id"] for one in receiver.got}) == 1 and len(receiver.got) == 2


def test_a_sender_that_stops_gives_back_what_it_had(app: FastAPI, receiver: Receiver) -> None:
    made = hook(app, receiver.url("/slow"))
    cancelled(app)
    with sender(app):
        until(lambda: receiver.got)
    receiver.patience.set()
    with sender(app):
        until(lambda: [message.outcome for message in messages(app, made)] == ["taken"])


def test_of_several_senders_one_sends_each_message(tmp_path: Path, postgres_url: str, receiver: Receiver) -> None:
    app = seeding.make_app(tmp_path, postgres_url)
    hooks = [hook(app, receiver.url(f"/{path}"), project="default") for path in "ab"]
    for _ in range(AT_ONCE + 4):
        cancelled(app, "default")
    with sender(app), sender(app):
        until(lambda: all(message.outcome for made in hooks for message in messages(app, made)))
    ids = Counter(one.headers["webhook-id"] for one in receiver.got)
    assert len(ids) == 2 * (AT_ONCE + 4) and set(ids.values()) == {1}
    seeding.parts(app).searches.engine.dispose()


def test_a_slow_receiver_delays_no_other(app: FastAPI, receiver: Receiver) -> None:
    slow, quick = hook(app, receiver.url("/slow")), hook(app, receiver.url("/quick"))
    with sender(app):
        cancelled(app)
        until(lambda: receiver.types("/slow"))
        for _ in range(AT_ONCE):
            cancelled(app)
        until(lambda: len(receiver.types("/quick")) == AT_ONCE + 1)
        assert messages(app, slow)[0].attempts == [], "it has not answered all the while"
        until(lambda: all(message.outcome == "taken" for message in messages(app, quick)))


@pytest.mark.parametrize("path", ["/slow", "/trickle"])
def test_an_answer_that_does_not_come_to_its_point_is_given_up(
    app: FastAPI, receiver: Receiver, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.3)
    made = hook(app, receiver.url(path))
    cancelled(app)
    with sender(app):
        until(lambda: messages(app, made)[0].attempts)
    [attempt] = messages(app, made)[0].attempts
    assert (attempt["status"], attempt["reason"]) == (None, "no answer within 0.3 s")


def due_now(app: FastAPI) -> None:
    """Let the pauses until the next attempts have passed."""
    with writing(seeding.parts(app).searches.engine) as session:
        session.execute(update(Delivery).where(Delivery.due_at.is_not(None)).values(due_at=1.0))


def test_what_is_not_taken_is_sent_again_ever_later_until_the_webhook_is_switched_off(
    app: FastAPI, client: Connect, receiver: Receiver
) -> None:
    ann = client("ann")
    made = hook(app, receiver.url("/500"))
    cancelled(app)
    with sender(app):
        for number, pause in enumerate(PAUSES, 1):
            one = tried(app, made, number)
            assert one.due_at is not None and one.due_at - one.attempts[-1]["time"] == pytest.approx(pause)
            assert (one.attempts[-1]["status"], one.attempts[-1]["reason"]) == (500, "answered 500")
            if number == len(PAUSES):
                waits = cancelled(app)
                until(lambda: len(messages(app, made)[1].attempts) == 1)
                with writing(seeding.parts(app).searches.engine) as session:
                    session.execute(update(Delivery).where(Delivery.id == one.id).values(due_at=1.0))
            else:
                due_now(app)
        [seen] = until(lambda: [one for one in ann.webhooks()["items"] if one["off_at"]])
        assert "9 attempts" in seen["off_reason"] and "answered 500" in seen["off_reason"]
        assert [message.outcome for message in messages(app, made)] == ["given_up"] * 2 and waits
        [noted] = ann.audit(action="webhook_switched_off")["items"]
        assert (noted["by"], noted["about"]) == (None, f"webhook/{made.id}")
        cancelled(app)
        assert len(messages(app, made)) == 2, "nothing is written for it any more"
        failed = ann.test_webhook(made.id)["id"]
        until(lambda: [m for m in messages(app, made) if m.id == failed and m.outcome == "given_up"])
        assert ann.webhooks()["items"][0]["off_at"] is not None, "a test is sent once"
        assert "yoso_webhook_given_up_total 2.0" in client("root").http.get("/metrics").text, "a test is not counted"
        receiver.answers["/500"] = 200
        ann.test_webhook(made.id)
        until(lambda: ann.webhooks()["items"][0]["off_at"] is None)
        search = cancelled(app)
        until(lambda: search in str(receiver.got[-1].document))


def test_one_message_that_is_never_taken_switches_nothing_off_while_others_are(
    app: FastAPI, receiver: Receiver
) -> None:
    made = hook(app, receiver.url("/500"))
    cancelled(app)
    engine = seeding.parts(app).searches.engine
    with sender(app):
        for number in range(1, len(PAUSES) + 1):
            tried(app, made, number)
            with writing(engine) as session:  # meanwhile another was taken
                session.execute(update(Webhook).values(taken_at=time.time() + 60))
            due_now(app)
        until(lambda: messages(app, made)[0].outcome == "given_up")
    with reading(engine) as session:
        assert session.get_one(Webhook, made.id).off_at is None


def test_a_receiver_that_is_gone_is_switched_off_at_once(app: FastAPI, client: Connect, receiver: Receiver) -> None:
    made = hook(app, receiver.url("/410"))
    cancelled(app)
    with sender(app):
        [seen] = until(lambda: [one for one in client("ann").webhooks()["items"] if one["off_at"]])
    assert "410" in seen["off_reason"] and messages(app, made)[0].outcome == "given_up"


def test_redirects_are_not_followed(app: FastAPI, receiver: Receiver) -> None:
    hooks = [hook(app, receiver.url(path)) for path in ("/302", "/307")]
    cancelled(app)
    with sender(app):
        for made, status in zip(hooks, (302, 307), strict=True):
            [attempt] = tried(app, made).attempts
            assert (attempt["status"], attempt["reason"]) == (
                status,
                f"answered {status}: Yoso does not follow redirects",
            )
    assert {one.path for one in receiver.got} == {"/302", "/307"}


def test_a_name_that_comes_to_lead_inside_is_sent_nothing(app: FastAPI, receiver: Receiver) -> None:
    leads: list[str] = ["127.0.0.1", "10.0.0.5"]
    made = hook(app, f"http://hooks.example:{receiver.port}/")
    cancelled(app)
    with sender(app, resolve=lambda host, port: leads):
        [attempt] = until(lambda: messages(app, made)[0].attempts)
        assert attempt["reason"] == "hooks.example leads to 10.0.0.5, which is not a public address"
        assert attempt["status"] is None and receiver.got == []
        leads.pop()
        due_now(app)
        until(lambda: receiver.got)
    assert receiver.got[0].headers["host"] == f"hooks.example:{receiver.port}"


def test_a_name_that_leads_nowhere_is_tried_again(
    app: FastAPI, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "LOOK_UP_SECONDS", 0.2)
    hanging = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        if host == "slow.example":
            hanging.wait(PATIENCE)
        raise OSError("no such name")

    hooks = [hook(app, f"http://{name}.example") for name in ("slow", "none")]
    cancelled(app)
    with sender(app, resolve=resolve):
        told = [tried(app, made).attempts[0]["reason"] for made in hooks]
    hanging.set()
    assert told[0] == "slow.example cannot be looked up: it took longer than 0.2 s"
    assert told[1] == "none.example cannot be looked up: no such name"


def test_the_certificate_is_that_of_the_name_and_not_of_the_address(
    app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), False)
        .add_extension(x509.BasicConstraints(True, 0), True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "hooks.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with receiving(context) as receiver:
        right, wrong = (hook(app, f"https://{name}.example:{receiver.port}/") for name in ("hooks", "other"))
        cancelled(app)
        with sender(app, resolve=lambda host, port: ["127.0.0.1"]):
            until(lambda: messages(app, right)[0].outcome == "taken")
            [attempt] = until(lambda: messages(app, wrong)[0].attempts)
    assert "certificate" in attempt["reason"].lower() and len(receiver.got) == 1


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        *(
            (one, False)
            for one in ("93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822")
        ),
        *((one, True) for one in ("127.0.0.1", "127.8.9.10", "0.0.0.0", "::1", "::", "10.1.2.3", "172.16.0.1")),
        *(
            (one, True)
            for one in ("192.168.1.1", "100.64.0.1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "fd00::1")
        ),
        *((one, True) for one in ("fd00:ec2::254", "168.63.129.16", "100.100.100.200", "224.0.0.1", "ff02::1")),
        *(
            (one, True)
            for one in ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "::7f00:1")
        ),
        *((one, True) for one in ("64:ff9b:1::a00:1", "2001:db8::1")),
        *((one, True) for one in ("255.255.255.255", "240.0.0.1", "fec0::1", "192.0.0.192", "198.18.0.1")),
    ],
)
def test_addresses_inside_are_known(address: str, inside: bool) -> None:
    assert may_be_sent_to(address, ()) is not inside
    assert may_be_sent_to(address, parse_networks("0.0.0.0/0,::/0"))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://localhost/", "leads to"),
        ("http://0x7f.1/", "leads to 127.0.0.1"),
        ("http://2130706433/", "leads to 127.0.0.1"),
        ("http://[::1]:8080/", "leads to ::1"),
        ("http://[::ffff:169.254.169.254]/latest", "leads to"),
        ("https://169.254.169.254/latest/meta-data", "leads to 169.254.169.254"),
        ("http://nowhere.invalid/", "cannot be looked up"),
        ("ftp://93.184.216.34/", "not the URL"),
        ("file:///etc/passwd", "not the URL"),
        ("//93.184.216.34/", "not the URL"),
        ("hooks", "not the URL"),
        ("", "not the URL"),
        ("http://", "not the URL"),
        ("http://[", "not the URL"),
        ("http://93.184.216.34:0/", "not the URL"),
        ("http://93.184.216.34:99999/", "not the URL"),
        ("http://93.184.216.34/#part", "not the URL"),
        ("http://93.184.216.34/a b", "not the URL"),
        ("http://93.184.216.34/\r\nx", "not the URL"),
        ("http://user:secret@93.184.216.34/", "a user or a password"),
        ("http://user@93.184.216.34/", "a user or a password"),
        ("http://93.184.216.34/" + "x" * 2000, "longer than"),
        ("http://" + "x" * 100 + ".example/", "cannot be looked up"),
    ],
)
def test_a_url_that_cannot_be_sent_to_is_refused_at_the_door(tmp_path: Path, url: str, told: str) -> None:
    app = seeding.make_app(tmp_path)
    with seeding.serving(app) as at, Client(at) as client:
        error = refused(partial(client.make_webhook, url))
        assert error.status == 422 and error.problem["errors"][0]["field"] == "url"
        assert told in str(error) and "accepted: " in str(error) and "secret" not in str(error.problem)
    seeding.parts(app).searches.engine.dispose()


def test_what_no_webhook_can_be_is_refused(client: Connect, receiver: Receiver) -> None:
    ann, url = client("ann"), receiver.url()
    told = refused(lambda: ann.make_webhook(url, ["exploded"]))
    assert told.status == 422 and "'running', 'succeeded', 'failed' or 'cancelled'" in str(told)
    assert refused(lambda: ann.make_webhook(url, [])).problem["errors"][0]["field"] == "events"
    assert refused(lambda: ann.make_webhook(url, project="audio")).status == 403
    assert refused(lambda: client("root").make_webhook(url, project="../x")).problem["errors"][0]["field"] == "project"
    assert client("root").make_webhook(url)["project"] == "default"
    assert refused(lambda: client("ci").make_webhook(url)).status == 403
    made = [ann.make_webhook(url, ["failed", "failed"]) for _ in range(MOST_OF_PROJECT)]
    assert made[0]["events"] == ["failed"]
    full = refused(lambda: ann.make_webhook(url))
    assert full.status == 403 and f"may have {MOST_OF_PROJECT}" in str(full)
    ask: Any
    for ask in (client("bob").delete_webhook, client("bob").test_webhook, client("bob").deliveries):
        assert refused(partial(ask, made[0]["id"])).status == 404
    page = ann.webhooks(4)
    assert len(page["items"]) == 4 and len(ann.webhooks(500, page["next"])["items"]) == MOST_OF_PROJECT - 4
    ann.delete_webhook(made[0]["id"])
    assert refused(lambda: ann.deliveries(made[0]["id"])).status == 404
    ann.make_webhook(url)


def test_a_setting_that_names_no_networks_is_refused() -> None:
    for wrong in ("10.0.0.0/33", "hooks.example", "10.0.0.1/8"):
        with pytest.raises(InvalidValue, match="YOSO_WEBHOOK_NETWORKS"):
            Settings.from_environment({"YOSO_STORAGE": "/data", "YOSO_WEBHOOK_NETWORKS": wrong})
    given = {"YOSO_STORAGE": "/data", "YOSO_WEBHOOK_NETWORKS": "10.0.0.0/8 fd00::/8", "YOSO_KEEP_DELIVERIES_DAYS": "3"}
    found = Settings.from_environment(given)
    assert addresses_of("http://[fd00::1]/", found.webhook_networks) == ["fd00::1"]
    assert found.retention.delivery_days == 3.0


def test_messages_are_kept_for_a_while_and_what_is_to_be_sent_until_it_is(app: FastAPI) -> None:
    store, made = seeding.parts(app).webhooks.store, hook(app, "https://hooks.example.org")
    for _ in range(3):
        cancelled(app)
    one, two, three = (message.id for message in messages(app, made))
    with writing(store.engine) as session:
        old = time.time() - 31 * 86400
        session.execute(update(Delivery).where(Delivery.id.in_([one, two])).values(created_at=old))
        session.execute(update(Delivery).where(Delivery.id == two).values(due_at=None, outcome="taken"))
    store.forget_old(30.0, 100)
    assert {message.id for message in messages(app, made)} == {one, three}
    with writing(store.engine) as session:
        session.execute(update(Delivery).where(Delivery.id == one).values(webhook_id="deleted"))
    store.forget_old(30.0, 100)
    with reading(store.engine) as session:
        assert session.scalars(select(Delivery.id)).all() == [three]


def test_a_webhook_that_is_deleted_meanwhile_keeps_no_search_from_ending(app: FastAPI, receiver: Receiver) -> None:
    made = hook(app, receiver.url("/slow"))
    cancelled(app)
    store = seeding.parts(app).webhooks.store
    with sender(app):
        until(lambda: receiver.got)
        with writing(store.engine) as session:
            store.delete(made.id, None, session)
        receiver.patience.set()
        assert seeding.parts(app).searches.get(cancelled(app)).status == "cancelled"
    with reading(store.engine) as session:
        assert session.scalars(select(Delivery)).all() == []


def test_the_secret_is_in_no_error_of_the_database(database_url: str) -> None:
    engine, secret = connect_to(database_url), new_secret()
    values = {"id": "w", "project": "p", "url": "", "events": [], "created_at": 0.0, "leased_until": 0.0}
    with pytest.raises(Exception) as error, writing(engine) as session:
        for _ in range(2):
            session.execute(Webhook.__table__.insert().values(secret=secret, **values))  # type: ignore[attr-defined]
    assert "INSERT INTO webhooks" in str(error.value) and secret not in str(error.value)
    assert not re.search(re.escape(secret), repr(WebhookStore(engine).claim(1)))
    engine.dispose()


def test_the_command_line(app: FastAPI, url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOSO_URL", url)
    monkeypatch.setenv("YOSO_TOKEN", NAMED["ann"])
    monkeypatch.setattr(cli.out, "width", 200)
    monkeypatch.setattr(cli, "POLL_SECONDS", 0.05)

    def yoso(*words: str, code: int = 0) -> str:
        told = CliRunner().invoke(cli.app, ["webhook", *words])
        assert told.exit_code == code, told.output
        return told.stdout

    assert yoso("list") == "no webhooks\n"
    secret = yoso("create", receiver.url("/500"), "--event", "failed").strip()
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    [made] = json.loads(yoso("list", "--json"))["items"]
    with sender(app):
        assert yoso("test", made["id"], code=1) == "not taken: answered 500\n"
        receiver.answers["/500"] = 200
        assert yoso("test", made["id"]) == "taken\n"
    listed, sent = yoso("list"), yoso("deliveries", made["id"])
    assert made["id"] in listed and "failed" in listed and "on" in listed and secret not in listed + sent
    assert "answered 500" in sent and "taken" in sent and "given up" in sent
    assert yoso("delete", made["id"]) == f"deleted webhook {made['id']}\n" and yoso("list") == "no webhooks\n"
