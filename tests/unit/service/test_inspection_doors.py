"""Awkward folders at every door: REST, command line and form tell of the same in the same words, and take the same."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from typer.testing import CliRunner

from nas_core.data.loading import load
from nas_core.data.summary import in_words, summarise
from nas_core.errors import InvalidValue
from nas_core.space import SearchSpace
from nas_core.spec import DataOptions, SearchSpec
from nas_core.spec import Settings as TrainingSettings
from service import foreground, inspector
from service.cli import app as commands
from service.client import Client
from service.domain.request import SearchRequest, check, look_here
from service.inspections import Found, Inspections, Look
from tests import seeding
from tests.unit.service.test_dashboard import text


def looked_here(inspections: Inspections, look: Look) -> Found | InvalidValue | None:
    """Look without a process of its own, which `test_inspections` is about."""
    outcome: list[Found | InvalidValue | None] = []
    inspector.answer(
        json.loads(json.dumps(inspections._asked(look))),
        lambda **said: outcome.append(inspections._heard(look, json.loads(json.dumps(said)))),
    )
    return outcome[-1]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """One service and one database for all: what is under test here does not depend on what else is there."""
    made = seeding.make_app(tmp_path_factory.mktemp("service"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inspections, "_looked", looked_here)
        yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with seeding.serving(app) as address:
        yield address


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def parts(*names: str) -> tuple[str, ...]:
    """Two classes in each folder."""
    return tuple(f"{name}/{label}" for name in names for label in ("cat", "dog"))


def drawn(*names: str) -> Callable[[Path], object]:
    return lambda folder: seeding.images(folder, *names)


def then(first: Callable[[Path], object], change: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        first(folder)
        change(folder)

    return make


def grey_first(folder: Path) -> None:
    for number, file in enumerate(sorted(folder.rglob("*.png"))):
        if number:
            Image.merge("RGB", [Image.effect_noise((40, 32), 90) for _ in "rgb"]).save(file)
    Image.new("L", (300, 4), 9).save(sorted(folder.rglob("*.png"))[0])


def icons(folder: Path) -> None:
    for number, file in enumerate(sorted(folder.rglob("*.png"))):
        icon = Image.new("RGBA", (16, 16))
        icon.paste((0, 0, 0, 255), (number % 8, number // 8, number % 8 + 5, number // 8 + 5))
        icon.save(file)


def hidden(folder: Path) -> None:
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        seeding.images(folder, name, each=3)


def same(folder: Path) -> None:
    for file in (folder / "test").rglob("*.png"):
        file.write_bytes((folder / "train" / file.relative_to(folder / "test")).read_bytes())


def unreadable(folder: Path) -> None:
    for number in range(2):
        (folder / "cat" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")


def avif(folder: Path) -> None:
    for file in list(folder.rglob("*.png")):
        with Image.open(file) as image:
            image.convert("RGB").save(file.with_suffix(".avif"))
        file.unlink()


ACCEPTED: dict[str, tuple[Callable[[Path], object], dict[str, Any], list[str]]] = {
    "Training and Testing": (drawn(*parts("Training", "Testing")), {}, ["Training/ for training", "18 in test"]),
    "train and valid": (drawn(*parts("train", "valid")), {}, ["valid/ for validation", "18 in validation"]),
    "hidden and system folders": (then(drawn("cat", "dog"), hidden), {}, ["of 2 classes", "@eaDir", "3 files"]),
    "a grey first image of 300×4": (then(drawn("cat", "dog"), grey_first), {}, ["32 × 32 pixels in colour"]),
    "icons on transparency": (then(drawn("cat", "dog"), icons), {}, ["transparent pixels replaced by white"]),
    "formats by content": (then(drawn("cat", "dog"), avif), {}, ["18 in train"]),
    "a test that lacks a class": (
        drawn(*parts("train", "test"), "train/mouse"),
        {},
        ["no images for test of 'mouse'"],
    ),
    "old folders, ignored": (
        drawn(*parts("train", "test"), "old/cat"),
        {"ignore": ["old"]},
        ["ignored, as it matches 'old'"],
    ),
    "named parts": (
        drawn(*parts("first", "second")),
        {"train": "first", "test": "second"},
        ["first/ for training, second/ for the test"],
    ),
    "grey and small, as asked": (drawn("cat", "dog"), {"channels": 3, "image_size": 8}, ["8 × 8 pixels in colour"]),
}
REFUSED: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "folds": (drawn(*parts("fold1", "fold2", "fold3")), {}, "data.test"),
    "two folders to train on": (drawn(*parts("train", "training")), {}, "data.train"),
    "a folder beside train": (drawn(*parts("train", "images")), {}, "data.train"),
    "one class": (drawn("cat"), {}, "dataset"),
    "too few images": (lambda folder: seeding.images(folder, "cat", "dog", each=3), {}, "dataset"),
    "broken files": (then(drawn("cat", "dog"), unreadable), {}, "dataset"),
    "the same images for training and test": (then(drawn(*parts("train", "test")), same), {}, ""),
    "a folder that is not there": (drawn("cat", "dog"), {"test": "testing"}, "data.test"),
    "a test class that is not trained on": (drawn(*parts("train", "test"), "test/mouse"), {}, "data.test"),
    "an empty folder": (lambda folder: folder.mkdir(), {}, "dataset"),
}
IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "channels": ({"channels": 2}, "data.channels"),
    "a folder above": ({"train": "../pets"}, "data.train"),
    "no colour": ({"background": "sky"}, "data.background"),
    "an image of a pixel": ({"image_size": 1}, "data.image_size"),
}


def flags(data: dict[str, Any]) -> list[str]:
    """The options of the command line that say what `data` says."""
    return [
        f"--{name.replace('_', '-')}={one}"
        for name, value in data.items()
        for one in (value if isinstance(value, list) else [value])
    ]


def asked(http: httpx.Client, path: str, content: dict[str, Any]) -> httpx.Response:
    """The answer to a request, when the dataset has been looked at."""
    while True:
        answer = http.post(path, json=content)
        if answer.status_code != 202 and "urn:yoso:still-looking" not in answer.text:
            return answer
        assert answer.headers["retry-after"] == "1"


def yoso(*words: str) -> Any:
    return CliRunner().invoke(commands, list(words))


def form(dataset: Path, data: dict[str, Any]) -> dict[str, str]:
    """The form filled in so."""
    filled = {f"data.{k}": ", ".join(v) if isinstance(v, list) else str(v) for k, v in data.items()}
    return {"dataset": str(dataset), "budgets": "10M"} | filled


def body(dataset: Path, data: dict[str, Any]) -> dict[str, Any]:
    """A search on it, small enough for any image."""
    return {"dataset": str(dataset), "data": data, "limits": {"parameters": "1G"}}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_certain_is_used_and_told_alike_at_every_door(case: str, http: httpx.Client, tmp_path: Path) -> None:
    make, data, words = ACCEPTED[case]
    folder = tmp_path / "pets"
    make(folder)
    with Client(str(http.base_url)) as client:
        report = client.inspect(str(folder), data)
    assert report["usable"] and report["problems"] == []
    told = " ".join(f"{heading}: {one}" for heading, one in in_words(summarise(dict(report))))
    assert all(one in told for one in words), told
    local = yoso("inspect", str(folder), *flags(data), "--json")
    assert local.exit_code == 0, local.output
    found = json.loads(local.stdout)
    assert found == {key: value for key, value in report.items() if key != "contact_sheet"}
    shown = unescape(text(seeding.form(http, form(folder, data))))
    for _, one in in_words(summarise(found)):
        assert " ".join(one.split()) in " ".join(shown.split())
    sheet = http.get(str(report["contact_sheet"]))
    assert sheet.status_code == 200 and sheet.content.startswith(b"\x89PNG")
    made = asked(http, "/api/v1/searches", body(folder, data))
    assert made.status_code == 201, made.text
    summary = made.json()["dataset_report"]
    assert summary["fingerprint"] == report["fingerprint"] and summary["decoding"] == report["decoding"]
    page = unescape(text(http.get(f"/searches/{made.json()['id']}").text))
    assert all(" ".join(one.split()) in " ".join(page.split()) for _, one in in_words(summary))
    listed = yoso("show", made.json()["id"], "--url", str(http.base_url)).stdout
    assert summary["layout"][:30] in listed


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_is_refused_alike_at_every_door_with_the_way_out(
    case: str, http: httpx.Client, tmp_path: Path
) -> None:
    make, data, field = REFUSED[case]
    folder = tmp_path / "pets"
    make(folder)
    report = asked(http, "/api/v1/datasets/inspect", {"dataset": str(folder), "data": data}).json()
    assert report["usable"] is False and report["problems"]
    assert not field or report["problems"][0]["field"] == field, report["problems"]
    refused = asked(http, "/api/v1/searches", body(folder, data))
    assert refused.status_code == 422
    assert [one for one in refused.json()["errors"] if one in report["problems"]] == report["problems"]
    in_sweep = {"search": body(folder, data), "budgets": ["10M"], "seeds": [0, 1]}
    assert asked(http, "/api/v1/sweeps", in_sweep).json()["errors"] == refused.json()["errors"]
    local = yoso("inspect", str(folder), *flags(data), "--json")
    assert local.exit_code == 1
    assert json.loads(local.stdout)["problems"] == report["problems"]
    run = yoso("run", str(folder), *flags(data), "--limit", "parameters=1G", "--to", str(tmp_path / "run"))
    assert run.exit_code == 2 and not (tmp_path / "run").exists()
    submitted = yoso("submit", str(folder), *flags(data), "--limit", "parameters=1G", "--url", str(http.base_url))
    assert submitted.exit_code == 2
    html = seeding.form(http, form(folder, data))
    for problem in report["problems"]:
        for told in (run.stderr, submitted.stderr):
            assert problem["field"] in told and problem["reason"] in told and problem["accepted"] in told
        assert problem["reason"] in unescape(text(html))
        for choice in problem["choices"]:
            chosen = {**data, **{key.removeprefix("data."): value for key, value in choice.items()}}
            again = asked(http, "/api/v1/datasets/inspect", {"dataset": str(folder), "data": chosen}).json()
            assert problem not in again["problems"], "each choice resolves what it is offered for"
            address = next(one for one in links(html) if all(value in one[1] for value in pairs(choice)))
            assert http.get(address[0]).status_code == 200


def links(html: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Where the choices of a form lead, and what they fill in."""
    found = [unescape(part.partition('"')[0]) for part in html.split('href="')[1:]]
    return [(one, list(httpx.URL(one).params.multi_items())) for one in found]


