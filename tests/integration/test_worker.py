"""Searches as the Ray job runs them: real processes, on a Ray of their own, that are really killed."""

import json
import os
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from ray.cluster_utils import Cluster
from safetensors import safe_open
from safetensors.torch import load_file, save
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas_core import Architecture, Network, SearchSpace
from nas_core.data.loading import load
from nas_core.data.snapshot import Snapshot
from nas_core.files import FILES
from nas_core.job import SearchJob
from nas_core.search.baselines import random_architecture
from nas_core.space import read_genotype
from nas_core.spec import SearchSpec, Settings
from nas_core.supernet.references import build
from service import keeper
from tests.ray_starts import agent_ports, alone
from worker.training import MANIFEST

pytestmark = [pytest.mark.slow, pytest.mark.proof]
PATIENCE = 300
Start = Callable[..., "subprocess.Popen[bytes]"]


def write_spec(folder: Path, workers: int = 1, **settings: Any) -> SearchSpec:
    """A search of the digits that lasts a few seconds."""
    space = SearchSpace.preset("digits", channels=4, blocks=(1, 1), levels=2)
    schedule: dict[str, Any] = {"pretrain_epochs": 1, "search_epochs": 4, "retrain_epochs": 2, "batch_size": 64}
    smallest, largest = space.feasible_budgets()
    schedule |= settings
    budget = (3 * smallest + largest) // 4
    spec = SearchSpec("digits", (budget,), space, Settings.preset("digits", **schedule), workers=workers)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec.to_dict() | {"search_id": "test", "data_roots": []}))
    return spec


def journal(folder: Path) -> list[dict[str, Any]]:
    """Every journal line so far."""
    chunks = sorted((folder / "journal").glob("*.jsonl"))
    return [json.loads(line) for chunk in chunks for line in chunk.read_text().splitlines()]


def some(folder: Path, kind: str, **fields: Any) -> list[dict[str, Any]]:
    """The journal's lines of one kind, with these fields."""
    return [line for line in journal(folder) if line["kind"] == kind and fields.items() <= line.items()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the job of a folder as a process, on a Ray of its own unless told another's address.

    What is left of it is killed in the end.
    """
    started: list[subprocess.Popen[bytes]] = []

    def launch(folder: Path, address: str | None = None) -> "subprocess.Popen[bytes]":
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "YOSO_"))}
        environment |= {"YOSO_CHECKPOINT_SECONDS": "0.5", "RAY_worker_niceness": "0"}
        if address is not None:
            environment["RAY_ADDRESS"] = address
        with (tmp_path / "job.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "worker.job", str(folder)],
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            )
        return started[-1]

    yield launch
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray that jobs share; after a driver was killed it keeps the places of its workers for a while."""
    with alone():
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False} | agent_ports()
        )
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]


def every_file(network: dict[str, Any]) -> dict[str, str]:
    """What a result tells of a network's files, by kind."""
    return {**network["files"], **network["of_new_kinds"]["files"]}


def until(holds: Callable[[], Any], process: "subprocess.Popen[Any] | None" = None) -> Any:
    """Wait until something holds while a process runs."""
    give_up = time.monotonic() + PATIENCE
    while not (value := holds()):
        assert process is None or process.poll() is None, "the job ended too early"
        assert time.monotonic() < give_up, "nothing happened"
        time.sleep(0.05)
    return value


