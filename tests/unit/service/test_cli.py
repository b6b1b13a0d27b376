"""The command line against a real service."""

import inspect
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from nas_core.data.datasets import DATASETS
from nas_core.files import FILES
from nas_core.space import Architecture
from nas_core.space.operations import OPERATION_SETS, PAPER_OPERATIONS
from nas_core.train.evaluation import Evaluation
from service import cli
from service.cli import app as commands
from service.dashboard.copies import as_command
from service.doctor import Finding, State
from service.domain.sign_on import SignOn
from service.settings import Settings
from tests import seeding
from tests.seeding import parts


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database only: what is under test here speaks HTTP and knows none."""
    return seeding.sqlite_url(tmp_path)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that leaves names whole."""
    monkeypatch.setattr(cli.out, "width", 120)


def yoso(*words: str, url: str | None = None) -> Result:
    """Run `yoso` with some arguments."""
    return CliRunner().invoke(commands, [*words, *(("--url", url) if url else ())])


COMMANDS = (
    "serve dispatch migrate submit list show watch logs edit cancel retry cluster project sweep sweeps pareto pause "
    "resume open fetch convert run doctor backup restore"
)


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_explains_itself(command: str) -> None:
    told = yoso(command, "--help")
    assert told.exit_code == 0 and "Usage" in told.output
    assert command in yoso("--help").output
    if command in ("submit", "run"):
        assert all(name in told.output for name in DATASETS)


def test_help_has_panels_with_searches_first() -> None:
    told = yoso("--help").output
    places = [told.index(f"─ {panel} ─") for panel in cli.PANELS]
    assert places == sorted(places)


def test_a_dry_run_tells_how_long_it_would_take_and_queues_nothing(url: str) -> None:
    told = yoso("submit", "digits", "-b", "300k", "--time", "30s", "--dry-run", url=url)
    assert told.exit_code == 0 and "expected to run for about" in told.output and "a rough estimate" in told.output
    epochs = json.loads(yoso("submit", "digits", "-b", "300k", "--time", "30s", "--dry-run", "--json", url=url).stdout)
    whole = json.loads(yoso("submit", "digits", "-b", "300k", "--dry-run", "--json", url=url).stdout)
    assert epochs["epochs"]["retrain"] < whole["epochs"]["retrain"] and epochs["seconds"] <= 30 < whole["seconds"]
    assert "no searches" in yoso("list", url=url).output


def test_the_version_is_told() -> None:
    told = yoso("--version")
    assert (told.exit_code, told.output) == (0, f"yoso {version('yoso')}\n")


def test_doctor_fails_where_something_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding("database", State.GOOD, "sqlite"), Finding("Ray", State.UNSURE, "none", "start [one]")]
    monkeypatch.setattr("service.doctor.examine", lambda: iter(found))
    told = yoso("doctor")
    assert told.exit_code == 0 and "start [one]" in told.output
    found.append(Finding("clock", State.BAD, "60 s behind", "run an NTP client"))
    told = yoso("doctor", "--json")
    assert told.exit_code == 1 and json.loads(told.output)[2]["remedy"] == "run an NTP client"


def test_serve_names_every_setting() -> None:
    told = inspect.getsource(Settings.from_environment) + inspect.getsource(SignOn.parse)
    named = set(re.findall(r'"(YOSO_[A-Z_]+)"', told))
    assert len(named) > 15 and named <= set(re.findall("YOSO_[A-Z_]+", yoso("serve", "--help").output))


def test_submits_what_the_options_say(url: str) -> None:
    told = yoso(
        *("submit", "digits", "--budget", "300k", "-b", "6e5", "--full", "--seed", "7", "--name", "mine", "--json"),
        *("--set", "search_epochs=3", "--set", "flip=true", "--set", "retrain_schedule=linear"),
        url=url,
    )
    search = json.loads(told.stdout)
    assert told.exit_code == 0
    assert search["budgets"] == [300_000, 600_000] and search["seed"] == 7 and search["name"] == "mine"
    assert search["space"]["share"] is False
    assert search["settings"]["search_epochs"] == 3 and search["settings"]["flip"] is True
    assert search["settings"]["retrain_schedule"] == "linear"


