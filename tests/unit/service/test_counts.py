"""Who asks too often, counted in memory, and by two replicas together in a real Redis that comes and goes."""

import itertools
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_core.errors import InvalidValue
from service import counts, doctor
from service.callers import MOST_GUESSES
from service.counts import Counts, at_most, wait
from service.dispatch.local_ray import free_ports
from service.doctor import State
from service.settings import Settings
from tests import seeding
from tests.redis_server import PASSWORD, redis_server

PATH = "/api/v1/searches"
TOKENS = {"a-token-of-sixteen": "vision", "another-of-sixteen": "audio", "a-third-of-sixteen": "speech"}
BURST = 12


@given(st.floats(1e-4, 1e6), st.integers(1, 10**6))
def test_whole_seconds_keep_the_rate_and_the_burst(rate: float, burst: int) -> None:
    most = at_most(rate, burst)
    assert most.amount >= burst
    assert rate - 1 / most.multiples < most.amount / most.multiples <= max(rate, burst / most.multiples) * (1 + 1e-5)
    assert most.multiples == 1 or most.amount <= burst + rate


def test_what_the_defaults_are_in_whole_seconds() -> None:
    most = at_most(Settings.rate, Settings.rate_burst)
    assert (most.amount, most.multiples) == (200, 4)


def test_a_client_that_waits_as_it_is_told_goes_on_at_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now, most, memory, allowed = [1e9 + 0.5], at_most(50, 200), Counts().memory, 0
    monkeypatch.setattr("time.time", lambda: now[0])
    while now[0] < 1e9 + 60:
        if seconds := wait(most, "a", memory):
            now[0] += seconds
            assert wait(most, "a", memory) == 0, "Retry-After is long enough"
        allowed += 1
    assert 0.8 * 50 * 60 <= allowed <= 50 * 60 + 200
    assert wait(most, "b", memory) == 0


class Replicas:
    """Two services side by side that are asked in turn."""

    def __init__(self, clients: list[httpx.Client]) -> None:
        self.clients = clients
        self._turns = itertools.cycle(clients)

    def ask(self, token: str, times: int, client: httpx.Client | None = None) -> list[int]:
        """The statuses of the answers, of both in turn or of one."""
        headers = {"Authorization": f"Bearer {token}"}
        return [(client or next(self._turns)).get(PATH, headers=headers).status_code for _ in range(times)]


@pytest.fixture
def port() -> int:
    (found,) = free_ports(1)
    return found


@pytest.fixture
def replicas(tmp_path: Path, port: int) -> Iterator[Replicas]:
    settings: dict[str, Any] = {"data_roots": (str(tmp_path),), "rate": 1e-4, "rate_burst": BURST}
    settings["rate_storage"] = f"redis://:{PASSWORD}@127.0.0.1:{port}"
    with ExitStack() as stack:
        clients = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            app = seeding.make_app(tmp_path / name, tokens=dict(TOKENS), **settings)
            url = stack.enter_context(seeding.serving(app))
            clients.append(stack.enter_context(httpx.Client(base_url=url, timeout=60)))
        yield Replicas(clients)


def test_replicas_limit_clients_together_and_each_alone_while_redis_is_away(
    replicas: Replicas, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(counts, "AWAY_SECONDS", 0.0)  # it is looked for at every request
    vision, audio, speech = TOKENS
    with caplog.at_level(logging.INFO):
        with redis_server(tmp_path, port):
            assert replicas.ask(vision, BURST + 2) == [200] * BURST + [429] * 2
            assert replicas.ask("a-wrong-token", MOST_GUESSES + 2) == [401] * MOST_GUESSES + [429] * 2
            assert "YOSO_RATE_STORAGE" not in caplog.text
        for client in replicas.clients:
            assert replicas.ask(audio, BURST + 1, client) == [200] * BURST + [429]
            assert replicas.ask("a-wrong-token", MOST_GUESSES + 1, client) == [401] * MOST_GUESSES + [429]
        assert caplog.text.count("is unavailable (ConnectionError)") == 2, "each replica tells once"
        with redis_server(tmp_path, port):
            assert replicas.ask(speech, BURST + 2) == [200] * BURST + [429] * 2
        assert caplog.text.count("is available again") == 2
    assert PASSWORD not in caplog.text


def test_a_redis_that_is_silent_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "ANSWER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        counted = Counts(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        assert [counted.use(lambda storage: storage.incr("a", 60)) for _ in range(3)] == [1, 2, 3]
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_the_doctor_looks_at_redis_and_tells_no_password(port: int, tmp_path: Path) -> None:
    with redis_server(tmp_path, port) as url:
        assert doctor.rate_storage(url).state is State.GOOD
        wrong = doctor.rate_storage(url.replace(PASSWORD, "another-password"))
    away = doctor.rate_storage(url)
    assert wrong.state is away.state is State.UNSURE and "AuthenticationError" in wrong.told
    assert "password-of" not in f"{wrong} {away}" and "another-password" not in str(wrong)


def test_without_its_client_redis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(InvalidValue, match=r"yoso\[redis\]") as refused:
        Counts("redis://:secret@127.0.0.1")
    assert refused.value.field == "YOSO_RATE_STORAGE" and "secret" not in str(refused.value)
