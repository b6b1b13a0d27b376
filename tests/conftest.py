"""What all tests share."""

import functools
import os
import ssl
from collections.abc import Iterator
from itertools import islice

import pytest
from fastapi import APIRouter, FastAPI
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import settings
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect
from starlette.routing import BaseRoute

from service.store.database import LIMITS
from tests import browsing

# Three processes of tests share two cores: with more threads than one each, every one waits for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers would give way to whatever else runs (nice 15), and so wait for the tests in the other processes.
os.environ.setdefault("RAY_worker_niceness", "0")

# The same examples every time, so that a failure is the change's doing; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("thorough", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each process of tests begin with its share of the modules that have slow ones.

    Each is given as many tests as the others, in this order, and takes from the end of theirs when it has run out: in
    the order of their folders, the first would have those with a service or a Ray of their own one after the other.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = dict.fromkeys(item.path for item in items if item.get_closest_marker("slow"))
    quick = iter([item for item in items if item.path not in slow])
    shares: list[pytest.Item] = []
    for process in range(processes):
        modules = list(slow)[process::processes]
        shares += [item for item in items if item.path in modules]
        shares += islice(quick, max(0, (process + 1) * len(items) // processes - len(shares)))
    items[:] = [*shares, *quick]


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """A busy machine can stop a test between two statements for more than ten seconds, which is not the test's doing:
    PostgreSQL ends such a transaction later, and HTTP clients wait for more than their five seconds. What happens at
    these limits is tested with limits of those tests' own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LIMITS, "idle_in_transaction_session_timeout", 120)
        for limit in ("connect", "read", "write", "pool"):
            patch.setattr(DEFAULT_TIMEOUT_CONFIG, limit, 60)
        yield


@pytest.fixture(scope="session", autouse=True)
def certificates() -> Iterator[None]:
    """Those of all authorities are read once: every HTTP client would do so anew, for servers that have none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def routes() -> Iterator[None]:
    """The routes that services share are made once: FastAPI would build their models anew with every service's first
    request, which takes a third of a test's time.
    """
    known: dict[int, BaseRoute] = {}
    include = FastAPI.include_router

    def include_once(app: FastAPI, router: APIRouter) -> None:
        if id(router) in known:
            app.router.routes.append(known[id(router)])
        else:
            include(app, router)
            known[id(router)] = app.router.routes[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastAPI, "include_router", include_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where services that the tests start leave their tokens for clients, and these what they keep: not among the
    user's own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real browser, which is waited for as long for what it shows as for what it does."""
    expect.set_options(timeout=30_000)
    with browsing.chromium() as started:
        yield started


@pytest.fixture
def complaints() -> list[str]:
    """What pages complain of, and what they ask of elsewhere; a test takes from it what it expects."""
    return []


@pytest.fixture
def page(browser: Browser, url: str, complaints: list[str]) -> Iterator[Page]:
    """A page of the service at `url`. What is left of its complaints, and of other pages' in its context, fails the
    test."""
    context = browser.new_context(base_url=url, viewport={"width": 1280, "height": 900})

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"{message.text} [{message.location['url']}]")

    def watch(request: Request) -> None:
        if not request.url.startswith((url, "data:", "blob:")):
            complaints.append(request.url)

    context.on("console", note)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("request", watch)
    yield context.new_page()
    context.close()
    assert complaints == []
