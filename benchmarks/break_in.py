"""Tries to break into a service that really runs, and says what each attempt got: `make break-in`.

Two projects have tokens. Whoever attacks knows what the documentation says, and has what each row says. A second
service launches searches on a double of Ray, whose workers leave in their folders what `tests.hostile` says. The exit
code is 1 where any attempt succeeds.
"""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.table import Table

from nas_core.files import FILES
from service.answers import ENDED
from service.client import Client
from service.connections import HEAD_SECONDS
from service.dispatch.local_ray import free_ports, ray_environment
from service.folders.runs import of_attempt
from service.web.limits import BODY_SECONDS, MOST_OF_NOBODY
from tests import hostile, seeding
from tests.ray_double import RayDouble, ray_double

TOKENS = {
    "the-token-of-vision-0001": "vision",
    "the-token-of-audio-00001": "audio",
    "only-reads-vision-000001": "vision:read",
    "expired-long-ago-0000001": "vision:admin:old@2020-01-31",
}
VISION, AUDIO, READER, EXPIRED = TOKENS
PATH = "/api/v1/searches"
ASKED: dict[str, Any] = {"dataset": "digits", "budgets": ["300k"]}
EVIL = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
MOST_STREAMS = 3


@dataclass(frozen=True)
class Row:
    """An attempt: what was tried, what would be right, what it got, and whether it succeeded."""

    attack: str
    right: str
    got: str
    succeeded: bool


