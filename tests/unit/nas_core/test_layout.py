"""How a folder is read: what is certain is used, and what is not is refused with the choices that resolve it."""

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nas_core.data.layout import Listing, list_images, role, seems_to_hold_classes
from nas_core.spec import DataOptions

PNG = b"\x89PNG\r\n\x1a\n"


def tree(root: Path, *folders: str, files: int = 2, suffix: str = ".png") -> Path:
    """Files with an image's suffix in each of the folders, of which "train/{cats,dogs}" are two."""
    for folder in folders:
        before, brace, rest = folder.partition("{")
        names, _, after = rest.partition("}")
        for name in names.split(",") if brace else [""]:
            target = root / f"{before}{name}{after}"
            target.mkdir(parents=True, exist_ok=True)
            for number in range(files):
                (target / f"{number}{suffix}").write_bytes(PNG)
    return root


def parts(listing: Listing) -> dict[str, dict[str, int]]:
    """Images per part and class."""
    found: dict[str, dict[str, int]] = {}
    for (part, label), count in Counter((file.part, file.label) for file in listing.files).items():
        found.setdefault(part, {})[listing.class_names[label]] = count
    return found


def files_below(root: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(root))


def look(root: Path, **options: Any) -> Listing:
    listing = list_images(root, DataOptions(**options))
    assert len(listing.files) + sum(one.count for one in listing.left_out) == files_below(root)
    assert len({file.path for file in listing.files}) == len(listing.files)
    return listing


PETS = {"cats": 2, "dogs": 2}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["{cats,dogs}"], ["train"]),
        (["train/{cats,dogs}"], ["train"]),
        (["train/{cats,dogs}", "test/{cats,dogs}"], ["train", "test"]),
        (["Training/{cats,dogs}", "Testing/{cats,dogs}"], ["train", "test"]),
        (["TRAIN/{cats,dogs}", "TEST/{cats,dogs}"], ["train", "test"]),
        (["train_set/{cats,dogs}", "test_set/{cats,dogs}"], ["train", "test"]),
        (["trainset/{cats,dogs}", "testset/{cats,dogs}"], ["train", "test"]),
        (["TrainSet/{cats,dogs}", "TestSet/{cats,dogs}"], ["train", "test"]),
        (["X_train/{cats,dogs}", "X_test/{cats,dogs}"], ["train", "test"]),
        (["trn/{cats,dogs}", "tst/{cats,dogs}"], ["train", "test"]),
        (["train2017/{cats,dogs}", "val2017/{cats,dogs}"], ["train", "validation"]),
        (["train-images/{cats,dogs}", "hold-out/{cats,dogs}"], ["train", "test"]),
        (["train/{cats,dogs}", "valid/{cats,dogs}"], ["train", "validation"]),
        (["tr/{cats,dogs}", "Val/{cats,dogs}"], ["train", "validation"]),
        (["train/{cats,dogs}", "dev/{cats,dogs}", "holdout/{cats,dogs}"], ["train", "validation", "test"]),
        (["train/{cats,dogs}", "validation/{cats,dogs}", "Testing/{cats,dogs}"], ["train", "validation", "test"]),
        (["training_data/{cats,dogs}", "eval/{cats,dogs}", "test_data/{cats,dogs}"], ["train", "validation", "test"]),
        (["images/train/{cats,dogs}", "images/test/{cats,dogs}"], ["train", "test"]),
        (["dataset/{cats,dogs}"], ["train"]),
        (["a/b/c/{cats,dogs}"], ["train"]),
        (["dataset/train/{cats,dogs}", "dataset/val/{cats,dogs}"], ["train", "validation"]),
        (["seg_train/seg_train/{cats,dogs}", "seg_test/seg_test/{cats,dogs}"], ["train", "test"]),
        (["cats/{train,test}", "dogs/{train,test}"], ["train", "test"]),
        (["data/cats/{Training,Validation}", "data/dogs/{Training,Validation}"], ["train", "validation"]),
    ],
)
def test_the_usual_layouts_are_recognised(tmp_path: Path, folders: list[str], expected: list[str]) -> None:
    listing = look(tree(tmp_path, *folders))
    assert listing.problems == () and listing.class_names == ("cats", "dogs")
    assert parts(listing) == dict.fromkeys(expected, PETS)
    assert listing.layout.startswith("one folder per class")


