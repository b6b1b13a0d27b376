"""The picture of an architecture as a browser draws it."""

from typing import Any

import pytest
from playwright.sync_api import Browser

from nas_core import Architecture, SearchSpace
from nas_core.space import Block, Edge
from nas_core.space.operations import OPERATIONS, Convolution, Layer
from nas_core.space.picture import draw
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