def test_what_networks_are_judged_by_and_how_onnx_is_written_can_be_asked_for(app: FastAPI, url: str) -> None:
    words = ["--opset", "18", "--ir", "9", "--no-normalise"]
    search = json.loads(yoso("submit", "digits", "-b", "300k", "--json", *words, url=url).stdout)
    export = {"opset": 18, "ir": 9, "normalise": False}
    assert search["request"]["export"] == export
    assert parts(app).searches.get(search["id"]).spec["export"] == export
    again = as_command("http://here", search["request"])
    assert again is not None and "--no-normalise" in again and "--opset 18" in again and "--ir 9" in again

    words += ["--choose-by", "balanced_accuracy"]
    told = yoso("sweep", "digits", "-b", "300k", "--seeds", "0,1", "--json", *words, url=url)
    sweep = json.loads(told.stdout)
    for one in parts(app).sweeps.searches(sweep["id"], 3):
        assert one.spec["settings"]["choose_by"] == "balanced_accuracy" and one.spec["export"] == export


def test_candidate_operations_can_be_asked_for(app: FastAPI, url: str) -> None:
    for words, given, named in (
        (["--operations", "mobile"], ["mobile"], OPERATION_SETS["mobile"]),
        (["--operations", "paper,identity"], ["paper", "identity"], (*PAPER_OPERATIONS, "identity")),
    ):
        search = json.loads(yoso("submit", "digits", "-b", "300k", "--json", *words, url=url).stdout)
        assert search["request"]["space"]["operations"] == given
        assert parts(app).searches.get(search["id"]).spec["space"]["operations"] == list(named)
        again = as_command("http://here", search["request"])
        assert again is not None and " ".join(words) in again
    refused = yoso("submit", "digits", "-b", "300k", "--operations", "mobil", url=url)
    assert refused.exit_code == 2 and "space.operations" in refused.stderr and "mobile" in refused.stderr


def test_how_a_search_is_computed_can_be_asked_for(app: FastAPI, url: str) -> None:
    words = ["--engine", "synchronised_bn=false"]
    search = json.loads(yoso("submit", "digits", "-b", "300k", "--json", *words, url=url).stdout)
    assert parts(app).searches.get(search["id"]).spec["engine"]["synchronised_bn"] is False
    again = as_command("http://here", search["request"])
    assert again is not None and " ".join(words) in again


def test_submits_limits_with_or_without_a_budget(url: str) -> None:
    told = yoso("submit", "digits", "--limit", "parameters=20k", "--limit", "latency_ms=2.5", "--json", url=url)
    search = json.loads(told.stdout)
    assert search["limits"] == {"parameters": 20_000, "latency_ms": 2.5} and search["budgets"] == [2_114_880]
    assert "at most 20,000 parameters, at most 2.5" in yoso("show", search["id"], url=url).stdout


