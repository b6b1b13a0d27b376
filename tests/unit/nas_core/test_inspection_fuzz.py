"""Whatever a folder holds, each of its files is in one part or is counted among what is left out."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from nas_core.decoding import decode
from nas_core.errors import InvalidValue
from nas_core.inspection import inspect
from nas_core.layout import list_images
from nas_core.spec import NO_OPTIONS, DataOptions
from tests.trees import Tree, options, trees, written

EXAMPLES = 25 if settings.get_current_profile_name() == "repeatable" else settings().max_examples
pytestmark = pytest.mark.timeout(120 if EXAMPLES == 25 else 0)
FUZZ = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


def entries(root: Path) -> tuple[int, bool]:
    """How many files and links there are, and whether any link leads to a folder."""
    count, leads = 0, False
    for parent, folders, files in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        count += len(files) + len(links)
        leads = leads or bool(links)
    return count, leads


@FUZZ
@given(trees, options)
def test_every_file_is_in_one_part_or_left_out(tree: Tree, chosen: DataOptions) -> None:
    with written(tree) as root:
        listing = list_images(root, chosen)
        paths = [file.path for file in listing.files]
        assert len(set(paths)) == len(paths), "a file in two parts"
        reached = {(os.path.realpath(root / os.path.dirname(path)), os.path.basename(path)) for path in paths}
        assert len(reached) == len(paths), "a file in two parts, by two ways"
        count, leads = entries(root)
        told = len(paths) + sum(one.count for one in listing.left_out)
        assert told >= count if leads else told == count
        assert all((root / path).is_file() for path in paths)
        assert list(listing.class_names) == sorted({unicodedata.normalize("NFC", name) for name in listing.class_names})


@FUZZ
@given(trees, options)
def test_an_inspection_ends_and_tells_what_can_be_told(tree: Tree, chosen: DataOptions) -> None:
    with written(tree) as root:
        try:
            found = inspect(str(root), anywhere=True, options=chosen)
        except InvalidValue as refused:
            assert refused.field == "dataset"
            return
        json.dumps(found.to_dict(), ensure_ascii=False).encode()
        assert found.contact_sheet().startswith(b"\x89PNG")
        again = inspect(str(root), anywhere=True, options=chosen)
        assert (again.to_dict(), again.files) == (found.to_dict(), found.files)
        for problem in found.problems:
            assert problem.reason and problem.accepted and problem.field.partition(".")[0] in ("dataset", "data")
            str(problem).encode()
            for choice in problem.choices:
                DataOptions.from_dict({name.removeprefix("data."): value for name, value in choice.items()})
        if not found.problems:
            assert len(found.class_names) >= 2 and min(found.counts["train"].values()) >= 8
            assert sum(sum(part.values()) for part in found.counts.values()) == found.images == len(found.files)
            for file in found.files:
                pixels = decode(root / file.path, found.decoding)
                assert pixels.shape == (found.channels, found.image_size, found.image_size)


@FUZZ
@given(trees)
def test_a_choice_that_is_offered_resolves_what_it_is_offered_for(tree: Tree) -> None:
    with written(tree) as root:
        for problem in list_images(root, NO_OPTIONS).problems:
            for choice in problem.choices:
                chosen = DataOptions.from_dict({name.removeprefix("data."): value for name, value in choice.items()})
                after = list_images(root, chosen)
                assert (problem.field, problem.reason) not in [(one.field, one.reason) for one in after.problems]