def check_finished(folder: Path, spec: SearchSpec) -> dict[str, Any]:
    """A finished run holds networks that keep their budgets and load; returns its result."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert [one["budget"] for one in result["architectures"]] == list(spec.budgets)
    for one in result["architectures"]:
        files = folder / one["path"]
        architecture = Architecture.from_json((files / "architecture.json").read_text())
        assert architecture.multiply_adds == one["multiply_adds"] <= one["budget"]
        network = Network(architecture)
        network.load_state_dict(load_file(files / "weights.safetensors"))
        assert network.eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
        assert (files / "picture.svg").read_text().startswith("<svg")
        assert one["not_exported"] == {} and one["latency_ms"] > 0
        assert {path.name for path in files.iterdir()} == set(every_file(one).values()) == set(FILES.values())
        check_exports(files, network)
        with safe_open(folder / "candidates" / f"{one['budget']}.safetensors", "pt") as candidate:
            live = Architecture.from_json(candidate.metadata()["architecture"])
            assert live.multiply_adds <= one["budget"] and live.blocks == architecture.blocks
            assert any("block_scaling" in name for name in candidate.keys())  # noqa: SIM118
    told = result["dataset"]
    assert told["class_names"] == [str(digit) for digit in range(told["classes"])]
    assert sum(told["splits"].values()) == 1797 and told["skipped"] == {"count": 0, "files": []}
    from sklearn.datasets import load_digits  # not by every process that collects tests

    pixels = load_digits().images * (255 / 16)
    assert told["mean"] == pytest.approx([pixels.mean()], rel=0.03)
    assert told["deviation"] == pytest.approx([pixels.std()], rel=0.03)
    # Who is killed while it writes a checkpoint leaves a part of it, which nobody reads.
    torn = [path for path in folder.rglob("*.tmp") if not path.parent.name.startswith("checkpoint_")]
    assert not torn and not (folder / "error.json").exists()
    check_event_files(folder)
    return result


def check_event_files(folder: Path) -> None:
    """TensorBoard shows every epoch of every network once, as its last journal line tells it."""
    curves: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    for (phase, budget, number), told in sorted(epochs(journal(folder)).items(), key=lambda one: one[0][2]):
        run = phase if budget is None else f"networks/{budget}"
        curves.setdefault((run, f"{phase}/loss"), []).append((number, pytest.approx(told["loss"])))
    runs = {run: EventAccumulator(str(folder / "tensorboard" / run)).Reload() for run, _ in curves}
    for (run, tag), curve in curves.items():
        assert [(event.step, event.value) for event in runs[run].Scalars(tag)] == curve, run


def check_exports(files: Path, network: Network) -> None:
    """What a network was given out as finds the same logits as the network itself."""
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        wanted = network(images)
    session = onnxruntime.InferenceSession(files / "network.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(files / "network.pt2").module()
    alone = runpy.run_path(str(files / "network.py"))
    assert alone["normalise"](torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).shape == (1, 1, 8, 8)
    told = session.get_modelmeta().custom_metadata_map
    [mean], [deviation] = json.loads(told["mean"]), json.loads(told["deviation"])
    for logits in (
        torch.from_numpy(session.run(None, {"images": (images * deviation + mean).numpy()})[0]),
        program(images),
        alone["load"](files / "weights.safetensors")(images),
    ):
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    assert "95 % interval" in (files / "README.md").read_text()


def epochs(lines: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The epoch lines of a journal that count: of each epoch the last, without what depends on the clock."""
    return {
        (line["phase"], line.get("budget"), line["epoch"]): {
            name: line[name] for name in ("loss", "accuracy", "multiply_adds", "live_edges") if name in line
        }
        for line in lines
        if line["kind"] == "epoch"
    }


def left_alone(spec: SearchSpec) -> tuple[SearchJob, list[dict[str, Any]]]:
    """A search in this process, without Ray; its journal's lines too."""
    torch.set_num_threads(spec.cpus_per_worker)
    job = SearchJob(spec, load(spec, [], torch.device("cpu")), "cpu")
    lines = []
    while not job.done:
        lines += job.advance()
    return job, lines


@pytest.mark.timeout(900)
def test_a_search_that_is_killed_twice_and_one_left_alone_find_the_same(
    tmp_path: Path, start: Start, address: str
) -> None:
    """SIGKILL to a Ray Train worker in mid-search, and then to the driver, between two ends of epochs.

    Each time it goes on from its checkpoint, and nothing is lost or changed.
    """
    folder = tmp_path / "struck"
    spec = write_spec(folder, search_epochs=16, retrain_epochs=1)
    alone, lines = left_alone(spec)

    def within_an_epoch(checkpoint: dict[str, Any]) -> bool:
        return bool(checkpoint["step"] % alone.search.steps_per_epoch)

    job = start(folder, address)
    until(lambda: any(map(within_an_epoch, some(folder, "checkpoint"))) and some(folder, "epoch", phase="search"), job)
    first = some(folder, "started")[0]
    os.kill(first["pid"], signal.SIGKILL)
    again = until(lambda: some(folder, "started")[1:], job)[0]
    assert again["resumed"] and again["pid"] != first["pid"] and again["attempt"] == first["attempt"] == 1
    before = len(some(folder, "checkpoint"))
    until(lambda: len(some(folder, "checkpoint")) > before, job)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (folder / "result.json").exists()

    assert start(folder, address).wait(PATIENCE) == 0
    assert check_finished(folder, spec)["attempt"] == 2
    assert [line["resumed"] for line in some(folder, "started")] == [False, True, True]
    begun = some(folder, "epoch", attempt=2)[0]
    assert (begun["phase"], begun["epoch"]) != ("pretrain", 1)

    assert epochs(lines) == epochs(journal(folder))
    for budget in spec.budgets:
        files = folder / "architectures" / str(budget)
        assert (files / "architecture.json").read_text() == alone.architectures[budget].to_json()
        assert (files / "weights.safetensors").read_bytes() == save(alone.weights[budget])

    written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert start(folder, address).wait(PATIENCE) == 0, "a finished run has nothing to do"
    assert written == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(900)
