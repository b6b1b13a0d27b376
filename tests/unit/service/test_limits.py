"""What one process takes on, asked over real sockets: bodies and what is said of them, rates, and streams."""

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import create_engine
from starlette.types import Message

from nas_core.errors import InvalidValue
from service.access import Access
from service.callers import ANYBODY, Caller, Callers
from service.domain.grants import Grant, Role
from service.settings import Settings
from service.store.audit import Audit
from service.store.logins import Logins, digest
from service.store.tokens import Tokens
from service.web import limits
from service.web.limits import Limits, Streams, counted
from tests import seeding

MAX_BODY = 2048
SMALL: dict[str, Any] = {"max_body": MAX_BODY, "max_streams": 2, "rate": 1e-4, "rate_burst": 5}
TOKENS = {"a-token-of-sixteen": "vision", "another-of-sixteen": "audio"}
PATH = "/api/v1/searches"
GOOD = json.dumps({"dataset": "digits", "budgets": ["300k"]}).encode()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    app = seeding.make_app(tmp_path, **SMALL)
    with seeding.serving(app) as url:
        yield url
    seeding.parts(app).searches.engine.dispose()


def raw(url: str, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are and read until the service closes: status, headers and body of the first answer."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), 30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered and hung up already
        answer = b""
        while b"\r\n\r\n" not in answer and (some := connection.recv(65536)):
            answer += some
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        while len(body) < int(headers.get("content-length", 0)) and (some := connection.recv(65536)):
            body += some
    return int(lines[0].split()[1]), headers, body


def post(*headers: bytes) -> bytes:
    return b"\r\n".join(
        [b"POST /api/v1/searches HTTP/1.1", b"Host: localhost", b"Content-Type: application/json", *headers, b"", b""]
    )


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([post(b"Content-Length: %d" % len(GOOD)), GOOD], 201),
        ([post(b"Content-Length: %d" % (MAX_BODY + 1))], 413),
        ([post(b"Content-Length: 99999999999999999")], 413),
        ([post(b"Content-Length: 99999999999999999999999")], 400),
        ([post(b"Content-Length: %d" % (MAX_BODY + 1), b"Expect: 100-continue")], 413),
        ([post(b"Content-Length: ten"), GOOD], 400),
        ([post(b"Content-Length: -1"), GOOD], 400),
        ([post(b"Content-Length: 5", b"Content-Length: 50"), GOOD], 400),
        ([post(b"Content-Length: 5"), GOOD], 400),
        ([post(b"Transfer-Encoding: chunked"), chunk(GOOD[:9]), chunk(GOOD[9:]), b"0\r\n\r\n"], 201),
        ([post(b"Transfer-Encoding: chunked"), *[chunk(b" " * 1000)] * 3], 413),
        ([post(b"Transfer-Encoding: chunked"), *[chunk(b" " * 1000)] * 9000], 413),
        ([post(b"Transfer-Encoding: chunked"), b"zz\r\n"], 400),
        ([post(b"Transfer-Encoding: chunked", b"Content-Length: 3"), chunk(GOOD), b"0\r\n\r\n"], 201),
        ([post(b"X: " + b"x" * 1_000_000)], 400),
        ([post()], 422),
    ],
)
def test_bodies_are_counted_whatever_is_said_of_them(service: str, parts: list[bytes], status: int) -> None:
    told, headers, body = raw(service, *parts)
    assert told == status
    if status == 413:
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["status"] == 413 and str(MAX_BODY) in json.loads(body)["detail"]
    stored = httpx.get(service + PATH).json()["items"]
    assert len(stored) == (1 if status == 201 else 0)


def test_a_body_that_does_not_come_is_not_waited_for(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    told, headers, _ = raw(service, post(b"Content-Length: 1000"), GOOD)
    assert told == 408 and headers["content-type"] == "application/problem+json"


def test_a_client_that_hangs_up_in_mid_body_leaves_nothing_behind(
    service: str, caplog: pytest.LogCaptureFixture
) -> None:
    where = urlsplit(service)
    for _ in range(3):
        with socket.create_connection((where.hostname or "", where.port or 0), 30) as connection:
            connection.sendall(post(b"Content-Length: 1000") + GOOD)
    assert httpx.get(service + PATH).json()["items"] == []
    assert "Traceback" not in caplog.text


def test_a_malformed_length_is_refused_even_where_the_server_lets_it_through() -> None:
    """Uvicorn's parser refuses it first; another might not."""
    sent: list[Message] = []

    async def ask() -> None:
        async def receive() -> Message:
            raise AssertionError("the body is not to be read")

        async def send(message: Message) -> None:
            sent.append(message)

        settings = Settings("/s", "sqlite:////s/db")
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"1e3")]}
        engine = create_engine("sqlite://")
        access = Access(settings, Callers(settings, Logins(engine), Tokens(engine)), Audit(engine))
        await Limits(receive, settings, access, Streams(1))(scope | {"client": ("127.0.0.1", 1)}, receive, send)  # type: ignore[arg-type]

    # In a thread of its own: the browser's tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, ask()).result()
    assert sent[0]["status"] == 400 and b"Content-Length" in sent[1]["body"]


