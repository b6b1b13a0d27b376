"""The event files of a run, read back with TensorBoard itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from nas_core.train.evaluation import Evaluation
from worker.event_files import EventFiles
from worker.journal import Journal
from worker.run_folder import RunFolder


def epoch(number: int, loss: float, phase: str = "search", **own: Any) -> dict[str, Any]:
    """An epoch's line."""
    return {"kind": "epoch", "phase": phase, "epoch": number, "epochs": 9, "loss": loss, "progress": 0.5} | own


def read(folder: Path, run: str, tag: str) -> list[tuple[int, float]]:
    """Steps and values of one curve, as TensorBoard shows them."""
    accumulator = EventAccumulator(str(folder / "tensorboard" / run))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def parts(folder: Path, run: str) -> list[str]:
    """The names of a run's event files."""
    return sorted(file.name for file in (folder / "tensorboard" / run).iterdir())


def journal(folder: Path, attempt: int, parts_seconds: float = 0.0) -> Journal:
    """A journal that writes each line as soon as it is told to."""
    made = Journal(RunFolder(str(folder)), attempt, seconds=0.0)
    made.event_files.seconds = parts_seconds
    return made


def test_what_a_search_measures_is_told_by_phase_and_network(tmp_path: Path) -> None:
    own = journal(tmp_path, 1, parts_seconds=1e9)
    cost = {"multiply_adds": 299_000, "parameters": 5000, "activations": 900}
    own.write({"kind": "started", "workers": 2})
    own.write(epoch(1, 2.5, "pretrain", live_edges=40, l1_weight=0.0, seconds=1.5, accuracy=0.25, multiply_adds=2**20))
    own.write(epoch(1, 2.0) | {"time": 1234.5})
    own.write({"kind": "architecture", "budget": 300_000, "path": "architectures/300000"} | cost)
    own.write(epoch(1, 1.0, "retrain", budget=300_000, accuracy=0.5))
    own.write(epoch(2, 0.5, "retrain", budget=300_000, accuracy=0.75))
    tested = Evaluation.of([0, 0, 1, 1], [0, 0, 0, 0], ("cat", "dog")).summary()
    own.write({"kind": "retrained", "epoch": 2, "budget": 300_000} | cost | tested)
    trial = {"trial": 4, "origin": "random", "seed": 1, "budget": 600_000}
    own.write(epoch(1, 1.5, "retrain", **trial))
    own.close()

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "tensorboard"))
    multiplexer.Reload()
    found = {run: set(tags["scalars"]) for run, tags in multiplexer.Runs().items()}
    costs = {"network/multiply_adds", "network/parameters", "network/activations"}
    tests = {"network/test_accuracy", "network/test_accuracy_low", "network/test_accuracy_high"}
    tests |= {"network/test_balanced_accuracy", "network/test_lowest_recall"}
    tests |= {"network/test_recall/0-cat", "network/test_recall/1-dog"}
    assert found == {
        "pretrain": {"pretrain/loss", "pretrain/accuracy", "pretrain/multiply_adds", "pretrain/live_edges"}
        | {"pretrain/l1_weight", "pretrain/seconds"},
        "search": {"search/loss"},
        "networks/300000": {"retrain/loss", "retrain/accuracy"} | costs | tests,
        "networks/600000-4-random": {"retrain/loss"},
    }
    assert read(tmp_path, "pretrain", "pretrain/multiply_adds") == [(1, 2**20)]
    assert read(tmp_path, "networks/300000", "retrain/accuracy") == [(1, 0.5), (2, 0.75)]
    assert read(tmp_path, "networks/300000", "network/parameters") == [(0, 5000), (2, 5000)]
    assert read(tmp_path, "networks/300000", "network/test_accuracy") == [(2, 0.5)]
    assert read(tmp_path, "networks/300000", "network/test_recall/1-dog") == [(2, 0.0)]
    assert multiplexer.Scalars("search", "search/loss")[0].wall_time == 1234.5


def test_an_attempt_that_resumes_has_its_overlap_discarded(tmp_path: Path) -> None:
    first = journal(tmp_path, 1)
    for number in range(1, 6):
        first.write(epoch(number, 10.0 + number))
        first.flush()
    second = journal(tmp_path, 2)
    for number in range(4, 8):
        second.write(epoch(number, 20.0 + number))
        second.flush()
    told = [(1, 11.0), (2, 12.0), (3, 13.0), (4, 24.0), (5, 25.0), (6, 26.0), (7, 27.0)]
    assert read(tmp_path, "search", "search/loss") == told
    names = parts(tmp_path, "search")
    assert names == [f"events.out.tfevents.{attempt:04d}-{n:06d}" for attempt, n in
                     [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 1), (2, 2), (2, 3), (2, 4)]]  # fmt: skip