@dataclass
class Victim:
    """A service that runs, with a search of each project."""

    url: str
    folder: Path
    vision: str
    audio: str

    def http(self, token: str | None = None) -> httpx.Client:
        """A client with a token, or without."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, timeout=60, headers=headers)

    def browser(self) -> httpx.Client:
        """A client that has signed in with the token of vision."""
        signed_in = httpx.post(self.url + "/login", data={"token": VISION})
        return httpx.Client(base_url=self.url, timeout=60, cookies=signed_in.cookies)

    def connect(self) -> socket.socket:
        """A connection of its own."""
        where = urlsplit(self.url)
        return socket.create_connection((where.hostname or "", where.port or 0), 30)

    def state(self, search_id: str, token: str) -> str:
        """The state of a search."""
        with self.http(token) as http:
            return str(http.get(f"{PATH}/{search_id}").json()["status"])


Attempt = Callable[[Victim], tuple[str, bool]]
ATTEMPTS: list[tuple[str, str, Attempt]] = []
WAITING: set[Attempt] = set()
"""The attempts that mostly wait, while others are tried."""


def attempt(attack: str, right: str, waits: bool = False) -> Callable[[Attempt], Attempt]:
    """Add a function that tries `attack` and returns what it got and whether it succeeded."""

    def add(function: Attempt) -> Attempt:
        ATTEMPTS.append((attack, right, function))
        if waits:
            WAITING.add(function)
        return function

    return add


@attempt("a page whose name leads to this machine reads the list (DNS rebinding)", "421")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.browser() as http:
        code = http.get(PATH, headers={"Host": "evil.example:8765"}).status_code
    return str(code), code != 421


@attempt("another site's page cancels a search with the visitor's cookie", "403, and the search stays queued")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.browser() as http:
        code = http.post(f"{PATH}/{victim.vision}/cancel", headers=EVIL).status_code
    state = victim.state(victim.vision, VISION)
    return f"{code}, {state}", code != 403 or state != "queued"


@attempt("another site sends the form, signs in or out in the visitor's name", "403")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.browser() as http:
        codes = [
            http.post(path, data=data, headers=headers).status_code
            for path, data in (("/submit", {"dataset": "digits"}), ("/login", {"token": AUDIO}), ("/logout", {}))
            for headers in (EVIL, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"})
        ]
    return ", ".join(map(str, sorted(set(codes)))), set(codes) != {403}


@attempt("a script, or another site, gets the cookie; the cookie is the token", "HttpOnly, SameSite=strict, random")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http() as http:
        cookie = http.post("/login", data={"token": VISION}).headers["set-cookie"]
    good = "HttpOnly" in cookie and "SameSite=strict" in cookie and VISION not in cookie
    return re.sub(r"=[\w-]{20,}", "=…", cookie), not good


@attempt("a stolen cookie is used after its owner has signed out", "to the sign-in page")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.browser() as http:
        stolen = dict(http.cookies)
        http.post("/logout")
    told = httpx.get(victim.url + "/searches", cookies=stolen)
    return f"{told.status_code} {told.headers.get('location', '')}", told.status_code != 303


@attempt("a sign-in link is used twice", "401")
def _(victim: Victim) -> tuple[str, bool]:
    with Client(victim.url, VISION) as client:
        code = client.login_link()["url"].partition("#code=")[2]
    codes = [httpx.post(victim.url + "/login", data={"code": code}).status_code for _ in "ab"]
    return ", then ".join(map(str, codes)), codes != [303, 401]


@attempt("signing in leads to another site (open redirect)", "to the list of searches")
def _(victim: Victim) -> tuple[str, bool]:
    places = set()
    for to in ("https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example", "javascript:alert(1)"):
        sent = httpx.post(victim.url + "/login", data={"token": VISION, "next": to})
        places.add(sent.headers["location"])
    return ", ".join(places), places != {"/searches"}


@attempt("nobody's request reads or changes anything", "401, or to the sign-in page")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http() as http, victim.http(VISION) as known:
        paths = known.get("/openapi.json").json()["paths"]
        codes = {
            http.request(method, re.sub(r"\{\w+\}", victim.vision, path)).status_code
            for path in paths
            for method in paths[path]
            if path.startswith("/api/") and not path.startswith("/api/v1/schemas")
        }
        codes |= {http.get(path).status_code for path in ("/searches", "/submit", "/docs", "/openapi.json", "/metrics")}
    return ", ".join(map(str, sorted(codes))), not codes <= {401, 303}


@attempt("a project asks every route for another's searches, sweeps and networks", "404")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http(VISION) as http:
        paths = [path for path in http.get("/openapi.json").json()["paths"].items() if "{" in path[0]]
        told = [
            http.request(method, re.sub(r"\{\w+\}", victim.audio, path))
            for path, methods in paths
            if "_id}" in path
            for method in methods
        ]
        pages = [f"/searches/{victim.audio}", f"/fragments/searches/{victim.audio}", f"/live/searches/{victim.audio}"]
        told += [http.get(path) for path in pages]
    codes = {one.status_code for one in told}
    return f"{len(told)} requests: {', '.join(map(str, sorted(codes)))}", not codes <= {404, 422}


@attempt("a project looks for a word about another in what it may see", "none")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http(VISION) as http:
        shown = (
            "/api/v1/cluster",
            "/api/v1/projects",
            PATH,
            "/cluster",
            "/searches",
            "/submit",
            f"{PATH}?project=audio",
        )
        found = [path for path in shown if victim.audio in (text := http.get(path).text) or "audio" in text]
    return ", ".join(found) or "none", bool(found)


@attempt("a token that only reads cancels and submits; a project's changes its quota", "403")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http(READER) as reader, victim.http(VISION) as admin:
        codes = {reader.post(PATH, json=ASKED).status_code, reader.post(f"{PATH}/{victim.vision}/cancel").status_code}
        codes.add(admin.patch("/api/v1/projects/vision", json={"weight": 9.0}).status_code)
    return ", ".join(map(str, codes)), codes != {403}


@attempt("a token that has expired is used", "401")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http(EXPIRED) as http:
        code = http.get(PATH).status_code
    return str(code), code != 401


@attempt("ids and file names lead out of the storage", "never a file")
def _(victim: Victim) -> tuple[str, bool]:
    codes, leaked = set(), False
    with victim.connect() as connection:
        connection.close()
    for path in (
        f"{PATH}/..%2f..%2f..%2fetc%2fpasswd",
        f"{PATH}/%2e%2e%2fyoso.db/journal",
        "/static/../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static/..%2f..%2fsettings.py",
        "/api/v1/architectures/..%2f..%2ftoken/weights",
        f"/api/v1/architectures/{victim.vision}-300000/files/..%2f..%2fspec.json",
        f"/searches/{victim.vision}/logs/..%2f1",
    ):
        with victim.connect() as connection:
            head = (
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {VISION}\r\nConnection: close\r\n\r\n"
            )
            connection.sendall(head.encode())
            answer = b""
            while some := connection.recv(65536):
                answer += some
        codes.add(int(answer.split()[1]))
        leaked = leaked or b"root:" in answer or b"SQLite" in answer or b"import" in answer.partition(b"\r\n\r\n")[2]
    return ", ".join(map(str, sorted(codes))), leaked or not codes <= {400, 404, 422}


@attempt("tiny requests for enormous search spaces take the processor", "422, at once")
def _(victim: Victim) -> tuple[str, bool]:
    spaces: list[dict[str, Any]] = [
        {"levels": 8, "blocks": [64] * 6},
        {"levels": 8, "blocks": [64, 64, 64]},
        {"blocks": [2] * 10**5},
    ]
    with victim.http(VISION) as http:
        codes = [http.post(PATH, json=ASKED | {"space": {"preset": "digits"} | space}).status_code for space in spaces]
        form = {"dataset": "digits", "space.levels": "8", "space.blocks": "64,64,64,64,64,64"}
        codes.append(http.post("/fragments/submit", data=form).status_code)
        alive = http.get("/healthz").status_code
    return f"{', '.join(map(str, codes))}; the service answers {alive}", codes != [422, 422, 422, 200] or alive != 200


@attempt("sweeps of ten thousand points are sent, and hung up on", "others are answered meanwhile")
def _(victim: Victim) -> tuple[str, bool]:
    grid = ",".join(f"{number}e-6" for number in range(1, 9000))
    content = ('{"search":{"dataset":"digits"},"budgets":["1"],"grid":{"settings.lr":[' + grid + "]}}").encode()
    head = (
        f"POST /api/v1/sweeps HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {VISION}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    for _ in range(6):
        with victim.connect() as connection:
            connection.sendall(head.encode() + content)
    with victim.http(AUDIO) as http:
        codes = [http.get(path).status_code for path in ("/healthz", PATH)]
    return ", ".join(map(str, codes)), codes != [200, 200]


@attempt("one project takes all streams of events", "503, and another's open")
def _(victim: Victim) -> tuple[str, bool]:
    with ExitStack() as stack:
        vision, audio = (stack.enter_context(victim.http(token)) for token in (VISION, AUDIO))
        opened = [
            stack.enter_context(vision.stream("GET", f"{PATH}/{victim.vision}/events")) for _ in range(MOST_STREAMS + 1)
        ]
        codes = [one.status_code for one in opened]
        other = stack.enter_context(audio.stream("GET", f"{PATH}/{victim.audio}/events")).status_code
    return f"{', '.join(map(str, codes))}; another's {other}", codes[-1] != 503 or other != 200


@attempt("half a request is sent, and no more", f"closed after {HEAD_SECONDS:g} s", waits=True)
def _(victim: Victim) -> tuple[str, bool]:
    with ExitStack() as stack:
        halves = [stack.enter_context(victim.connect()) for _ in range(20)]
        for half in halves:
            half.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
            half.settimeout(3 * HEAD_SECONDS)
        try:
            closed = sum(half.recv(100) == b"" for half in halves)
        except TimeoutError:
            closed = 0
    return f"{closed} of {len(halves)} are closed", closed != len(halves)


@attempt("bodies trickle in, a byte a second", f"408 after {BODY_SECONDS:g} s, and others are answered", waits=True)
def _(victim: Victim) -> tuple[str, bool]:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {VISION}\r\nContent-Length: 1000\r\n\r\n"
    with ExitStack() as stack:
        slow = [stack.enter_context(victim.connect()) for _ in range(50)]
        for one in slow:
            one.sendall(head.encode())
            one.setblocking(False)
        answers = dict.fromkeys(slow, b"")
        other, give_up = 0, time.monotonic() + 3 * BODY_SECONDS
        while not all(answers.values()) and time.monotonic() < give_up:
            for one in (one for one, answer in answers.items() if not answer):
                try:
                    one.sendall(b" ")
                    answers[one] = one.recv(100)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    answers[one] = b"HTTP/1.1 000"
            with victim.http(AUDIO) as http:
                other = http.get(PATH).status_code
            time.sleep(1)
    codes = {answer.split()[1].decode() if answer else "none" for answer in answers.values()}
    return f"{', '.join(codes)}; another's {other}", codes != {"408"} or other != 200


@attempt("whoever has no token sends large bodies", f"413 above {MOST_OF_NOBODY:,} bytes")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http() as http:
        codes = {http.post(path, content=b" " * (MOST_OF_NOBODY + 1)).status_code for path in (PATH, "/login")}
    return ", ".join(map(str, codes)), codes != {413}


@attempt("bodies are larger than is said, and than they may be", "413, or 400")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http(VISION) as http:
        codes = {http.post(PATH, content=b" " * 2**21).status_code}
        codes.add(http.post(PATH, content=(b" " * 2**16 for _ in range(64))).status_code)
    return ", ".join(map(str, codes)), not codes <= {413, 400}


@attempt("JSON nested a hundred thousand deep, numbers of a million digits, halves of characters", "400 or 422")
def _(victim: Victim) -> tuple[str, bool]:
    bombs = [b"[" * 100_000, b'{"a":' * 50_000, b'{"budgets":[' + b"9" * 10**6 + b"]}", b'{"dataset":"\\ud800"}']
    with victim.http(VISION) as http:
        headers = {"Content-Type": "application/json"}
        codes = {http.post(PATH, content=bomb, headers=headers).status_code for bomb in bombs}
    return ", ".join(map(str, codes)), not codes <= {400, 422}


@attempt("a second request hides behind two lengths of one body (smuggling)", "400, or each is asked who it is")
def _(victim: Victim) -> tuple[str, bool]:
    hidden = b"POST /api/v1/searches/%s/cancel HTTP/1.1\r\nHost: localhost\r\n\r\n" % victim.vision.encode()
    for headers in (b"Content-Length: 5\r\nContent-Length: 50", b"Content-Length: 3\r\nTransfer-Encoding: chunked"):
        with victim.connect() as connection:
            head = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n" % VISION.encode()
            connection.sendall(head + headers + b"\r\n\r\n0\r\n\r\n" + hidden)
            connection.recv(65536)
    state = victim.state(victim.vision, VISION)
    return f"the search is {state}", state != "queued"


@attempt("tokens are guessed, as if from many addresses (X-Forwarded-For)", "429 after ten, and the owner is let in")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http() as http:
        codes = [
            http.post("/login", data={"token": f"guess-{number}"}, headers=pretended(number)).status_code
            for number in range(30)
        ]
    with victim.http(VISION) as http:
        owner = http.get(PATH).status_code
    told = f"{codes.count(401)} × 401, {codes.count(429)} × 429; the owner {owner}"
    return told, codes.count(429) < 20 or owner != 200


def pretended(number: int) -> dict[str, str]:
    """Headers of a request that would come from another address, and by way of another host."""
    address = f"10.0.0.{number}"
    return {
        "X-Forwarded-For": address,
        "X-Real-IP": address,
        "Forwarded": f"for={address}",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
    }


@attempt("the page of the API loads scripts from elsewhere", "from this host alone, by policy")
def _(victim: Victim) -> tuple[str, bool]:
    with victim.http(VISION) as http:
        told = http.get("/docs")
    elsewhere = re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', told.text)
    good = not elsewhere and "script-src 'self'" in told.headers.get("content-security-policy", "")
    return ", ".join(elsewhere) or "nothing from elsewhere", not good


@attempt("another user of the machine reads the service's files", "0600 and 0700")
def _(victim: Victim) -> tuple[str, bool]:
    storage = victim.folder / "storage"
    opened = [path for path in (storage, *storage.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & 0o077]
    return ", ".join(path.name for path in opened) or "none can be read", bool(opened)


@attempt("a worker finds the service's secrets in its environment", "none")
def _(victim: Victim) -> tuple[str, bool]:
    secrets = ("YOSO_TOKENS", "YOSO_TOKENS_FILE", "YOSO_DATABASE_URL", "YOSO_DATABASE_URL_FILE", "YOSO_TOKEN")
    before = {name: os.environ.get(name) for name in secrets}
    os.environ |= dict.fromkeys(secrets, "a-hidden-secret")
    try:
        found = [name for name, text in ray_environment(victim.folder / "t").items() if "a-hidden-secret" in text]
    finally:
        for name, text in before.items():
            os.environ.pop(name)
            if text is not None:
                os.environ[name] = text
    return ", ".join(found) or "none", bool(found)


@attempt("tokens stand in the service's log", "none")
def _(victim: Victim) -> tuple[str, bool]:
    log = (victim.folder / "service.log").read_text()
    found = [token for token in TOKENS if token in log]
    return f"{len(found)} tokens in {len(log.splitlines())} lines", bool(found)


def hostile_workers(folder: Path) -> list[Row]:
    """Let workers leave in their runs' folders, below `folder`, whatever they like, and ask for what they found."""
    hostile.put(folder / "outside" / "secret", hostile.SECRET)
    with (
        ray_double(RayDouble(cpus=1000)) as ray,
        serving(folder, ray) as (url, service),
        Client(url, VISION) as client,
    ):
        budget = seeding.BUDGETS[0]
        attacks = (*hostile.ENDING, *hostile.HARMLESS)
        ids = {client.submit(dataset="digits", budgets=[budget])["id"]: attack for attack in attacks}
        until(lambda: {f"yoso-{search_id}-1" for search_id in ids} <= ray.jobs.keys())
        # Real workers write whole files; what these write bit by bit is read when it is all there.
        service.send_signal(signal.SIGSTOP)
        for search_id, attack in ids.items():
            run = folder / "storage" / "searches" / search_id
            played = hostile.Victim(run, run / of_attempt(1, "").rstrip("/"), budget, folder / "outside" / "secret")
            hostile.network_of(played, seeding.network(budget).to_json())
            hostile.line(played, kind="started", workers=1, resumed=False)
            (run / "journal" / "0001-000002.jsonl").rename(run / "journal" / "0001-000001.jsonl")
            attack(played)
            if attack in hostile.HARMLESS and not (played.own / "result.json").exists():
                hostile.result(played)
            ray.end(search_id, "SUCCEEDED")
        service.send_signal(signal.SIGCONT)
        until(lambda: all(client.get(search_id)["status"] in ENDED for search_id in ids))
        rows = [_outcome(client, search_id, attack, budget) for search_id, attack in ids.items()]
        alive = _alive(url)
    return [*rows, Row("hostile workers stop the service", "it lives", "alive" if alive else "dead", not alive)]