def test_interrupted_it_stops_in_order_and_leaves_neither_a_result_nor_an_error(
    tmp_path: Path, start: Start, address: str
) -> None:
    folder = tmp_path / "run"
    write_spec(folder, search_epochs=1000)
    job = start(folder, address)
    until(lambda: some(folder, "epoch", phase="search"), job)
    worker = some(folder, "started")[0]["pid"]
    job.send_signal(signal.SIGINT)
    assert job.wait(PATIENCE) == 130
    assert not Path(f"/proc/{worker}").exists()
    assert not (folder / "result.json").exists() and not (folder / "error.json").exists()


@pytest.mark.timeout(900)
def test_a_training_that_diverges_is_told_by_all_workers_and_not_tried_again(
    tmp_path: Path, start: Start, address: str
) -> None:
    """So are data that are gone and a latency that no network has (`unit/worker/test_training.py`)."""
    folder = tmp_path / "run"
    write_spec(folder, workers=2, lr=1e9)
    assert start(folder, address).wait(PATIENCE) == 1
    error = json.loads((folder / "error.json").read_text())
    assert error["kind"] == "diverged" and not error["retryable"] and error["message"].startswith("pretrain: ")
    assert len(some(folder, "started")) == 1


@pytest.mark.timeout(900)
def test_a_node_without_the_data_ends_the_search_for_all_workers(tmp_path: Path, start: Start) -> None:
    """Each node has a home of its own, and the dataset lies in one of them; the other worker waits in a collective.

    So it is without Ray (`unit/worker/test_training.py`).
    """
    for name in ("cats", "dogs"):
        (tmp_path / "with" / "pets" / name).mkdir(parents=True)
        for number in range(20):
            shade = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(shade).save(tmp_path / "with" / "pets" / name / f"{name}{number}.png")
    with alone():
        cluster = Cluster(initialize_head=True, head_node_args={
            "num_cpus": 1, "include_dashboard": False, "env_vars": {"HOME": str(tmp_path / "without")}, **agent_ports()
        })  # fmt: skip
        cluster.add_node(num_cpus=1, **agent_ports(), env_vars={"HOME": str(tmp_path / "with")})
    try:
        cluster.wait_for_nodes()
        folder = tmp_path / "run"
        write_spec(folder, workers=2)
        values = json.loads((folder / "spec.json").read_text())
        values["space"]["classes"] = 2
        (folder / "spec.json").write_text(json.dumps(values | {"dataset": "~/pets"}))
        assert start(folder, cluster.address).wait(PATIENCE) == 1
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    error = json.loads((folder / "error.json").read_text())
    assert error["kind"] == "data" and not error["retryable"] and "no such folder" in error["message"]
    assert error["host"] == socket.gethostname() and f"worker {error['rank']} of 2 on" in error["message"]
    # The other worker may tell of its lost peer, too; what is told of the search is the cause.
    written = [path.name for path in (folder / "errors").iterdir()]
    assert f"0001-{error['rank']:04d}.json" in written and some(folder, "started") == []