def test_workers_that_start_anew_in_the_same_attempt_have_their_overlap_discarded_too(tmp_path: Path) -> None:
    for base in (10.0, 20.0):
        own = journal(tmp_path, 1)
        for number in range(1, 4) if base == 10.0 else range(3, 5):
            own.write(epoch(number, base + number))
            own.flush()
    assert read(tmp_path, "search", "search/loss") == [(1, 11.0), (2, 12.0), (3, 23.0), (4, 24.0)]


def test_what_an_attempt_died_with_is_told_by_the_next(tmp_path: Path) -> None:
    """The journal has a chunk each second, and event files a part each half minute: what is between is not lost."""
    first = journal(tmp_path, 1, parts_seconds=1e9)
    first.write(epoch(1, 11.0, "pretrain"))
    first.flush()  # the first part is written at once
    for number in range(1, 5):
        first.write(epoch(number, 10.0 + number))
        first.flush()
    assert not (tmp_path / "tensorboard" / "search").exists()
    second = journal(tmp_path, 2, parts_seconds=1e9)
    second.write(epoch(4, 24.0))
    second.flush()
    assert read(tmp_path, "search", "search/loss") == [(1, 11.0), (2, 12.0), (3, 13.0), (4, 24.0)]
    assert read(tmp_path, "pretrain", "pretrain/loss") == [(1, 11.0)]


def test_a_part_that_was_not_written_for_all_runs_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(str(tmp_path))
    own = Journal(folder, 1, seconds=0.0)
    own.event_files.seconds = 0.0
    own.write(epoch(1, 1.0, "pretrain"))
    own.flush()
    written: list[str] = []
    whole = RunFolder.write

    def die(self: RunFolder, name: str, content: bytes) -> None:
        if name.startswith("tensorboard/") and written:
            raise OSError("no space left on device")
        written.extend([name] if name.startswith("tensorboard/") else [])
        whole(self, name, content)

    monkeypatch.setattr(RunFolder, "write", die)
    own.write(epoch(2, 2.0, "pretrain"))
    own.write(epoch(1, 3.0))
    with pytest.raises(OSError, match="no space"):
        own.flush()
    monkeypatch.undo()
    assert len(written) == 1
    again = journal(tmp_path, 2)
    again.write({"kind": "started"})
    again.close()
    assert read(tmp_path, "pretrain", "pretrain/loss") == [(1, 1.0), (2, 2.0)]
    assert read(tmp_path, "search", "search/loss") == [(1, 3.0)]


def test_a_new_start_does_not_read_the_whole_journal_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = journal(tmp_path, 1)
    for number in range(1, 9):
        own.write(epoch(number, 1.0))
        own.flush()
    read_again: list[str] = []
    whole = RunFolder.read

    def noted(self: RunFolder, name: str) -> bytes:
        read_again.append(name)
        return whole(self, name)

    monkeypatch.setattr(RunFolder, "read", noted)
    EventFiles(RunFolder(str(tmp_path)))
    assert read_again == ["journal/0001-000008.jsonl"]


def test_torn_lines_of_a_journal_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    lines = [json.dumps({"time": 1.0, "attempt": 1} | epoch(1, 4.0)), '{"kind": "epo']
    (tmp_path / "journal" / "0001-000001.jsonl").write_text("\n".join(lines))
    own = journal(tmp_path, 2)
    own.write({"kind": "started"})
    own.close()
    assert read(tmp_path, "search", "search/loss") == [(1, 4.0)]


def test_parts_come_at_most_as_often_as_told_and_at_the_end(tmp_path: Path) -> None:
    own = journal(tmp_path, 1, parts_seconds=1e9)
    for number in range(1, 6):
        own.write(epoch(number, 1.0))
        own.flush()
    assert parts(tmp_path, "search") == ["events.out.tfevents.0001-000001"]
    before = (tmp_path / "tensorboard" / "search" / "events.out.tfevents.0001-000001").read_bytes()
    own.close()
    assert parts(tmp_path, "search") == ["events.out.tfevents.0001-000001", "events.out.tfevents.0001-000005"]
    assert (tmp_path / "tensorboard" / "search" / "events.out.tfevents.0001-000001").read_bytes() == before
    own.close()
    assert len(parts(tmp_path, "search")) == 2, "nothing is left to tell"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """An object store, where nothing can be appended; its URL."""
    url = f"memory://{tmp_path}"
    yield url
    fsspec.filesystem("memory").rm(str(tmp_path), recursive=True)


def test_an_object_store_holds_the_same(tmp_path: Path, store: str) -> None:
    for attempt, numbers in ((1, (1, 2, 3)), (2, (3, 4))):
        own = Journal(RunFolder(store), attempt, seconds=0.0)
        own.event_files.seconds = 0.0
        for number in numbers:
            own.write(epoch(number, 10.0 * attempt + number))
            own.flush()
    for name in RunFolder(store).files("tensorboard"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(RunFolder(store).read(name))
    assert len(parts(tmp_path, "search")) == 5
    assert read(tmp_path, "search", "search/loss") == [(1, 11.0), (2, 12.0), (3, 23.0), (4, 24.0)]
