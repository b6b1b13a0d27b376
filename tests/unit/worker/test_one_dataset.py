"""A run remembers of which dataset it is, and whoever goes on with it compares."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_core import SearchSpace
from nas_core.data.inspection import inspect
from nas_core.data.loading import load
from nas_core.spec import SearchSpec, Settings
from worker.failures import Failure
from worker.run_folder import RunFolder
from worker.training import BEFORE, FINGERPRINT, MANIFEST, MOMENTS, SHEET, dataset, load_data


def draw(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(file)


@pytest.fixture
def spec(tmp_path: Path) -> SearchSpec:
    """A search on an image folder, as it was submitted."""
    for number in range(40):
        draw(tmp_path / "pets" / ("cats" if number % 2 else "dogs") / f"{number}.png", number)
    space = SearchSpace.preset("digits", channels=4, blocks=(1, 1), levels=2, classes=2)
    pets = str(tmp_path / "pets")
    found = inspect(pets, anywhere=True).to_dict()
    return SearchSpec(pets, space.feasible_budgets()[1:], space, Settings.preset("digits"), inspection=found)


def test_a_run_keeps_its_manifest_and_tells_of_it_in_its_result(tmp_path: Path, spec: SearchSpec) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    data = load_data(folder, spec, {}, torch.device("cpu"))
    kept = folder.read(MANIFEST)
    again = load_data(folder, spec, {}, torch.device("cpu"))
    assert folder.read(MANIFEST) == kept and again.fingerprint == data.fingerprint
    with Image.open(BytesIO(folder.read(SHEET))) as drawn:
        assert drawn.format == "PNG" and drawn.height == 28 + 2 * 68
    told = json.loads(json.dumps(dataset(data)))
    assert told["fingerprint"] == data.fingerprint and told["decoding"]["size"] == 8
    assert {part: sum(counts) for part, counts in told["counts"].items()} == told["splits"]
    assert told["skipped"] == {"count": 0, "files": []} and told["left_out"] == []


@pytest.mark.parametrize(
    ("crop", "lacking", "where", "reason"),
    [
        ("shift", 0, {"pets": "cpu", "digits": "cpu"}, ""),
        ("shift", 1, {"pets": "files", "digits": "host"}, "more than 25% of the memory that was free on cpu"),
        ("resized", 0, {"pets": "files", "digits": "host"}, "each crop is taken from all of its pixels"),
    ],
)
def test_a_result_says_where_the_images_were_and_why(
    crop: str, lacking: int, where: dict[str, str], reason: str, spec: SearchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(spec.settings, crop=crop)
    digits = replace(spec, dataset="digits", space=replace(spec.space, classes=10), inspection=None)
    for name, given, size in (("pets", spec, 40 * 8 * 8), ("digits", digits, 1797 * 8 * 8)):
        monkeypatch.setattr("nas_core.data.loading.free_on", lambda _, room=size - lacking: 4 * room)
        told = dataset(load(replace(given, settings=settings), (), "cpu"))["kept"]
        assert told == {"where": where[name], "bytes": size, "room": size - lacking, "reason": reason}


@pytest.mark.parametrize(
    "left", [None, "{}", '{"mean": [1, 2], "deviation": [3, 4]}', '{"mean": [NaN], "deviation": [3]}']
)
def test_who_goes_on_measures_no_images_again_unless_what_was_measured_is_none(
    tmp_path: Path, spec: SearchSpec, left: str | None
) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    data = load_data(folder, spec, {}, torch.device("cpu"))
    if left is not None:
        folder.write(MOMENTS, left.encode())
    again = load_data(folder, spec, {}, torch.device("cpu"))
    assert (again.moments is None) == (left is not None)
    assert torch.equal(again.load(again.training)[0], data.load(data.training)[0]), "bit for bit"


def test_an_attempt_that_finds_other_data_than_the_first_ends_the_run_for_good(
    tmp_path: Path, spec: SearchSpec
) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    load_data(folder, spec, {}, torch.device("cpu"))
    (tmp_path / "pets" / "cats" / "1.png").unlink()
    with pytest.raises(Failure, match=r"1 file removed \(cats/1.png\)") as ended:
        load_data(folder, spec, {}, torch.device("cpu"))
    assert (ended.value.kind, ended.value.retryable) == ("data_changed", False)
    assert ended.value.details["changes"] == {"files removed": {"count": 1, "examples": ["cats/1.png"]}}


def test_a_class_that_was_added_after_the_submission_ends_the_first_attempt(tmp_path: Path, spec: SearchSpec) -> None:
    for number in range(10):
        draw(tmp_path / "pets" / "birds" / f"{number}.png", 100 + number)
    folder = RunFolder(str(tmp_path / "run"))
    for given in (spec, replace(spec, inspection=None)):
        with pytest.raises(Failure, match="2 classes") as ended:
            load_data(folder, given, {}, torch.device("cpu"))
        assert (ended.value.kind, ended.value.retryable) == ("data_changed", False)
    assert not folder.exists(MANIFEST)


def test_finals_tell_what_has_changed_since_their_searches(tmp_path: Path, spec: SearchSpec) -> None:
    search, finals = RunFolder(str(tmp_path / "search")), RunFolder(str(tmp_path / "finals"))
    load_data(search, spec, {}, torch.device("cpu"))
    (tmp_path / "pets" / "cats" / "1.png").unlink()
    for before, told in (
        (search.read(MANIFEST), r"1 file removed \(cats/1.png\)"),
        (b"what a hostile worker left", "has changed since the search was submitted"),
    ):
        finals.write(BEFORE, before)
        with pytest.raises(Failure, match=told) as ended:
            load_data(finals, spec, {}, torch.device("cpu"))
        assert ended.value.kind == "data_changed"
    assert not finals.exists(MANIFEST)


def test_data_with_a_name_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace.preset("digits", channels=4, blocks=(1, 1), levels=2)
    spec = SearchSpec("digits", space.feasible_budgets()[1:], space, Settings.preset("digits"))
    folder = RunFolder(str(tmp_path / "run"))
    load_data(folder, spec, {}, torch.device("cpu"))
    load_data(folder, spec, {}, torch.device("cpu"))
    (tmp_path / "run" / FINGERPRINT).write_text("of other scans")
    with pytest.raises(Failure, match="not the dataset that the search began with") as ended:
        load_data(folder, spec, {}, torch.device("cpu"))
    assert ended.value.kind == "data_changed"