def by_hand(tmp_path: Path, folder: Path) -> "subprocess.Popen[str]":
    """`yoso run` on the pets, whose every epoch ends with a checkpoint."""
    words = ["run", "pets", "--budget", "300k", "--set", "pretrain_epochs=2", "--set", "search_epochs=500"]
    environment = os.environ | {"YOSO_CHECKPOINT_SECONDS": "0", "RAY_worker_niceness": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", *words, "--to", str(folder)],
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


@pytest.mark.timeout(900)
def test_a_folder_that_is_edited_between_attempts_ends_the_search_at_once_with_what_changed(
    tmp_path: Path, start: Start, address: str
) -> None:
    """`yoso run` is killed after its first checkpoint, and goes on only with the images that it began with."""
    pets, folder, kept = tmp_path / "pets", tmp_path / "run", tmp_path / "kept"
    for label, name in enumerate(("cats", "dogs")):
        (pets / name).mkdir(parents=True)
        for number in range(30):
            shade = np.random.default_rng(100 * label + number).integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(shade).save(pets / name / f"{number:02}.bmp")
    shutil.copytree(pets, kept)
    first = by_hand(tmp_path, folder)
    try:
        until(lambda: some(folder, "checkpoint"), first)
    finally:
        first.kill()
        first.communicate()
    until(lambda: keeper.busy(folder) is None)

    def put_back() -> None:
        shutil.rmtree(pets)
        shutil.copytree(kept, pets)

    (pets / "cats" / "07.bmp").unlink()
    resumed = by_hand(tmp_path, folder)
    assert "1 file removed (cats/07.bmp)" in " ".join(resumed.communicate(timeout=PATIENCE)[1].split())
    assert resumed.returncode == 1
    changes: dict[str, Any] = {"files removed": {"count": 1, "examples": ["cats/07.bmp"]}}
    checkpoints = len(some(folder, "checkpoint"))

    def ended(told: str) -> None:
        error = json.loads((folder / "error.json").read_text())
        assert (error["kind"], error["retryable"]) == ("data_changed", False) and told in error["message"]
        assert error["host"] == socket.gethostname() and error["changes"] == changes
        assert len(some(folder, "checkpoint")) == checkpoints and len(some(folder, "started")) == 1, (
            "nothing is trained"
        )

    ended("is not the dataset that the search began with: 1 file removed (cats/07.bmp)")
    put_back()
    (pets / "birds").mkdir()
    for number in range(9):
        Image.effect_noise((8, 8), 90).save(pets / "birds" / f"{number}.bmp")
    assert start(folder, address).wait(PATIENCE) == 1
    added = [f"birds/{number}.bmp" for number in range(9)]
    changes = {"classes added": {"count": 1, "examples": ["birds"]}, "files added": {"count": 9, "examples": added[:5]}}
    ended("1 class added (birds); 9 files added (birds/0.bmp, ")
    put_back()
    snapshot = Snapshot.from_bytes((folder / MANIFEST).read_bytes())
    trained = next(file for file in snapshot.files if file.part in ("weights", "scaling"))
    content = bytearray((pets / trained.path).read_bytes())
    content[-1] ^= 255
    (pets / trained.path).write_bytes(content)
    os.utime(pets / trained.path, ns=(trained.mtime_ns, trained.mtime_ns))
    assert start(folder, address).wait(PATIENCE) == 1
    changes = {"files changed": {"count": 1, "examples": [str(pets / trained.path)]}}
    ended(f"{trained.path} has changed since the search began")
    put_back()
    job = start(folder, address)
    assert until(lambda: some(folder, "started", resumed=True), job), "with its images back it goes on"


def second_worker(first: int) -> int:
    """The process of the other of two Ray Train workers, which Ray's node started like the first."""

    def parent(process: int) -> str:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]

    children = Path(f"/proc/{parent(first)}/task/{parent(first)}/children").read_text().split()
    [other] = [
        int(child)
        for child in children
        if int(child) != first and "RayTrainWorker" in Path(f"/proc/{child}/cmdline").read_text()
    ]
    return other


@pytest.mark.timeout(900)
def test_a_second_worker_that_is_killed_is_started_anew_and_one_that_fails_ends_the_search(
    tmp_path: Path, start: Start
) -> None:
    """Its memory is taken from it in mid-training, when the first waits for its gradients."""
    folder = tmp_path / "run"
    write_spec(folder, workers=2, search_epochs=1000)
    job = start(folder)
    until(lambda: some(folder, "epoch", phase="search"), job)
    os.kill(second_worker(some(folder, "started")[0]["pid"]), signal.SIGKILL)
    again = until(lambda: some(folder, "started")[1:], job)[0]
    assert again["resumed"] and again["attempt"] == 1
    before = len(some(folder, "epoch"))
    until(lambda: len(some(folder, "epoch")) > before, job)
    resource.prlimit(second_worker(again["pid"]), resource.RLIMIT_AS, (2**20, 2**20))
    assert job.wait(PATIENCE) == 1
    error = json.loads((folder / "error.json").read_text())
    assert error["rank"] == 1 and error["host"] == socket.gethostname()
    assert error["kind"] in ("out_of_memory", "failed") and error["message"].startswith("worker 1 of 2 on ")
    assert len(some(folder, "started")) == 2, "it is not started anew"


