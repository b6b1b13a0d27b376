"""What a dataset dictates to the search space and to the schedule."""

from pathlib import Path
from typing import Any

import pytest

from nas_core.data.datasets import LAYOUTS
from nas_core.spec import SearchSpec
from service.domain.estimates import EPOCHS
from service.domain.request import InvalidRequest, SearchRequest, check
from tests import seeding


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Empty files where the datasets would be: nothing is read before a search runs."""
    for layout in LAYOUTS.values():
        for file in layout.files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    return str(tmp_path)


def asked(dataset: str, root: str, size: int | None = None, **settings: Any) -> SearchSpec:
    fields: dict[str, Any] = {"dataset": dataset, "limits": {"parameters": "2M"}, "confirmed": True}
    fields |= {"space": {"image_size": size}, "settings": settings}
    return check(SearchRequest.model_validate(fields), (root,), any_folder=False)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_data_set_dictates_the_shape_of_its_images(name: str, root: str) -> None:
    layout, space = LAYOUTS[name], asked(name, root).space
    assert (space.classes, space.channels_in, space.image_size) == (layout.classes, layout.channels, layout.image_size)
    assert space.name == layout.preset


def test_characters_are_not_mirrored_unless_asked_to(root: str) -> None:
    assert asked("cifar10", root).settings.flip and asked("fashion_mnist", root).settings.flip
    assert not asked("mnist", root).settings.flip and not asked("gtsrb", root).settings.flip
    assert asked("mnist", root, flip=True).settings.flip


def test_from_64_pixels_on_training_crops_parts_of_any_size_unless_asked_not_to(root: str) -> None:
    for name, layout in LAYOUTS.items():
        assert asked(name, root).settings.crop == ("resized" if layout.image_size >= 64 else "shift")
    pets = seeding.images(Path(root) / "pets", "cat", "dog")
    for name in (str(pets), "cifar10"):
        assert [asked(name, root, size).settings.crop for size in (32, 63, 64, 224)] == ["shift"] * 2 + ["resized"] * 2
        assert asked(name, root, 64, crop="shift").settings.crop == "shift"
        assert asked(name, root, 63, crop="resized").settings.crop == "resized"


def test_a_schedule_by_name_keeps_the_space_that_suits_and_gives_way_to_what_is_set() -> None:
    def scheduled(preset: str, **settings: Any) -> SearchSpec:
        fields = {"dataset": "digits", "budgets": ["300k"], "space": {"preset": preset}, "settings": settings}
        return check(SearchRequest.model_validate(fields), (), any_folder=False)

    quick, standard, paper = (scheduled(name) for name in ("quick", "standard", "paper"))
    usual = check(SearchRequest(dataset="digits", budgets=["300k"]), (), any_folder=False)
    assert quick.space == standard.space == paper.space == usual.space
    assert [getattr(quick.settings, name) for name in EPOCHS] == [6, 12, 15]
    assert [getattr(standard.settings, name) for name in EPOCHS] == [getattr(usual.settings, name) for name in EPOCHS]
    assert (standard.settings.retrain_start, standard.settings.form) == ("supernet", "cut")
    assert (paper.settings.retrain_start, paper.settings.form, paper.settings.gamma) == ("scratch", "paper", 1e-2)
    longer = scheduled("quick", retrain_epochs=40, recipe="paper").settings
    assert (longer.retrain_epochs, longer.search_epochs, longer.retrain_start) == (40, 12, "scratch")
    with pytest.raises(InvalidRequest) as refused:
        scheduled("quik")
    names = "one of digits, cifar10, imagenet, quick, standard, paper"
    assert [str(problem) for problem in refused.value.problems] == [
        f"space.preset: no such preset; did you mean 'quick'? (got 'quik'; accepted: {names})"
    ]