@pytest.mark.parametrize(
    "folders",
    [
        ["cats/images", "dogs/images"],
        ["cats/{in,out}", "dogs/{brown,white}"],
        ["{train_station,bus_stop}"],
        ["{test_strip,control}"],
        ["val/images", "var/images"],
    ],
)
def test_what_holds_folders_of_its_own_is_a_class(tmp_path: Path, folders: list[str]) -> None:
    listing = look(tree(tmp_path, *folders[:1], *folders[1:]), train=".")
    assert listing.problems == () and len(listing.class_names) == 2
    if "val/images" not in folders:
        assert look(tmp_path).files == listing.files


@pytest.mark.parametrize(
    ("folders", "field", "found", "resolved_by"),
    [
        (["fold1/{a,b}", "fold2/{a,b}", "fold3/{a,b}"], "data.test", "fold1/, fold2/ and fold3/", {"test": "fold2"}),
        (["fold1/{a,b}", "fold2/{a,b}", "test/{a,b}"], "data.test", "fold1/ and fold2/", {"test": "test"}),
        ([".", "data/{a,b}"], "dataset", "images of one class only, 'data'", {"train": "data"}),
        (["{car,bus,train}"], "data.train", "next to it are bus/ and car/", {"train": "."}),
        (["train/{car,bus,train}"], "data.train", "train/train/ is not a class name", {"train": "train"}),
        (["train/{a,b}", "training/{a,b}"], "data.train", "train/ and training/", {"train": "training"}),
        (["train/{a,b}", "test/{a,b}", "testing/{a,b}"], "data.test", "test/ and testing/", {"test": "test"}),
        (["train/{a,b}", "{a,b}"], "data.train", "next to it are a/ and b/", {"train": "train"}),
        (["train/{a,b}", "{a,b}"], "data.train", "next to it are a/ and b/", {"ignore": ["/a", "/b"]}),
        (["test/{a,b}", "{a,b}"], "data.train", "test/ looks like images for the test", {"train": ".", "test": "test"}),
        (["{test,control}"], "data.train", "test/ looks like images for the test", {"train": "."}),
        (["test/{a,b}"], "data.train", "no training images", {"train": "test"}),
        (["test/{a,b}", "val/{a,b}"], "data.train", "no training images", {"train": "val"}),
        (["train/{a,b}", "chest/train/{a,b}"], "data.train", "chest/", {"ignore": ["chest"]}),
        (["{yes,no}", "brain/{yes,no}"], "data.train", " repeats ", {"ignore": ["brain"]}),
        (["{yes,no,images}"], "data.train", "images/ is unlikely to be a class", {"train": "."}),
        (["train/{a,b}", "test"], "data.test", "2 images in test/, in no class folders", {"ignore": ["test"]}),
        (["train/{a,b}", "val"], "data.validation", "2 images in val/, in no class folders", {"ignore": ["val"]}),
        (["fruit/train/{a,b}", "nuts/train/{c,d}"], "data.train", "inside", {"train": "fruit/train"}),
        (["cats/{train,test}", "dogs"], "data.train", "inside what look like classes", {"train": "."}),
        (["cats/more/test", "dogs"], "data.train", "looks like a part of a dataset", {"train": "."}),
        (["train/Training/{a,b}", "train/Testing/{a,b}"], "data.train", "not a class", {"train": "train/Training"}),
        (["train/train/{a,b}", "train/test/{a,b}"], "data.train", "not a class name",
         {"train": "train/train", "test": "train/test"}),
        (["split1/{a,b}", "split2/{a,b}"], "data.train", "split1/ and split2/ hold folders of the same names",
         {"train": "split1", "test": "split2"}),
        (["Entrenamiento/{a,b}", "Prueba/{a,b}"], "data.train", "hold folders of the same names", {"train": "Prueba"}),
        (["images/original/{a,b}", "images/augmented/{a,b,c}"], "data.train", "hold folders of the same names",
         {"train": "images/original"}),
        (["x/data/{a,b}", "y/data/{a,b}"], "data.train", "hold folders of the same names", {"train": "x/data"}),
        (["cats/{in,out}", "dogs/{in,out}"], "data.train", "hold folders of the same names", {"train": "."}),
        (["train/{a,b}", "test/1/{a,b}", "test/2/{a,b}"], "data.test", "hold folders of the same", {"test": "test/2"}),
        (["{train_cats,train_dogs,test_cats,test_dogs}"], "data.train", "name a part or a class", {"train": "."}),
        (["{trainA,trainB,valA,valB}"], "data.train", "trainA/, trainB/, valA/ and valB/", {"train": "."}),
        (["train/{a,b}", "test/{a,c}"], "data.test", "class 'c' is held out", {"ignore": ["c"]}),
        (["train/{a,b}", "valid/{a,c}"], "data.validation", "class 'c' is held out", {"ignore": ["valid"]}),
        (["train/{a,b}", "test/{A,b}"], "data.test", "spelled 'A'; for training 'a'", {"ignore": ["test"]}),
        (["."], "data.train", "2 images in the folder itself", None),
        (["only"], "dataset", "images of one class only, 'only'", None),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_refused_with_a_way_out(
    tmp_path: Path, folders: list[str], field: str, found: str, resolved_by: dict[str, Any] | None
) -> None:
    root = tree(tmp_path, *folders)
    refused = look(root)
    problem = refused.problems[0]
    assert problem.field == field and found in problem.reason and problem.accepted
    assert bool(refused.files) or refused.layout == "not recognised"
    for choice in problem.choices:
        then = look(root, **{name.removeprefix("data."): value for name, value in choice.items()})
        assert problem.reason not in [one.reason for one in then.problems], choice
    if resolved_by is not None:
        listing = look(root, **resolved_by)
        assert listing.problems == () and len(listing.class_names) >= 2


def test_the_choice_is_kept(tmp_path: Path) -> None:
    folds = look(tree(tmp_path / "folds", *(f"fold{n}/{{cats,dogs}}" for n in (1, 2, 3))), test="fold2")
    assert parts(folds) == {"train": {"cats": 4, "dogs": 4}, "test": PETS}
    assert {file.path[:5] for file in folds.files if file.part == "test"} == {"fold2"}
    beside = look(tree(tmp_path / "beside", "{cats,dogs}", "test/{cats,dogs}"), train=".", test="test")
    assert parts(beside) == {"train": PETS, "test": PETS}
    deep = look(tree(tmp_path / "deep", "data/{cats,dogs}", "held/{cats,dogs}"), test="held")
    assert parts(deep) == {"train": PETS, "test": PETS}
    control = look(tree(tmp_path / "control", "{test,control}"), train=".")
    assert parts(control) == {"train": {"test": 2, "control": 2}}
    alone = look(tree(tmp_path / "alone", "{cats,dogs}", "train/{cats,dogs}", "val/{cats,dogs}"), train="train")
    assert parts(alone) == {"train": PETS, "validation": PETS} and "cats/ and dogs/ not used" in alone.warnings[0]


@pytest.mark.parametrize(
    ("options", "field", "reason"),
    [
        ({"train": "nowhere"}, "data.train", "no such folder"),
        ({"test": "train/0.txt"}, "data.test", "no such folder"),
        ({"test": "empty"}, "data.test", "no images in this folder"),
        ({"train": "train", "test": "train"}, "data.test", "the folder of data.train too"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, str], field: str, reason: str) -> None:
    root = tree(tmp_path, "train/{cats,dogs}")
    (root / "empty").mkdir()
    problem = look(root, **options).problems[0]
    assert problem.field == field and reason in problem.reason
    assert ("train/" in problem.accepted) == (len(options) == 1)


HIDDEN = [
    *(".ipynb_checkpoints", ".thumbnails", ".Trash-1000", ".dvc", ".git", "@eaDir", "__MACOSX", "lost+found"),
    *("$RECYCLE.BIN", "System Volume Information", "#recycle"),
]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_and_system_folders_are_no_classes_and_hold_no_images(tmp_path: Path, name: str) -> None:
    listing = look(tree(tmp_path, "{cats,dogs}", name, f"cats/{name}"))
    assert listing.problems == () and parts(listing) == {"train": PETS}
    (left,) = listing.left_out
    assert left.reason == f"in a hidden or system folder: {name}" and left.count == 4
    assert f"{name}/0.png" in left.examples


@pytest.mark.parametrize("name", ["._0.png", "Thumbs.db", "desktop.ini", ".DS_Store", "Icon\r"])
def test_hidden_and_system_files_are_no_images(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path, "{cats,dogs}")
    (root / "cats" / name).write_bytes(PNG)
    listing = look(root)
    assert parts(listing) == {"train": PETS} and listing.left_out[0].reason == "hidden or system file"


def test_what_is_ignored_is_counted(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/{cats,dogs,birds}", "old/cats", "train/cats/raw")
    listing = look(root, ignore=["old", "train/birds", "raw", "1.*"])
    assert parts(listing) == {"train": {"cats": 1, "dogs": 1}}
    assert {one.reason: one.count for one in listing.left_out} == {
        **{f"ignored, as it matches {pattern!r}": 2 for pattern in ("old", "train/birds", "raw", "1.*")}
    }


def test_links_are_followed_once_and_loops_are_found(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", "dogs")
    root = tree(tmp_path / "data", "cats")
    (root / "dogs").symlink_to(outside / "dogs")
    (root / "cats" / "loop").symlink_to(root)
    (root / "cats" / "up").symlink_to(tmp_path)
    (root / "felines").symlink_to("cats")
    (root / "cats" / "gone.png").symlink_to("nowhere.png")
    (root / "cats" / "self.png").symlink_to("self.png")
    (root / "cats" / "again.png").symlink_to("0.png")
    listing = list_images(root)
    assert listing.problems == () and parts(listing) == {"train": {"cats": 3, "dogs": 2}}
    assert {one.reason: one.count for one in listing.left_out} == {
        "folder already read through another path": 3,
        "link that leads nowhere": 2,
    }
    assert "links to folders that are already read: felines/" in listing.warnings


def test_a_test_that_is_a_link_to_the_training_images_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/{cats,dogs}")
    (root / "test").symlink_to("train")
    problem = list_images(root).problems[0]
    assert problem.field == "data.test" and "test/ leads to train" in problem.reason


@pytest.mark.timeout(20)
def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    root = tree(tmp_path, "{cats,dogs}")
    os.mkfifo(root / "cats" / "pipe.png")
    os.mkfifo(root / "cats" / "pipe")
    (root / "dogs" / "link.png").symlink_to(root / "cats" / "pipe")
    (root / "dogs" / "null.png").symlink_to("/dev/null")
    listing = look(root)
    assert parts(listing) == {"train": PETS}
    assert {one.reason: one.count for one in listing.left_out} == {"named pipe": 3, "device": 1}


def test_class_folders_without_images_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path, "{cats,dogs}")
    (root / "birds").mkdir()
    tree(root, "fish", suffix=".mat")
    listing = look(root)
    assert listing.warnings == ("class folders without images: birds/ and fish/",)
    assert (listing.left_out[0].reason, listing.left_out[0].count) == ("not an image: .mat", 2)


def test_spellings_that_look_alike_are_one_class_and_said(tmp_path: Path) -> None:
    composed, apart = unicodedata.normalize("NFC", "Käse"), unicodedata.normalize("NFD", "Käse")
    listing = look(tree(tmp_path, f"train/{composed}", "train/Brot", f"test/{apart}", "test/Brot"))
    assert listing.problems == () and listing.class_names == ("Brot", composed)
    assert parts(listing) == {part: {"Brot": 2, composed: 2} for part in ("train", "test")}
    assert r"'Ka\u0308se' and 'K\xe4se'" in listing.warnings[0]


def test_names_that_are_no_text_can_be_shown(tmp_path: Path) -> None:
    root = tree(tmp_path, "dogs")
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with open(os.fsencode(root) + b"/caf\xe9/1.png", "wb") as file:
        file.write(PNG)
    listing = look(root)
    assert listing.class_names == (r"caf\xe9", "dogs")
    assert "".join(listing.class_names).encode() and os.path.exists(root / listing.files[0].path)


def test_images_outside_the_class_folders_are_counted(tmp_path: Path) -> None:
    listing = look(tree(tmp_path, "train/{cats,dogs}", "train", "."))
    assert parts(listing) == {"train": PETS}
    assert [(one.reason, one.count) for one in listing.left_out] == [("outside the class folders", 4)]


def test_a_folder_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    deep = tree(tmp_path, "{cats,dogs}") / "cats"
    here = os.getcwd()
    try:
        os.chdir(deep)
        for _ in range(20):  # a path longer than the system takes
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
    listing = list_images(tmp_path)
    assert parts(listing) == {"train": PETS}
    assert [one.reason for one in listing.left_out] == ["folder that cannot be read: file name too long"]


@pytest.mark.parametrize(
    "name", ["trees", "tests tubes", "cats", "attest", "devices", "value", "trainers", "manifold", "fold"]
)
def test_other_names_say_nothing(name: str) -> None:  # fmt: skip
    assert role(name) is None


def test_folders_to_choose_from_are_those_that_seem_to_hold_classes(tmp_path: Path) -> None:
    for layout in (
        ["{cats,dogs}"],
        ["Training/{cats,dogs}", "Testing/x"],
        ["a/{cats,dogs}"],
        ["cats/{train,test}", "dogs/train"],
    ):
        assert seems_to_hold_classes(tree(tmp_path / str(hash(str(layout))), *layout)), layout
    for number, layout in enumerate((["cats"], [".hidden/{cats,dogs}"], ["."])):
        assert not seems_to_hold_classes(tree(tmp_path / str(number), *layout)), layout
