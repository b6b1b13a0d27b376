"""Datasets are looked at before they are searched on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_core.errors import InvalidValue
from nas_core.inspection import Inspection, inspect
from nas_core.spec import DataOptions


def images(folder: Path, count: int = 8, seed: int = 0, size: tuple[int, int] = (16, 16)) -> None:
    """Write `count` images of noise, which differ from folder to folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, *str(folder).encode("utf-8", "surrogateescape")])
    for number in range(count):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def dataset(root: Path, *parts: str, classes: tuple[str, ...] = ("cats", "dogs"), count: int = 8) -> Path:
    """Write a dataset with `count` images per class below each of `parts`."""
    for part in parts or ("",):
        for name in classes:
            images(root / part / name, count)
    return root


def look(root: Path, **options: object) -> Inspection:
    return inspect(str(root), anywhere=True, options=DataOptions(**options))  # type: ignore[arg-type]


def test_an_inspection_is_json_and_shows_what_the_network_sees(tmp_path: Path) -> None:
    found = look(dataset(tmp_path, "train", "test"))
    assert found.problems == () and found.class_names == ("cats", "dogs")
    assert found.counts == {part: {"cats": 8, "dogs": 8} for part in ("train", "test")}
    told = json.loads(json.dumps(found.to_dict()))
    assert (told["channels"], told["image_size"], told["examined"]) == (3, 16, 32)
    assert found.contact_sheet().startswith(b"\x89PNG")


@pytest.mark.parametrize("given", ["../other", "/etc", "a/../../b", "a\0b"])
def test_a_part_is_below_the_dataset(given: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        DataOptions(train=given)
    assert refused.value.field == "data.train"