@pytest.mark.parametrize(
    ("words", "field", "accepted"),
    [
        (["digits", "-b", "3k"], "budgets", "66880 to 2114880"),
        (["digits", "-b", "0"], "budgets", "a positive number"),
        (["digits", "-b", "many"], "budgets", "600M"),
        (["digitz", "-b", "300k"], "dataset", "digits, cifar10"),
        (["./nowhere", "-b", "300k"], "dataset", ""),
        (["digits", "-b", "300k", "--preset", "mnist"], "space.preset", "imagenet"),
        (["digits", "-b", "300k", "--set", "epochs"], "--set", "retrain_epochs=30"),
        (["digits", "-b", "300k", "--set", "=3"], "--set", "retrain_epochs=30"),
        (["digits", "-b", "300k", "--set", "epochs=3"], "settings.epochs", "search_epochs"),
        (["digits", "-b", "300k", "--set", "retrain_schedule=steps"], "settings.retrain_schedule", "cosine_restarts"),
        (["digits", "-b", "300k", "--set", "flip=True"], "settings.flip", "true or false"),
        (["digits", "-b", "300k", "--set", "choose_by=recall"], "settings.choose_by", "accuracy, balanced_accuracy"),
        (
            ["digits", "-b", "300k", "--baseline", "none", "--set", "choose_by=balanced_accuracy"],
            "settings.choose_by",
            "a sweep",
        ),
        (["digits", "-b", "300k", "--baseline", "vgg"], "finals.baselines", "resnet"),
        (["digits", "-b", "300k", "--candidates", "0"], "finals.candidates", "1 to 16"),
        (["digits", "-b", "300k", "--opset", "11"], "export.opset", "15 to 23"),
        (["digits", "-b", "300k", "--opset", "20", "--ir", "8"], "export.ir", "9 to 11"),
        (["digits", "-b", "300k", "--workers", "0"], "workers", "1 to"),
        (["digits", "-b", "300k", "--workers", "two"], "--workers", "such as 2 or 1-8"),
        (["digits", "-b", "300k", "--workers", "2-"], "--workers", "such as 2 or 1-8"),
        (["digits", "-b", "300k", "--workers", "3-2"], "workers.min", "1 to 2"),
        (["digits", "-b", "300k", "--seed", "-1"], "seed", "0 to"),
        (["digits"], "budgets", "or limits"),
        (["digits", "--limit", "parameters=2k"], "limits.parameters", "2842 or more"),
        (["digits", "--limit", "activations"], "--limit", "parameters=20k"),
        (["digits", "-b", "300k", "--limit", "latency_ms=2ms"], "limits.latency_ms", "milliseconds"),
    ],
)
@pytest.mark.parametrize("command", ["submit", "run"])
def test_bad_input_is_refused_with_the_field_and_what_would_do(
    command: str, words: list[str], field: str, accepted: str, url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    told = yoso(command, *words, url=url) if command == "submit" else yoso(command, *words, "--to", str(folder))
    assert told.exit_code == 2, told.output
    assert told.stderr.startswith(f"{field}: ") and "accepted: " in told.stderr and accepted in told.stderr
    assert told.stdout == "" and not folder.exists()


def test_an_unreachable_service_is_a_failure_in_one_line() -> None:
    for words in (
        ["list"],
        ["show", "x"],
        ["watch", "x"],
        ["cancel", "x"],
        ["fetch", "x"],
        ["submit", "digits", "-b1M"],
    ):
        told = yoso(*words, url="http://127.0.0.1:1")
        assert told.exit_code == 1
        refused = "no service answers at http://127.0.0.1:1: connection refused; `yoso serve` starts one"
        assert told.stderr.strip() == refused


@pytest.mark.parametrize("command", ["show", "watch", "cancel", "fetch"])
def test_an_unknown_search_is_told(command: str, url: str) -> None:
    told = yoso(command, "nosuchsearch", url=url)
    assert told.exit_code == 2 and "no search or sweep has this ID or name" in told.stderr


def test_show_says_that_a_class_is_never_recognised(app: FastAPI, url: str) -> None:
    test = Evaluation.of([0] * 600 + [1] * 8, [0] * 608, ("cat", "dog"))
    search_id = seeding.queue(app)
    seeding.Run(app, search_id).succeed(test=test)
    told = yoso("show", search_id, url=url).stdout
    assert "98.68%" in told and "50.00%" in told
    assert "295,260" in told and "…" not in told, "nothing is cut off at 80 columns"
    words = " ".join(told.split())
    assert "300,000: The class 'dog' is never recognised: none of its 8 test images is classified correctly." in words
    assert "not better than always predicting 'cat': 98.7 %." in words


def test_lists_and_shows(url: str, seeds: dict[str, str]) -> None:
    told = yoso("list", url=url).stdout
    assert all(search_id in told for search_id in seeds.values())
    assert "<b>later" in told
    assert len(json.loads(yoso("list", "--json", "--status", "running", url=url).stdout)["items"]) == 1
    failed = yoso("show", seeds["failed"], url=url)
    assert failed.exit_code == 0 and "out of memory" in failed.stdout
    shown = yoso("show", seeds["succeeded"], url=url).stdout
    assert "97.50%" in shown and "300,000" in shown
    assert json.loads(yoso("show", seeds["succeeded"], "--json", url=url).stdout)["status"] == "succeeded"


def test_an_empty_list_says_so(url: str) -> None:
    assert yoso("list", url=url).stdout == "no searches\n"


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 3)])
def test_watch_ends_as_the_search_did(state: str, code: int, url: str, seeds: dict[str, str]) -> None:
    told = yoso("watch", seeds[state], url=url)
    assert told.exit_code == code and state in told.stdout
    lines = yoso("watch", seeds[state], "--json", url=url).stdout.splitlines()
    assert json.loads(lines[-1])["status"] == state


