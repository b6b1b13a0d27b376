"""Whatever a folder holds, each of its files is in one part or is counted among what is left out."""

import json
import os
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas_core.data.decoding import Damaged, Decoding, decode
from nas_core.data.examination import examine
from nas_core.data.images import FileImages
from nas_core.data.inspection import inspect
from nas_core.data.layout import Listing, list_images, readable
from nas_core.data.snapshot import PARTS, compare, take
from nas_core.errors import DataChanged, InvalidValue
from nas_core.spec import NO_OPTIONS, DataOptions
from tests.thoroughness import THOROUGH
from tests.trees import KINDS, Edit, Tree, apply, contents, edits, options, sound, trees, written

EXAMPLES = settings().max_examples if THOROUGH else 10
pytestmark = pytest.mark.timeout(3600 if THOROUGH else 120)  # nothing hangs
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
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.none() | st.integers(0, 400),
    st.sampled_from([".png", ".tga", ""]),
)
def test_whatever_is_wrong_with_a_file_is_damage(
    kind: str, changes: list[tuple[int, int]], cut: int | None, suffix: str
) -> None:
    content = bytearray(contents(kind, 0))
    for at, value in changes:
        if content:
            content[at % len(content)] = value
    with TemporaryDirectory() as folder:
        file = Path(folder, f"some{suffix}")
        file.write_bytes(content[:cut])
        for look in (lambda: examine(file, "white"), lambda: decode(file, Decoding(3, 8))):
            with suppress(Damaged):
                look()


def state(root: Path) -> tuple[Listing, dict[str, tuple[str, str, int, int, bytes]]]:
    """What lies there: of each image its class, part, size, time of change and content."""
    listing = list_images(root)
    names = listing.class_names
    return listing, {
        one.path: (names[one.label], one.part, one.size, one.mtime_ns, (root / one.path).read_bytes())
        for one in listing.files
    }


def told(paths: Iterable[str]) -> dict[str, Any]:
    """How a failure counts paths or names."""
    listed = sorted(paths)
    return {"count": len(listed), "examples": [readable(path) for path in listed[:5]]}


@FUZZ
@given(sound, edits)
def test_edits_between_attempts_end_the_search_with_what_changed_or_change_nothing(
    tree: Tree, changes: list[Edit]
) -> None:
    with written(tree) as root:
        dataset = str(root)
        found = inspect(dataset, anywhere=True)
        if found.problems:
            return
        shape = (len(found.class_names), found.channels, found.image_size)
        _, first = take(dataset, (), NO_OPTIONS, shape, None, 0.5, found.fingerprint)
        assert len({file.path for file in first.files}) == len(first.files)
        assert all(bool(file.part) != bool(file.reason) for file in first.files)
        seen = {part: set[bytes]() for part in (*PARTS, "training")}
        for file in first.used:
            seen[file.part].add(decode(root / file.path, first.decoding).tobytes())
        trained = seen["weights"] | seen["scaling"] | seen["training"]
        assert not seen["test"] & (trained | seen["validation"]) and not seen["validation"] & trained
        before, was = state(root)
        for one in changes:
            with suppress(OSError):  # what a system does not take is passed over
                apply(one, root, root.parent / "outside")
        after, now = state(root)
        both = was.keys() & now.keys()
        expected = {
            "classes added": set(after.class_names) - set(before.class_names),
            "classes removed": set(before.class_names) - set(after.class_names),
            "files added": now.keys() - was.keys(),
            "files removed": was.keys() - now.keys(),
            "files moved to another class or part": {path for path in both if was[path][:2] != now[path][:2]},
        }
        elsewhere = expected["files moved to another class or part"]
        differ = {path for path in both - elsewhere if was[path][4] != now[path][4]}
        unseen = {path for path in differ if was[path][2:4] == now[path][2:4]}
        expected["files changed"] = differ - unseen
        try:
            compare(dataset, (), NO_OPTIONS, first)
        except DataChanged as changed:
            if now:
                assert changed.changes == {kind: told(some) for kind, some in expected.items() if some}
            else:
                assert set(changed.changes) == {"layout"}
            return
        assert not any(expected.values()), "a change that nobody was told of"
        paths = [root / file.path for file in first.used]
        reading = FileImages(paths, first.decoding, [file.digest for file in first.used])
        for number, file in enumerate(first.used):
            if file.path in unseen:
                with pytest.raises(DataChanged, match="has changed since the search began"):
                    reading.fetch(torch.tensor([number]))
            else:
                reading.fetch(torch.tensor([number]))


@FUZZ
@given(trees)
def test_a_choice_that_is_offered_resolves_what_it_is_offered_for(tree: Tree) -> None:
    with written(tree) as root:
        for problem in list_images(root, NO_OPTIONS).problems:
            for choice in problem.choices:
                chosen = DataOptions.from_dict({name.removeprefix("data."): value for name, value in choice.items()})
                after = list_images(root, chosen)
                assert (problem.field, problem.reason) not in [(one.field, one.reason) for one in after.problems]
