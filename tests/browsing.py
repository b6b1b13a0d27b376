"""A real browser, for the tests and for the pictures in the docs."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
AXE = (Path(__file__).parent / "browser" / "vendor" / "axe-core-4.14.1.min.js").read_text()


def installed() -> str | None:
    """Where the system's Chromium is, if it has one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or else Playwright's own, without a window."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=installed(), args=FLAGS)
        yield started
        started.close()


def barriers(page: Page) -> list[tuple[str, list[str]]]:
    """What keeps people from reading or using a page: each rule that it breaks, and where."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run().then(result => result.violations)")
    barriers = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
    twice = page.evaluate(
        """() => [...document.querySelectorAll("[id]")].map((one) => one.id)
        .filter((id, index, all) => all.indexOf(id) !== index)"""
    )
    return [*barriers, ("an id is there twice", twice)] if twice else barriers