def test_watch_shows_phases_epochs_and_costs(url: str, seeds: dict[str, str]) -> None:
    told = yoso("watch", seeds["succeeded"], url=url).stdout
    assert "pretrain: epoch 12/12" in told
    assert "search: epoch 30/30" in told and "→ 300k/600k" in told
    assert "retrain 600k: epoch 60/60" in told
    assert "retrained the network for 300,000: 97.5% of 359 test images right" in told


def test_a_beginning_or_a_name_will_do_for_an_id(app: FastAPI, url: str) -> None:
    sweep = json.loads(
        yoso(
            "sweep", "digits", "-b", "300k", "--seeds", "0,1", "--no-finals", "--name", "night", "--json", url=url
        ).stdout
    )
    made = [json.loads(yoso("submit", "digits", "-b300k", "--name", "first", "--json", url=url).stdout)["id"]]

    def shown(name: str) -> str:
        told = yoso("show", name, "--json", url=url)
        assert told.exit_code == 0, told.output
        return str(json.loads(told.stdout)["id"])

    assert shown("night") == shown(sweep["id"][:-2]) == sweep["id"], "its searches have the name of the sweep"
    assert shown("first") == shown(made[0][:-1]) == made[0]
    unknown = yoso("cancel", "frist", url=url)
    assert unknown.exit_code == 2 and "did you mean 'first'?" in unknown.stderr
    assert "no sweep has" in yoso("pause", "first", url=url).stderr
    made.append(json.loads(yoso("submit", "digits", "-b300k", "--name", "first", "--json", url=url).stdout)["id"])
    several = yoso("cancel", "first", url=url)
    assert several.exit_code == 2 and "ambiguous" in several.stderr and all(one in several.stderr for one in made)


def test_a_sweep_is_shown_watched_and_fetched_and_its_page_opened(app: FastAPI, url: str, tmp_path: Path) -> None:
    words = ("sweep", "digits", "-b300k", "-b600k", "--seeds", "0,1", "--no-finals", "--name", "night", "--json")
    sweep = json.loads(yoso(*words, url=url).stdout)
    ids = [one.id for one in parts(app).sweeps.searches(sweep["id"], 3)]
    assert "no search of the sweep has succeeded" in yoso("fetch", "night", url=url).stderr
    for search_id in ids:
        seeding.Run(app, search_id, only=True).succeed()
    assert all(one in yoso("show", "night", url=url).stdout for one in ids)
    watched = yoso("watch", "night", url=url)
    assert watched.exit_code == 0 and "2 succeeded" in watched.stdout
    fetched = json.loads(yoso("fetch", "night", "--to", str(tmp_path / "to"), "--json", url=url).stdout)
    assert fetched[ids[1]]["600000"] == str(tmp_path / "to" / ids[1] / "600000")
    assert Path(fetched[ids[1]]["600000"], "result.json").is_file()
    link = yoso("open", "night", "--print", url=url).stdout
    assert link.startswith("http") and sweep["id"] in link