def _outcome(client: Client, search_id: str, attack: hostile.Attack, budget: int) -> Row:
    """What a hostile worker's search came to, and whether anything that is told of it gives something away."""
    network = f"/api/v1/architectures/{search_id}-{budget}"
    paths = [f"{PATH}/{search_id}", f"{PATH}/{search_id}/tensorboard", f"{PATH}/{search_id}/journal", f"{network}.svg"]
    paths += [network, f"{network}/weights", f"/searches/{search_id}", f"/searches/{search_id}/logs/1"]
    paths += [f"{network}/files/{kind}" for kind in FILES]
    with httpx.Client(base_url=client.url, timeout=60, headers={"Authorization": f"Bearer {VISION}"}) as http:
        told = [_patiently(http, path) for path in paths]
    leaked = any(mark in one.content for one in told for mark in (hostile.SECRET.encode(), b"PATH=", b"alert("))
    broken = any(one.status_code not in (200, 404) for one in told)
    search = client.get(search_id)
    ending = attack in hostile.ENDING
    got = f"failed: {search['error']['kind']}" if search["error"] is not None else search["status"]
    wrong = leaked or broken or got != ("failed: folder" if ending else "succeeded")
    right = "its search fails, with the reason" if ending else "no file but its own"
    return Row(f"a worker: {(attack.__doc__ or '').rstrip('.')}", right, f"{got}{', LEAKED' * leaked}", wrong)