def test_a_token_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    app = seeding.make_app(tmp_path, tokens=TOKENS, data_roots=(str(tmp_path),), **SMALL)
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        vision, audio = ({"Authorization": f"Bearer {token}"} for token in TOKENS)
        assert [http.get(PATH, headers=vision).status_code for _ in range(5)] == [200] * 5
        told = http.get(PATH, headers=vision)
        assert told.status_code == 429 and told.headers["content-type"] == "application/problem+json"
        assert 1 <= int(told.headers["retry-after"]) <= 50_000
        assert "5 requests in 50,000 seconds" in told.json()["detail"]
        assert http.get(PATH, headers=audio).status_code == 200, "another token is not held back"
        session = seeding.parts(app).callers.logins.begin(digest(next(iter(TOKENS))))
        assert http.get(PATH, headers={"Cookie": f"yoso_8765={session}"}).status_code == 200, "known from now on"
        assert http.get(PATH, headers={"Cookie": f"yoso_8765={session}"}).status_code == 429, "a session counts as well"
    seeding.parts(app).searches.engine.dispose()


def test_whoever_guesses_tokens_is_slowed_down(tmp_path: Path) -> None:
    app = seeding.make_app(tmp_path, tokens=TOKENS, data_roots=(str(tmp_path),), **SMALL)
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        codes = [http.get(PATH, headers={"Authorization": f"Bearer wrong-{n}"}).status_code for n in range(7)]
        assert codes == [401] * 5 + [429] * 2
        good = {"Authorization": f"Bearer {next(iter(TOKENS))}"}
        assert http.get(PATH, headers=good).status_code == 200, "the owner of a token is not"
    seeding.parts(app).searches.engine.dispose()


def test_this_machines_own_user_is_not_limited(service: str) -> None:
    with httpx.Client(base_url=service, timeout=60) as http:
        assert {http.get("/healthz").status_code for _ in range(20)} == {200}


def test_who_is_counted() -> None:
    here, away, vision = "127.0.0.1", "10.0.0.7", Caller(Grant("vision", Role.READ), "hash")
    assert counted(ANYBODY, here) is None and counted(ANYBODY, away) == away
    assert counted(None, here) == here and counted(vision, here) == counted(vision, away) == "hash"


def test_no_more_streams_than_there_may_be(service: str) -> None:
    with httpx.Client(base_url=service, timeout=60) as http:
        search_id = http.post(PATH, content=GOOD, headers={"Content-Type": "application/json"}).json()["id"]
        path = f"{PATH}/{search_id}/events"
        with ExitStack() as stack:
            lines = [stack.enter_context(http.stream("GET", path)).iter_lines() for _ in range(2)]
            assert [next(some) for some in lines] == ["event: status"] * 2
            for refused in (http.get(path), http.get("/live/searches")):
                assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
                assert refused.headers["content-type"] == "application/problem+json"
            assert http.get(PATH).status_code == 200
        for _ in range(200):  # a place is free as soon as the service sees that a client has gone
            with http.stream("GET", path) as response:
                if response.status_code == 200:
                    break
        else:
            raise AssertionError("the places of closed streams are not free again")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("YOSO_MAX_BODY", "1MB"),
        ("YOSO_MAX_BODY", "10"),
        ("YOSO_RATE", "0"),
        ("YOSO_RATE", "nan"),
        ("YOSO_RATE", "inf"),
        ("YOSO_RATE_BURST", "0"),
        ("YOSO_RATE_BURST", "1.5"),
        ("YOSO_MAX_STREAMS", "-1"),
    ],
)
def test_a_limit_that_is_none_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Settings.from_environment({"YOSO_STORAGE": "/data", name: text})
    assert refused.value.field == name


def test_limits_come_from_the_environment() -> None:
    given = {"YOSO_MAX_BODY": "4096", "YOSO_RATE": "2.5", "YOSO_RATE_BURST": "7", "YOSO_MAX_STREAMS": "3"}
    settings = Settings.from_environment({"YOSO_STORAGE": "/data"} | given)
    assert (settings.max_body, settings.rate, settings.rate_burst, settings.max_streams) == (4096, 2.5, 7, 3)


def test_a_browser_is_refused_with_a_page_and_a_program_with_a_document(tmp_path: Path) -> None:
    html = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    app = seeding.make_app(tmp_path, tokens=TOKENS, **SMALL)
    with seeding.serving(app) as service:
        asked = [
            (421, httpx.get(f"{service}/searches", headers={"Host": "<b>elsewhere", "Accept": "text/html"})),
            (413, httpx.post(f"{service}/login", headers=html, content=b"x" * (MAX_BODY + 1))),
            *((429, httpx.get(f"{service}/login", headers=html)) for _ in range(SMALL["rate_burst"])),
        ]
        asked = [*asked[:2], asked[-1]]
        for status, told in asked:
            assert told.status_code == status and told.headers["content-type"] == "text/html; charset=utf-8"
            assert told.headers["content-security-policy"] == "default-src 'none'" and "<b>" not in told.text
        assert "<h1>Unknown host</h1>" in asked[0][1].text and "YOSO_ALLOWED_HOSTS" in asked[0][1].text
        assert int(asked[-1][1].headers["retry-after"]) > 0
        for path, headers in (("/searches", html | {"HX-Request": "true"}), (PATH, html), ("/searches", {})):
            told = httpx.get(f"{service}{path}", headers=headers)
            assert told.headers["content-type"] == "application/problem+json" and told.json()["status"] == 429
    seeding.parts(app).searches.engine.dispose()