def pairs(choice: dict[str, Any]) -> list[tuple[str, str]]:
    return [(field, ", ".join(value) if isinstance(value, list) else str(value)) for field, value in choice.items()]


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_option_that_is_none_is_refused_alike_at_every_door(case: str, http: httpx.Client, tmp_path: Path) -> None:
    data, field = IMPOSSIBLE[case]
    folder = seeding.images(tmp_path / "pets", "cat", "dog")
    refused = asked(http, "/api/v1/datasets/inspect", {"dataset": str(folder), "data": data})
    (problem,) = refused.json()["errors"]
    assert refused.status_code == 422 and problem["field"] == field
    assert http.get("/api/v1/datasets/contact-sheet", params={"dataset": str(folder)} | data).status_code == 422
    assert problem in asked(http, "/api/v1/searches", body(folder, data)).json()["errors"]
    local = yoso("inspect", str(folder), *flags(data))
    assert local.exit_code == 2 and problem["reason"] in local.stderr and problem["accepted"] in local.stderr
    assert problem["reason"] in unescape(text(seeding.form(http, form(folder, data))))


def test_what_lies_outside_the_roots_is_seen_at_no_door(tmp_path: Path) -> None:
    seeding.images(tmp_path / "private", "cat", "dog")
    (tmp_path / "data").mkdir()
    app = seeding.make_app(tmp_path, data_roots=(str(tmp_path / "data"),))
    (tmp_path / "data" / "link").symlink_to(tmp_path / "private")
    pets = seeding.images(tmp_path / "data" / "pets", "cat", "dog")
    (pets / "secret").symlink_to(tmp_path / "private" / "cat")
    (pets / "cat" / "secret.png").symlink_to(tmp_path / "private" / "cat" / "0.png")
    (pets / "dog" / "own.png").symlink_to(seeding.images(tmp_path / "data" / "pool", "x") / "x" / "0.png")
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        for path in (tmp_path / "private", tmp_path / "data" / ".." / "private", tmp_path / "data" / "link"):
            for answer in (
                asked(client, "/api/v1/datasets/inspect", {"dataset": str(path)}),
                client.get("/api/v1/datasets/contact-sheet", params={"dataset": str(path)}),
                asked(client, "/api/v1/searches", body(path, {})),
            ):
                assert answer.status_code == 422 and "outside the data roots" in answer.text
        report = asked(client, "/api/v1/datasets/inspect", {"dataset": str(pets)}).json()
    assert report["counts"] == {"train": {"cat": 9, "dog": 10}} and report["problems"] == []
    (left_out,) = report["left_out"]
    assert left_out["reason"] == "link that leads outside the data roots" and left_out["count"] == 2
    space = SearchSpace.preset("digits", classes=2, image_size=16)
    spec = SearchSpec(str(pets), (space.complete().multiply_adds,), space, TrainingSettings.preset("digits"))
    data = load(spec, (str(tmp_path / "data"),), "cpu", submitted=report["fingerprint"])
    assert sum(data.splits.values()) == 19, "a worker sees the same"
    seeding.parts(app).searches.engine.dispose()