def write_finals(folder: Path) -> SearchSpec:
    """Finals of three networks for one budget, and two that nobody searched for, of which one is a reference."""
    spec = write_spec(folder, retrain_epochs=9)
    budget = spec.budgets[-1]
    finalists: list[dict[str, Any]] = [
        {"budget": budget, "origin": "search", "seed": seed, "source": f"search{seed}"}
        | {"architecture": random_architecture(spec.space, budget, seed).to_dict()}
        for seed in range(3)
    ]
    finalists += [{"budget": budget, "origin": origin, "seed": 7} for origin in ("random", "resnet")]
    values = json.loads((folder / "spec.json").read_text()) | {"finalists": finalists, "at_once": 2}
    (folder / "spec.json").write_text(json.dumps(values))
    return spec


@pytest.mark.timeout(900)
def test_finals_that_are_killed_go_on_and_the_best_on_validation_data_wins(tmp_path: Path, start: Any) -> None:
    folder = tmp_path / "finals"
    spec = write_finals(folder)
    first = start(folder)
    until(lambda: some(folder, "retrained") or some(folder, "stopped"), first)
    ended = {line["trial"] for kind in ("retrained", "stopped") for line in some(folder, kind)}
    first.kill()
    first.wait()
    verdicts = {file.name: file.read_text() for file in (folder / "verdicts").iterdir()}
    second = start(folder)
    assert second.wait(PATIENCE) == 0, (tmp_path / "job.log").read_text()[-3000:]

    result = json.loads((folder / "result.json").read_text())
    assert [line["resumed"] for line in some(folder, "started")] == [False, True]
    assert all((folder / "verdicts" / name).read_text() == text for name, text in verdicts.items())
    first_told, again = (
        {(line["trial"], line["epoch"], line["seconds"]) for line in some(folder, "epoch", attempt=attempt)}
        for attempt in (1, 2)
    )
    assert {line for line in again if line[0] in ended} <= first_told, "what has ended is not trained again"
    for attempt in (1, 2):
        begun: list[int] = []
        for line in journal(folder):
            if line["attempt"] == attempt and line["kind"] == "began":
                begun.append(line["trial"])
            assert line["attempt"] != attempt or line["kind"] != "epoch" or line["trial"] in begun
        assert len(set(begun)) == len(begun)
    assert {line["trial"] for line in some(folder, "began")} == {0, 1, 2, 3, 4}
    trials = {one["trial"]: one for one in result["trials"]}
    assert sorted(trials) == [0, 1, 2, 3, 4]
    assert trials[3]["outcome"] == trials[4]["outcome"] == "trained", "controls and the best reference go to the end"
    for number, one in trials.items():
        told = {line["epoch"]: line["accuracy"] for line in some(folder, "epoch", trial=number)}
        assert sorted(told) == list(range(1, one["epochs"] + 1)) and told[one["epochs"]] == one["validation_accuracy"]
        run = folder / "tensorboard" / "networks" / f"{spec.budgets[-1]}-{number}-{one['origin']}"
        curve = EventAccumulator(str(run)).Reload().Scalars("retrain/accuracy")
        assert {event.step: event.value for event in curve} == pytest.approx(told) and len(curve) == len(told)
        assert one["outcome"] == ("trained" if one["epochs"] == 9 else "stopped")
    trained = [one for one in trials.values() if one["outcome"] == "trained"]
    [winner] = [one for one in result["architectures"] if one["winner"]]
    assert winner["name"] == str(spec.budgets[-1]) and set(every_file(winner)) == set(FILES)
    assert winner["validation_accuracy"] == max(one["validation_accuracy"] for one in trained)
    for one in result["architectures"]:
        assert f"The best network for {spec.budgets[-1]:,} is " in (folder / one["path"] / FILES["card"]).read_text()
    for one in result["architectures"]:
        files = folder / one["path"]
        network = build(read_genotype(json.loads((files / "architecture.json").read_text())))
        network.load_state_dict(load_file(files / "weights.safetensors"))
        assert network.architecture.multiply_adds == one["multiply_adds"] <= spec.budgets[-1]
        assert {path.name for path in files.iterdir()} == {*every_file(one).values(), "result.json"}
    assert some(folder, "epoch")[-1]["progress"] == pytest.approx(1) or some(folder, "stopped")
