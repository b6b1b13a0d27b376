"""The pictures of the docs, which `make screenshots` makes."""

from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageStat
from playwright.sync_api import Browser

from tests import seeding
from tools import screenshots


@pytest.mark.proof
def test_pages_and_parts_of_them_are_pictured_wide_and_narrow(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screenshots, "SCHEMES", ("dark",))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with screenshots.made_up():
        app = screenshots.service(tmp_path)
        pages = screenshots.morning(app)
        with seeding.serving(app) as url:
            answers = {name: httpx.get(url + path, timeout=60).status_code for name, path in pages.items()}
            wanted = {name: pages[name] for name in ("sweep", "curves")}
            screenshots.visit(browser, url, wanted, pictures, whole=False)
        seeding.parts(app).searches.engine.dispose()
    assert answers == dict.fromkeys(pages, 200) | {"missing": 404}
    sizes = {}
    for path in pictures.iterdir():
        with Image.open(path) as picture:
            assert picture.format == "WEBP" and len(picture.getcolors(2**24) or []) > 50, path.name
            assert ImageStat.Stat(picture.convert("L")).median[0] < 60, "most of a dark page is dark"
            sizes[path.name] = picture.size
    whole = {f"sweep-{size}-dark.webp": screenshots.SIZES[size] for size in ("wide", "phone")}
    assert whole.items() <= sizes.items()
    parts = {name: sizes[name] for name in sizes.keys() - whole.keys()}
    assert parts.keys() == {"curves-wide-dark.webp", "curves-phone-dark.webp"}
    assert 1100 < parts["curves-wide-dark.webp"][0] < 1280 and 200 < parts["curves-wide-dark.webp"][1] < 1100