def test_a_sweep_looks_once_however_many_searches_it_makes(app: FastAPI, http: httpx.Client, tmp_path: Path) -> None:
    folder = seeding.images(tmp_path / "pets", *parts("a", "b"))
    looks = seeding.count_looks(app)
    sweep = {
        "search": {"dataset": str(folder), "data": {"train": "a"}},
        "budgets": ["4M"],
        "seeds": [0, 1, 2],
        "grid": {"settings.lr": [0.1, 0.05, 0.01], "space.share": [True, False]},
    }
    made = asked(http, "/api/v1/sweeps", sweep)
    assert made.status_code == 201 and made.json()["searches"] == 18, made.text
    assert looks == [str(folder)]
    varied = sweep | {"grid": {"data.train": ["a", "b"], "data.channels": [1, 3]}}
    assert asked(http, "/api/v1/sweeps", varied).status_code == 201
    assert len(looks) == 5, "once for each way of reading it but the one that is known"


def test_a_sweep_that_would_look_at_too_much_at_once_is_refused(app: FastAPI, http: httpx.Client) -> None:
    looks = seeding.count_looks(app)
    grid = {"dataset": [f"/data/{number}" for number in range(22)], "data.channels": [1, 3], "settings.lr": [0.1, 0.2]}
    for changed, status in (({}, 422), ({"data.background": ["white", "black"]}, 422)):
        sweep = {"search": {}, "budgets": ["4M"], "grid": grid | changed}
        refused = asked(http, "/api/v1/sweeps", sweep)
        assert refused.status_code == status
    (problem,) = refused.json()["errors"]
    assert problem["field"] == "grid" and problem["value"] == 88 and "at most 64" in problem["accepted"]
    assert looks == []