def test_tags_a_search_renames_it_and_lists_by_tag(url: str) -> None:
    yoso("submit", "digits", "--budget", "300k", "--tag", "old", "--tag", "kept", "--name", "first", url=url)
    yoso("submit", "digits", "--budget", "300k", "--name", "other", url=url)
    told = yoso("edit", "first", "--name", "second", "--tag", "phone", "--untag", "old", url=url)
    assert told.exit_code == 0 and "second, tagged kept, phone" in told.output, told.output
    listed = json.loads(yoso("list", "--tag", "phone", "--sort", "oldest", "--json", url=url).output)["items"]
    assert [one["name"] for one in listed] == ["second"]
    shown = yoso("list", url=url).output
    assert "kept" in shown and "phone" in shown
    assert "tags: kept, phone" in yoso("show", "second", url=url).output
    for words, why in ((("--untag", "none"), "not a tag of it"), ((), "nothing to change")):
        refused = yoso("edit", "second", *words, url=url)
        assert refused.exit_code == 2 and why in refused.output


def test_tags_and_describes_a_sweep_and_lists_sweeps_by_tag(url: str) -> None:
    yoso("sweep", "digits", "--budget", "300k", "--seeds", "0,1", "--tag", "old", "--name", "night", url=url)
    told = yoso("edit", "night", "--tag", "phone", "--untag", "old", url=url)
    assert told.exit_code == 0 and "sweep" in told.output and "night, tagged phone" in told.output, told.output
    assert "phone" in yoso("sweeps", "--tag", "phone", url=url).output
    assert "no sweeps" in yoso("sweeps", "--tag", "old", url=url).output
    told = yoso("edit", "night", "--name", "day", "--description", "For the fair.", url=url)
    assert told.exit_code == 0 and "day, tagged phone" in told.output, told.output
    shown = yoso("show", "day", url=url).output
    assert "tags: phone\nFor the fair.\n" in shown, shown


def test_prints_and_follows_the_logs_of_a_sweep(app: FastAPI, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "POLL_SECONDS", 0.01)
    sweep_id = seeding.sweep(app, seeds=[0, 1, 2], finals=False)
    first, second, third = (one.id for one in seeding.parts(app).sweeps.searches(sweep_id, 10))
    for search_id, text in ((first, b"one\ntwo\nhalf"), (second, b"\x1b[2Jdanger\n")):
        seeding.Run(app, search_id, only=True).succeed()
        seeding.parts(app).runs.write(search_id, "logs/driver-0001.log", text)
    told = yoso("logs", sweep_id, url=url)
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines() == [f"{first} | one", f"{first} | two", f"{first} | half", f"{second} | [2Jdanger"]
    assert f"{third}: no log yet, it is queued" in told.stderr
    assert "the ID of one of its searches" in yoso("logs", sweep_id, "--attempt", "1", url=url).output
    seeding.parts(app).searches.cancel(third)
    followed = yoso("logs", sweep_id, "-f", url=url)
    assert f"{first} | two" in followed.stdout and f"{first} | half" in followed.stdout
    assert f"{third}: no log, it is cancelled" in followed.stderr


def test_cancels(url: str, seeds: dict[str, str]) -> None:
    assert "cancelled" in yoso("cancel", seeds["queued"], url=url).stdout
    assert json.loads(yoso("cancel", seeds["running"], "--json", url=url).stdout)["status"] == "cancelling"
    assert "succeeded" in yoso("cancel", seeds["succeeded"], url=url).stdout