def _patiently(http: httpx.Client, path: str) -> httpx.Response:
    """The answer, for which the service may tell a client to wait."""
    while (told := http.get(path)).status_code == 429:
        time.sleep(float(told.headers["Retry-After"]))
    return told


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds. Raises `TimeoutError` where it does not."""
    give_up = time.monotonic() + 60
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError("it does not come")
        time.sleep(0.1)


@contextmanager
def victim_in(folder: Path) -> Iterator[Victim]:
    """A service in `folder` that is attacked, with a search of each project; it launches nothing."""
    with serving(folder) as (url, _):
        ids = []
        for token in (VISION, AUDIO):
            with Client(url, token) as client:
                ids.append(client.submit(**ASKED)["id"])
        yield Victim(url, folder, *ids)


@contextmanager
def serving(folder: Path, ray: RayDouble | None = None) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The URL and the process of a service in `folder`, which launches what it accepts on `ray`, or nothing."""
    folder.mkdir(exist_ok=True)
    [port] = free_ports(1)
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("YOSO_")}
    settings = {
        "YOSO_STORAGE": str(folder / "storage"),
        "YOSO_PORT": str(port),
        "YOSO_TOKENS": ",".join(f"{grant}={token}" for token, grant in TOKENS.items()),
        "YOSO_DATA_ROOTS": str(folder),
        "YOSO_MAX_STREAMS": str(MOST_STREAMS),
    }
    if ray is not None:
        settings |= {"YOSO_RAY_ADDRESS": ray.endpoint.url, "RAY_AUTH_TOKEN": ray.endpoint.token or ""}
    with (folder / "service.log").open("wb") as log:
        command = [sys.executable, "-m", "service.cli", "serve", *(["--no-dispatch"] if ray is None else [])]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=inherited | settings)
    url = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + 60
        while not _alive(url):
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError((folder / "service.log").read_text()[-2000:])
            time.sleep(0.1)
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _alive(url: str) -> bool:
    try:
        return httpx.get(url + "/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def attack(folder: Path) -> list[Row]:
    """Try everything on services in `folder`."""
    with victim_in(folder) as victim, ThreadPoolExecutor() as threads:
        waiting = {function: threads.submit(function, victim) for function in WAITING}
        got = {function: function(victim) for _, _, function in ATTEMPTS if function not in WAITING}
        got |= {function: future.result() for function, future in waiting.items()}
    rows = [Row(what, right, *got[function]) for what, right, function in ATTEMPTS]
    return rows + hostile_workers(folder / "workers")


def main() -> int:
    """Try everything, and print the table; 1 where anything succeeded."""
    with tempfile.TemporaryDirectory(prefix="yoso-break-in-") as folder:
        rows = attack(Path(folder))
    table = Table("attempt", "right would be", "got", "", title="Attempts to break in")
    for row in rows:
        table.add_row(row.attack, row.right, row.got, "[red]SUCCEEDED[/]" if row.succeeded else "held")
    Console(width=180).print(table)
    succeeded = sum(row.succeeded for row in rows)
    print(f"{len(rows)} attempts, {succeeded} succeeded")
    return 1 if succeeded else 0


if __name__ == "__main__":
    sys.exit(main())