def test_a_dataset_with_a_name_is_shown(http: httpx.Client) -> None:
    report = asked(http, "/api/v1/datasets/inspect", {"dataset": "digits"}).json()
    sheet = http.get(report["contact_sheet"])
    with Image.open(io.BytesIO(sheet.content)) as drawn:
        assert sheet.status_code == 200 and drawn.height > 600


def test_two_image_sizes_are_refused(http: httpx.Client) -> None:
    both = {"dataset": "digits", "budgets": ["300k"], "data": {"image_size": 8}, "space": {"image_size": 16}}
    (problem,) = asked(http, "/api/v1/searches", both).json()["errors"]
    assert problem["field"] == "data.image_size" and "16" in problem["reason"]


def test_a_contact_sheet_is_written_to_a_file(tmp_path: Path) -> None:
    folder = seeding.images(tmp_path / "pets", "cat", "dog")
    told = yoso("inspect", str(folder), "--contact-sheet", str(tmp_path / "sheet.png"))
    assert told.exit_code == 0, told.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 100
    assert "cat" in told.stdout and "one folder per class" in told.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets", "sheet.png"]


def test_a_run_whose_dataset_has_changed_goes_on_to_its_worker(tmp_path: Path) -> None:
    def spec(fingerprint: str) -> SearchSpec:
        looked = summarise(look_here(str(folder), (), True, DataOptions(), None).report)
        request = SearchRequest(dataset=str(folder), budgets=["4M"])
        return replace(check(request, (), True), inspection=looked | {"fingerprint": fingerprint})

    folder = seeding.images(tmp_path / "pets", "cat", "dog")
    assert not foreground.resumes(tmp_path, spec("before"), spec("before").to_dict())
    assert foreground.resumes(tmp_path, spec("after"), spec("after").to_dict())
    assert json.loads((tmp_path / "spec.json").read_text())["inspection"]["fingerprint"] == "before"
    with pytest.raises(InvalidValue, match="seed"):
        foreground.resumes(tmp_path, replace(spec("before"), seed=3), {})


