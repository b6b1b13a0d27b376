"""Behind a proxy: this machine is reached without it, another machine by way of it."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from nas_core.errors import InvalidValue
from service import proxies
from service.client import AsyncClient, Client, Unreachable
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.dispatch.local_ray import answers, ray_environment
from service.domain.scheduling import RayUnavailable
from tests import seeding
from tests.ray_double import ray_double

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY")
DEAD = "http://user:hidden@127.0.0.1:9"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database only: what is under test here speaks HTTP and knows none."""
    return seeding.sqlite_url(tmp_path)


def behind(monkeypatch: pytest.MonkeyPatch, proxy: str, spared: str = "") -> None:
    for name in NAMES:
        monkeypatch.setenv(name, proxy)
        monkeypatch.setenv(name.lower(), proxy)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, spared)


# A dead one, one that httpx lacks a package for, one of a scheme that nobody knows, and brackets, which httpx refuses.
@pytest.fixture(params=[(DEAD, ""), ("socks5h://127.0.0.1:9", "a.example"), ("gopher://x", ""), (DEAD, "[::1]")])
def proxied(request: pytest.FixtureRequest, url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real service on loopback, which was there before the proxies."""
    behind(monkeypatch, *request.param)
    return url


def test_the_clients_reach_a_service_on_loopback(proxied: str) -> None:
    port = proxied.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "LOCALHOST"):
        with Client(f"http://{host}:{port}") as client:
            assert client.list()["items"] == []

    async def ask() -> None:
        async with AsyncClient(proxied) as client:
            search = await client.submit("digits", ["300k"])
            await client.cancel(search["id"])
            assert [event.kind async for event in client.events(search["id"])] == ["status", "status"]

    # In a thread of its own: the browser's tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, ask()).result()


def test_loopback_is_known_by_each_of_its_names() -> None:
    near = "localhost LOCALHOST. a.localhost 127.0.0.1:80 127.8.9.10 0.0.0.0 [::1]:80 [::] [::ffff:127.0.0.1] u:p@[::1]"
    far = "localhost.example 10.0.0.1 128.0.0.1 [fe80::1] yoso"
    assert [name for name in near.split() if not proxies.on_this_machine(f"http://{name}/x")] == []
    assert [name for name in far.split() if proxies.on_this_machine(f"http://{name}/localhost")] == []


def test_the_command_line_reaches_a_service_on_loopback(proxied: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "service.cli", "list", "--json", "--url", proxied], capture_output=True, text=True
    )
    assert told.returncode == 0 and json.loads(told.stdout)["items"] == [], told.stderr


def test_the_dispatcher_reaches_its_ray(proxied: str) -> None:
    with ray_double() as double:
        assert answers(double.endpoint)
        jobs = RayJobs(lambda: double.endpoint)
        assert jobs.running() == []
        jobs.close()


def test_what_is_started_and_what_libraries_ask_is_spared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    behind(monkeypatch, DEAD, "intranet.example, 10.0.0.0/8")
    monkeypatch.setenv("NO_PROXY", "elsewhere.example")
    for environment in (ray_environment(tmp_path / "token"), proxies.direct(os.environ)):
        for name in ("no_proxy", "NO_PROXY"):
            hosts = set(environment[name].split(","))
            assert hosts == {"intranet.example", "10.0.0.0/8", "elsewhere.example", "localhost", "127.0.0.1", "::1"}
    proxies.spare_loopback()
    assert urllib.request.build_opener().open(f"{url}/healthz").status == 200
    assert proxies.direct(os.environ).items() <= os.environ.items(), "twice is as once"


@pytest.fixture
def proxy() -> Iterator[str]:
    """A proxy that answers for everybody; its URL."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"items": [], "next": None, "asked": self.path}).encode()
            self.send_response(502 if "broken" in self.path else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *told: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_another_machine_is_reached_by_way_of_the_proxy(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    behind(monkeypatch, proxy)
    with Client("http://yoso.example/below") as client:
        assert dict(client.list())["asked"] == "http://yoso.example/below/api/v1/searches?limit=50"
    jobs = RayJobs(lambda: Endpoint("http://ray.example:8265"))
    with pytest.raises(RayUnavailable, match="list of jobs is not a list"):
        jobs.running()
    jobs.close()


def test_errors_name_the_proxy_and_none_of_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    behind(monkeypatch, DEAD)
    with Client("http://me:secret@yoso.example") as client, pytest.raises(Unreachable) as told:
        client.list()
    assert str(told.value) == (
        "no service answers at http://yoso.example by way of the proxy http://127.0.0.1:9 (HTTP_PROXY): "
        "connection refused; --url or YOSO_URL says where one is"
    )
    behind(monkeypatch, "socks5h://user:hidden@127.0.0.1:9")
    with pytest.raises(InvalidValue, match=r"socks5h://127.0.0.1:9.*accepted: pip install 'httpx\[socks\]'"):
        Client("https://yoso.example")
    behind(monkeypatch, DEAD, "[::1]")
    with pytest.raises(InvalidValue, match="NO_PROXY"):
        Client("https://yoso.example")
    jobs = RayJobs(lambda: Endpoint("http://ray.example:8265"))
    with pytest.raises(RayUnavailable, match="NO_PROXY"):
        jobs.running()
    jobs.close()
