"""The dashboard as a person sees it."""

import os
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from playwright.sync_api import Page, expect

from service.domain.lifecycle import Status
from tests import seeding

AXE = (Path(__file__).parent / "vendor" / "axe-core-4.14.1.min.js").read_text()
SHOTS = os.environ.get("YOSO_SCREENSHOTS")
"""A folder for screenshots, for people to look at."""


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def test_a_search_is_followed_live_to_its_end(app: FastAPI, page: Page) -> None:
    search_id = seeding.queue(app, name="live")
    page.goto("/searches")
    expect(page.get_by_role("link", name="live")).to_be_visible()
    page.get_by_role("link", name="live").click()
    summary = page.locator("#summary")
    expect(summary).to_contain_text("queued")
    run = seeding.Run(app, search_id).start()
    expect(summary).to_contain_text("running")
    run.pretrain().search(10)
    chart = page.locator('[data-chart="multiply_adds"] canvas')
    expect(chart).to_be_visible()
    expect(page.get_by_text("Supernet now")).to_be_visible()
    painted = page.evaluate(
        """() => { const c = document.querySelector('[data-chart="multiply_adds"] canvas');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return new Set(new Uint32Array(d.buffer)).size }"""
    )
    assert painted > 10, "the curve is drawn"
    run.find(seeding.BUDGETS[1])
    expect(page.get_by_alt_text("The blocks of the network for 600,000")).to_be_visible()
    shoot(page, "running")
    run.move(Status.FAILED, error={"kind": "worker_failed", "message": "the node went away", "attempt": 1})
    expect(summary).to_contain_text("failed")
    expect(page.get_by_text("the node went away").first).to_be_visible()


def test_a_search_can_be_cancelled_from_its_page(app: FastAPI, page: Page) -> None:
    search_id = seeding.queue(app, name="unwanted")
    page.goto(f"/searches/{search_id}")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#summary")).to_contain_text("cancelled")
    assert seeding.parts(app).searches.get(search_id).status == "cancelled"


def test_a_finished_search_shows_networks_that_can_be_taken_home(app: FastAPI, page: Page) -> None:
    ids = seeding.seed(app)
    page.goto(f"/searches/{ids['succeeded']}")
    pictures = page.locator(".pictures img")
    expect(pictures).to_have_count(2)
    for picture in pictures.all():
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 100
    with page.expect_download() as download:
        page.get_by_role("link", name="weights").first.click()
    assert download.value.path().read_bytes() == b"weights"
    shoot(page, "finished")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_can_be_read_by_everybody(app: FastAPI, page: Page, scheme: Any, width: int) -> None:
    ids = seeding.seed(app)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for name, path in [("list", "/searches"), *((state, f"/searches/{ids[state]}") for state in ids)]:
        page.goto(path)
        if name in ("succeeded", "running"):
            expect(page.locator(".charts canvas").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} is too wide"
        page.evaluate(AXE)
        found = page.evaluate("axe.run().then(result => result.violations)")
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == [], name
        shoot(page, f"{name}-{scheme}-{width}")