def test_a_form_that_is_sent_again_leads_to_its_search_though_the_folder_is_gone(
    app: FastAPI, http: httpx.Client, tmp_path: Path
) -> None:
    folder = seeding.images(tmp_path / "pets", "cat", "dog")
    asked(http, "/api/v1/datasets/inspect", {"dataset": str(folder)})
    form = {"dataset": str(folder), "budgets": "4M", "key": "once"}
    first = http.post("/submit", data=form)
    assert first.status_code == 303
    folder.rename(tmp_path / "elsewhere")
    looks = seeding.count_looks(app)
    again = http.post("/submit", data=form)
    assert again.status_code == 303 and again.headers["location"] == first.headers["location"] and looks == []


def test_the_form_names_its_own_fields_where_the_command_line_has_options(
    app: FastAPI, http: httpx.Client, tmp_path: Path
) -> None:
    folder = seeding.images(tmp_path / "pets", "cat")
    told = asked(http, "/api/v1/datasets/inspect", {"dataset": str(folder)}).json()
    [problem] = [one for one in told["problems"] if one["field"] == "dataset"]
    assert "--train names" in problem["accepted"]
    html = http.post("/submit", data={"dataset": str(folder), "budgets": "4M"}).text
    assert "“Training folder” names the folder" in html and "--train" not in html


def test_a_folder_is_named_as_a_shell_names_it_and_a_dataset_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = seeding.images(tmp_path / "plain", "cat", "dog")
    seeding.images(tmp_path / "digits", "cat", "dog")
    monkeypatch.setenv("HOME", str(tmp_path))
    for here, words in (
        (tmp_path, "plain"),
        (tmp_path, "./plain/"),
        (tmp_path, "~/plain"),
        (folder, "."),
        (folder, "./"),
    ):
        monkeypatch.chdir(here)
        told = yoso("inspect", words, "--json")
        assert told.exit_code == 0 and json.loads(told.stdout)["path"] == str(folder), words
    monkeypatch.chdir(tmp_path)
    assert json.loads(yoso("inspect", "./digits", "--json").stdout)["path"] == str(tmp_path / "digits")
    assert json.loads(yoso("inspect", "digits", "--json").stdout)["kind"] != "folder"
    wrong = yoso("run", "plane", "-b", "4M")
    assert wrong.exit_code == 2 and "no such" in wrong.stderr and not (tmp_path / "yoso-run").exists()


@pytest.mark.parametrize("path", ["/api/v1/searches", "/api/v1/sweeps"])
def test_a_request_that_is_sent_again_is_answered_though_the_folder_is_gone(
    path: str, app: FastAPI, http: httpx.Client, tmp_path: Path
) -> None:
    folder = seeding.images(tmp_path / "pets", "cat", "dog")
    search = {"dataset": str(folder), "budgets": ["4M"]}
    content = search if path.endswith("searches") else {"search": {"dataset": str(folder)}, "budgets": ["4M"]}
    asked(http, "/api/v1/datasets/inspect", {"dataset": str(folder)})
    headers = {"Idempotency-Key": tmp_path.name}
    first = http.post(path, json=content, headers=headers)
    assert first.status_code == 201
    folder.rename(tmp_path / "elsewhere")
    looks = seeding.count_looks(app)
    again = http.post(path, json=content, headers=headers)
    assert again.status_code == 201 and again.json() == first.json() and looks == []
    assert again.headers["idempotency-replayed"] == "true"
    assert http.post(path, json=content | {"name": "other"}, headers=headers).status_code == 422
