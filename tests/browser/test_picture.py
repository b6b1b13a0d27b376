"""The picture of an architecture as a browser draws it."""

from typing import Any

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page

from nas_core import Architecture, SearchSpace
from nas_core.search.baselines import random_architecture
from nas_core.space import Block, Edge
from nas_core.space.operations import OPERATIONS, Convolution, Layer
from nas_core.space.picture import draw
from tests import seeding
from tests.unit.nas_core.networks import registered

OWN: dict[str, tuple[Layer, ...]] = {"w" * 40: (Convolution(3),), "w" * 11: (), "x_ray": ()}
MEASURE = """() => {
    const outside = (part, box) => {
        const [inner, outer] = [part, box].map(element => element.getBoundingClientRect());
        return inner.left < outer.left + 2 || inner.right > outer.right - 2;
    };
    const [svg] = document.getElementsByTagName("svg");
    const boxes = [...svg.querySelectorAll(".node")].map(node => [node.children[2], node.children[1]]);
    const words = [...svg.querySelectorAll(":scope > text, g > .soft")].map(text => [text, svg]);
    return [...boxes, ...words].filter(pair => outside(...pair)).map(([text]) => text.textContent);
}"""


@pytest.mark.parametrize("count", [1, 17])
def test_whatever_an_operation_is_called_its_name_fits_its_box(browser: Browser, count: int) -> None:
    with registered(OWN):
        operations = (*OWN, *OPERATIONS)[:count]
        shape: dict[str, Any] = {"channels_in": 3, "image_size": 224, "channels": 256, "blocks": (1,), "levels": 1}
        space = SearchSpace("imagenet", classes=1000, stem=(1,), operations=operations, **shape)
        block = Block((Edge(0, 1, 1.0), Edge(1, space.nodes + 1, 0.5)))
        for architecture in (
            Architecture(space, (1024,), (block,), ()),
            Architecture(space, (1024,), (Block(()),), ()),
        ):
            page = browser.new_page()
            page.set_content(draw(architecture))
            assert page.evaluate(MEASURE) == []
            page.close()


READ = """() => {
    const texts = [...document.querySelectorAll("svg.architecture text")];
    const sizes = texts.map((text) => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a);
    const boxes = texts.map((text) => text.getBoundingClientRect());
    const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    return {
        texts: texts.length,
        smallest: Math.min(...sizes),
        overlapping: texts.map((text, n) => boxes.slice(0, n).some((box) => overlap(box, boxes[n])) && text.textContent)
            .filter(Boolean),
        shrunk: [...document.querySelectorAll("#snapshots img")].map((image) => image.width / image.naturalWidth),
        sideways: document.documentElement.scrollWidth - innerWidth,
    };
}"""


def test_a_network_of_24_blocks_can_be_read_on_its_page(app: FastAPI, page: Page) -> None:
    shape: dict[str, Any] = {"channels_in": 3, "image_size": 224, "channels": 28, "stem": (2, 2)}
    space = SearchSpace("imagenet", classes=1000, blocks=(6, 6, 6, 6), **shape)
    found = random_architecture(space, 300_000_000, seed=0)
    counted = {"multiply_adds": found.multiply_adds, "live_edges": found.live_edges, "parameters": found.parameters}
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start()
    run.write(300_000, "architecture.json", found.to_json().encode())
    run.tell({"kind": "snapshot", "architecture": found.to_dict()} | counted)
    run.tell(seeding.cost(300_000) | counted | {"kind": "architecture", "budget": 300_000})
    page.goto(f"/searches/{search_id}#architecture")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.locator("svg.architecture").wait_for()
        page.locator("#snapshots img").evaluate("image => image.decode()")
        told = page.evaluate(READ)
        assert told["texts"] > 24 * 4 and told["smallest"] >= 10 and told["overlapping"] == [], told
        assert told["shrunk"] == [1] and told["sideways"] <= 0, told
