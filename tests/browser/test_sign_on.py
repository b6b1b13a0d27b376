"""Signing on in a browser: over to the provider, which is another site to it, and back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, Route, expect

from tests import browsing, provider, seeding


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[str]:
    with provider.provider(tmp_path / "provider") as url:
        yield url


@pytest.fixture
def app(tmp_path: Path, issuer: str) -> Iterator[FastAPI]:
    made = seeding.make_app(tmp_path, data_roots=(str(tmp_path),), sign_on=provider.sign_on(issuer))
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture
def page(browser: Browser, url: str, issuer: str) -> Iterator[Page]:
    """A page that may go to the service and to the provider, and nowhere else: the provider's styles are elsewhere."""
    context = browser.new_context(base_url=url, viewport={"width": 1280, "height": 900})

    def only(route: Route) -> None:
        route.continue_() if route.request.url.startswith((url, issuer)) else route.abort()

    context.route("**/*", only)
    yield context.new_page()
    context.close()


def sign_on(page: Page, name: str) -> None:
    page.get_by_role("link", name="Sign in with Example").click()
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(name * 2)
    page.locator("button[type=submit]").first.click()


def test_people_sign_on_choose_a_project_and_sign_out(app: FastAPI, page: Page, url: str) -> None:
    seeding.queue(app, project="vision", name="of-vision")
    seeding.queue(app, project="audio", name="of-audio")
    page.goto("/sweeps?cost=parameters")
    expect(page).to_have_url(f"{url}/login?next=%2Fsweeps%3Fcost%3Dparameters")
    assert browsing.barriers(page) == []
    sign_on(page, "bob")
    expect(page.get_by_role("heading", name="Which project?")).to_be_visible()
    assert browsing.barriers(page) == []
    page.get_by_role("button", name="vision").click()
    expect(page).to_have_url(f"{url}/sweeps?cost=parameters")
    page.goto("/searches")
    expect(page.get_by_role("link", name="of-vision")).to_be_visible()
    expect(page.get_by_role("link", name="of-audio")).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    page.goto("/searches")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    sign_on(page, "eve")
    expect(page.get_by_role("alert")).to_contain_text("eve@example.org has signed on with Example, but is in no group")
    assert browsing.barriers(page) == []
    sign_on(page, "ann")
    expect(page).to_have_url(f"{url}/searches")
    expect(page.get_by_role("link", name="of-vision")).to_be_visible()