def test_fetch_brings_every_budget_whole(url: str, seeds: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    for _ in range(2):  # the second replaces the first
        told = yoso("fetch", seeds["succeeded"], "--to", str(folder), "--json", url=url)
        assert told.exit_code == 0
        assert json.loads(told.stdout) == {str(b): str(folder / str(b)) for b in seeding.BUDGETS}
        assert sorted(path.name for path in folder.iterdir()) == ["300000", "600000"]
    for budget in seeding.BUDGETS:
        files = {path.name for path in (folder / str(budget)).iterdir()}
        assert files == {*FILES.values(), "result.json"}
        assert (folder / str(budget) / "network.onnx").read_bytes() == b"onnx"
        text = (folder / str(budget) / "architecture.json").read_text()
        assert Architecture.from_json(text) == seeding.network(budget)
    assert str(folder) in yoso("fetch", seeds["succeeded"], "--to", str(folder), url=url).stdout.replace("\n", "")


def test_brings_event_files_for_tensorboard(url: str, seeds: dict[str, str], tmp_path: Path) -> None:
    to = tmp_path / "all of them"
    told = yoso("tensorboard", seeds["succeeded"], "--to", str(to), url=url)
    assert told.exit_code == 0 and told.stdout.strip() == f"look at them with: tensorboard --logdir '{to}'"
    folder = to / f"first-steps-{seeds['succeeded']}"
    assert (folder / "search" / seeding.EVENT_FILE).read_bytes() == b"search"
    told = yoso("tensorboard", seeds["succeeded"], "--to", str(to), "--json", url=url)
    assert json.loads(told.stdout) == {seeds["succeeded"]: str(folder)}
    told = yoso("tensorboard", seeds["queued"], url=url)
    assert told.exit_code == 2 and "it has no measurements yet" in told.stderr


def test_fetch_brings_the_formats_that_are_asked_for(url: str, seeds: dict[str, str], tmp_path: Path) -> None:
    for words, names in (
        (["onnx", "python"], {"network.onnx", "network.py"}),
        (["card"], {"README.md"}),
        (["onnx", "all"], set(FILES.values())),
    ):
        options = [word for kind in words for word in ("--format", kind)]
        told = yoso("fetch", seeds["succeeded"], "--to", str(tmp_path / "some"), *options, url=url)
        assert told.exit_code == 0
        assert {path.name for path in (tmp_path / "some" / "300000").iterdir()} == names | {"result.json"}


def test_fetch_in_a_format_that_is_none_is_refused(url: str, seeds: dict[str, str], tmp_path: Path) -> None:
    told = yoso("fetch", seeds["succeeded"], "--to", str(tmp_path / "none"), "--format", "onyx", url=url)
    assert told.exit_code == 2 and told.stderr.startswith("--format: no such format (got 'onyx')")
    assert ", ".join((*FILES, "all")) in told.stderr and not (tmp_path / "none").exists()


def test_fetch_from_a_search_of_before_there_were_formats(app: FastAPI, url: str, tmp_path: Path) -> None:
    files = {kind: FILES[kind] for kind in ("architecture", "picture", "weights")}
    search_id = seeding.queue(app)
    seeding.Run(app, search_id).succeed(files)
    told = yoso("fetch", search_id, "--to", str(tmp_path / "old"), url=url)
    assert told.exit_code == 0
    assert {path.name for path in (tmp_path / "old" / "300000").iterdir()} == {*files.values(), "result.json"}
    told = yoso("fetch", search_id, "--to", str(tmp_path / "none"), "--format", "onnx", url=url)
    assert told.exit_code == 2 and "the network for 300000 has none" in told.stderr
    assert "architecture, picture, weights\n" in told.stderr and not (tmp_path / "none").exists()


def test_fetch_of_a_search_without_networks_is_refused(url: str, seeds: dict[str, str], tmp_path: Path) -> None:
    told = yoso("fetch", seeds["queued"], "--to", str(tmp_path / "none"), url=url)
    assert told.exit_code == 2 and "has no networks yet" in told.stderr and not (tmp_path / "none").exists()


def test_fetch_into_a_file_is_a_failure_without_traceback(url: str, seeds: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = yoso("fetch", seeds["succeeded"], "--to", str(tmp_path / "file"), url=url)
    assert told.exit_code == 1 and "file" in told.stderr and isinstance(told.exception, SystemExit)


def test_run_does_not_touch_another_searchs_folder(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"dataset": "another"}')
    told = yoso("run", "digits", "-b", "300k", "--to", str(tmp_path))
    assert told.exit_code == 2 and "spec.json cannot be read: it has no budgets" in told.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"spec.json", "run.lock"}
    assert (tmp_path / "spec.json").read_text() == '{"dataset": "another"}'


def test_serve_refuses_settings_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("YOSO_STORAGE", str(tmp_path))
    monkeypatch.setenv("YOSO_HOST", "0.0.0.0")
    told = yoso("serve")
    assert told.exit_code == 2 and told.stderr.startswith("YOSO_HOST: ") and "YOSO_TOKENS" in told.stderr


def test_queues_again_and_shows_the_cluster_and_its_projects(app: FastAPI, url: str) -> None:
    seeding.report(app, cpus=4)
    search_id = json.loads(yoso("submit", "digits", "-b", "300k", "--priority", "3", "--json", url=url).stdout)["id"]
    refused = yoso("retry", search_id, url=url)
    assert refused.exit_code != 0 and "only a failed or cancelled one" in refused.stderr
    yoso("cancel", search_id, url=url)
    assert f"search {search_id} is queued again" in yoso("retry", search_id, url=url).stdout
    told = yoso("project", "default", "--weight", "2", "--max-running", "5", "--max-accelerators", "none", url=url)
    assert told.exit_code == 0 and "0 of 5" in told.stdout
    told = yoso("cluster", url=url)
    assert "0 of 4 CPUs" in told.stdout and search_id in told.stdout and "resources are free" in told.stdout
    for size, told_as, bytes_ in (("1.5TB", "0 bytes of 1.5 TB", 1_500_000_000_000), ("500 kB", "500 kB", 500_000)):
        told = yoso("project", "default", "--max-stored", size, url=url)
        assert told.exit_code == 0 and told_as in told.stdout
        assert json.loads(yoso("project", "default", "--json", url=url).stdout)["max_stored"] == bytes_
    wrong = yoso("project", "default", "--max-stored", "500", url=url)
    assert wrong.exit_code == 2 and "such as 500GB" in wrong.stderr
    assert yoso("project", "default", "--max-stored", "none", url=url).exit_code == 0
    wrong = yoso("project", "default", "--max-queued", "few", url=url)
    assert wrong.exit_code == 2 and "--max-queued" in wrong.stderr and "or none" in wrong.stderr


def test_baselines_are_named_together_or_one_by_one(url: str) -> None:
    asked = ("sweep", "digits", "-b", "600k", "--json", "--baseline")
    made = json.loads(yoso(*asked, "random, resnet", "--baseline", "thin", url=url).stdout)
    assert made["request"]["baselines"] == ["random", "resnet", "thin"]
    assert json.loads(yoso(*asked, "none", url=url).stdout)["request"]["baselines"] == []
    assert "baselines" not in json.loads(yoso(*asked[:-1], url=url).stdout)["request"]
    refused = yoso(*asked, "resnet,vgg", url=url)
    assert refused.exit_code == 2 and "vgg" in refused.stderr and "mobilenetv3" in refused.stderr


def test_queues_a_sweep_and_shows_and_steers_it(app: FastAPI, url: str) -> None:
    seeding.report(app)
    told = yoso(
        "sweep", "digits", "--budgets", "300k:600k:2", "--seeds", "0,1", "--no-finals", "--name", "night", url=url
    )
    assert told.exit_code == 0 and "of 2 searches" in told.stdout, told.output
    grid = ("--grid", "space.share=true,false", "--independent", "--json")
    made = json.loads(yoso("sweep", "digits", "-b", "600k", "-b", "300k", *grid, url=url).stdout)
    assert made["searches"] == 4 and made["notes"] == ["the budgets were sorted"]
    told = yoso("sweeps", url=url)
    assert "4 queued" in told.stdout and "night" in told.stdout
    assert "paused" in yoso("pause", made["id"], url=url).stdout
    assert "4 cancelled" in yoso("cancel", made["id"][:8], url=url).stdout
    first = json.loads(yoso("sweeps", "--json", url=url).stdout)["items"][1]["id"]
    assert "no networks yet" in yoso("pareto", first, url=url).stdout
    search_id = json.loads(yoso("list", "--status", "queued", "--json", url=url).stdout)["items"][0]["id"]
    seeding.Run(app, search_id).succeed()
    told = yoso("pareto", first, url=url)
    assert "●" in told.stdout and f"{search_id}-300000" in told.stdout and "97.50%" in told.stdout
    told = yoso("pareto", first, "--by", "balanced_accuracy", url=url)
    assert "balanced" in told.stdout and f"{seeding.tested().summary()['balanced_accuracy']:.2%}" in told.stdout


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ((), "--budgets"),
        (("-b", "300k", "--budgets", "1:2:3"), "--budgets"),
        (("--budgets", "300k:600k"), "--budgets"),
        (("-b", "300k", "--grid", "space.share"), "--grid"),
        (("-b", "300k", "--grid", "name=a,b"), "grid.name"),
        (("-b", "300k", "--seeds", "one"), "seeds.0"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(url: str, words: tuple[str, ...], field: str) -> None:
    told = yoso("sweep", "digits", *words, url=url)
    assert told.exit_code == 2 and field in told.stderr, told.output


def asked_for(*words: str, url: str) -> dict[str, Any]:
    """The request that a command made of these words."""
    told = yoso(*words, "--json", url=url)
    assert told.exit_code == 0, told.stderr
    return dict(json.loads(told.stdout)["request"])


def test_a_request_in_a_file_is_submitted_and_options_override_its_fields(url: str, tmp_path: Path) -> None:
    file = tmp_path / "request.yaml"
    file.write_text("dataset: digits\nbudgets: [300k]\nspace: {channels: 8, blocks: [1, 1]}\nseed: 7\n")
    written = {"dataset": "digits", "budgets": ["300k"], "space": {"channels": 8, "blocks": [1, 1]}, "seed": 7}
    assert asked_for("submit", "-f", str(file), url=url) == written
    changed = asked_for("submit", "-f", str(file), "-b", "200k", "--space", "channels=16", "--preempt", url=url)
    space = {"channels": 16, "blocks": [1, 1]}
    assert changed == written | {"budgets": ["200k"], "space": space, "preempts": True}


def test_a_sweeps_request_in_a_file_is_submitted(url: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    search = {"dataset": "digits", "space": {"preset": "digits"}}
    file.write_text(json.dumps({"search": search, "budgets": ["300k"], "seeds": [0, 1], "finals": False}))
    made = asked_for("sweep", "--file", str(file), "--space", "share=true", "--budgets", "200k:400k:3", url=url)
    assert made["search"] == {"dataset": "digits", "space": {"preset": "digits", "share": True}}
    assert made["budgets"]["count"] == 3 and made["seeds"] == [0, 1] and made["finals"] is False


@pytest.mark.parametrize(
    ("content", "field", "told"),
    [
        ("dataset: [", "--file", "YAML or JSON"),
        ("- digits", "--file", "holds no request"),
        ("budgets: [300k]", "DATASET", "missing"),
        ("dataset: digits\nbudget: [300k]", "budget", "did you mean 'budgets'"),
        ("dataset: digits\nbudgets: [300k]\nspace: {chanels: 8}", "space.chanels", "did you mean 'channels'"),
    ],
)
def test_a_file_that_holds_no_request_is_refused_with_what_is_wrong(
    url: str, tmp_path: Path, content: str, field: str, told: str
) -> None:
    file = tmp_path / "request.yaml"
    file.write_text(content)
    refused = yoso("submit", "-f", str(file), url=url)
    assert refused.exit_code == 2 and refused.stderr.startswith(f"{field}: ") and told in refused.stderr
    lost = yoso("submit", "-f", str(tmp_path / "lost.yaml"), url=url)
    assert lost.exit_code == 1 and "lost.yaml" in lost.stderr
