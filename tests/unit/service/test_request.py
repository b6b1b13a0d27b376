"""What a dataset dictates to the search space and to the schedule."""

from pathlib import Path

import pytest

from nas_core.data.datasets import LAYOUTS
from nas_core.spec import SearchSpec
from service.domain.request import SearchRequest, check


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Empty files where the datasets would be: nothing is read before a search runs."""
    for layout in LAYOUTS.values():
        for file in layout.files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    return str(tmp_path)


def asked(dataset: str, root: str, **settings: bool) -> SearchSpec:
    request = SearchRequest(dataset=dataset, budgets=["300M"], settings=dict(settings))
    return check(request, (root,), any_folder=False)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_data_set_dictates_the_shape_of_its_images(name: str, root: str) -> None:
    layout, space = LAYOUTS[name], asked(name, root).space
    assert (space.classes, space.channels_in, space.image_size) == (layout.classes, layout.channels, layout.image_size)
    assert space.name == layout.preset


def test_characters_are_not_mirrored_unless_asked_to(root: str) -> None:
    assert asked("cifar10", root).settings.flip and asked("fashion_mnist", root).settings.flip
    assert not asked("mnist", root).settings.flip and not asked("gtsrb", root).settings.flip
    assert asked("mnist", root, flip=True).settings.flip
