"""What a job's entry point decides without Ray."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.train import ScalingConfig

from tests.unit.nas_core.networks import tiny_spec
from worker.job import give_way
from worker.launch import scaling
from worker.run_folder import GaveWay, RunFolder


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """The SIGINTs that come, noted instead of obeyed."""
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGINT, before)


def attempt(folder: Path, number: int) -> RunFolder:
    """The run's folder as an attempt sees it, for which the service has made a folder."""
    own = folder / f"attempts/{number:04d}"
    own.mkdir(parents=True, exist_ok=True)
    (own / "spec.json").touch()
    return RunFolder(str(folder), number)


def test_a_driver_and_its_controller_load_no_torch() -> None:
    """They would take seconds to, before the first worker starts."""
    code = "import sys, worker.job, worker.launch; print([one for one in ('torch', 'sklearn') if one in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("how", ["a later attempt", "closed"])
def test_an_attempt_that_is_over_is_interrupted(tmp_path: Path, interrupts: list[int], how: str) -> None:
    folder = attempt(tmp_path, 2)
    thread = give_way(folder, seconds=0.01)
    thread.join(0.2)
    assert thread.is_alive() and interrupts == []
    if how == "closed":
        (tmp_path / "attempts/0002/closed").touch()
    else:
        attempt(tmp_path, 3)
    thread.join(10)
    assert not thread.is_alive() and interrupts == [signal.SIGINT]


def test_an_attempt_has_one_driver_and_none_once_it_is_over(tmp_path: Path) -> None:
    attempt(tmp_path, 1).begin()
    with pytest.raises(GaveWay, match="started before"):
        attempt(tmp_path, 1).begin()
    attempt(tmp_path, 2)
    (tmp_path / "attempts/0002/closed").touch()
    with pytest.raises(GaveWay, match="closed"):
        attempt(tmp_path, 2).begin()
    attempt(tmp_path, 3), attempt(tmp_path, 4)
    with pytest.raises(GaveWay, match="gives way to attempt 4"):
        attempt(tmp_path, 3).begin()


def test_an_attempt_reads_what_earlier_ones_left_and_writes_only_its_own(tmp_path: Path) -> None:
    """However long one slept: what it writes late reaches no other."""
    (tmp_path / "epochs").mkdir()
    (tmp_path / "epochs/0.json").write_text("0")  # a Yoso of before had no attempts' folders
    first = attempt(tmp_path, 1)
    assert first.read("epochs/0.json") == b"0"
    first.write("epochs/0.json", b"1")
    assert first.read("epochs/0.json") == b"1" and (tmp_path / "epochs/0.json").read_text() == "0"
    second = attempt(tmp_path, 2)
    assert second.read("epochs/0.json") == b"1"
    second.write("epochs/0.json", b"2")
    for write in (first.write, first.create):
        with pytest.raises(GaveWay):
            write("epochs/1.json", b"late")
    (tmp_path / "attempts/0001/epochs/0.json").write_text("late: it slept between looking and writing")
    assert second.read("epochs/0.json") == b"2"
    assert not second.exists("error.json")
    first_error = tmp_path / "attempts/0001/error.json"
    first_error.write_text("{}")
    assert not second.exists("error.json"), "why an earlier attempt failed says nothing of this one"


def test_workers_that_were_started_anew_are_the_only_writers(tmp_path: Path) -> None:
    before, after = attempt(tmp_path, 1), attempt(tmp_path, 1)
    before.take("search")
    before.write("result.json", b"1")
    after.take("search")
    with pytest.raises(GaveWay, match="other workers write search"):
        before.write("result.json", b"late")
    after.write("result.json", b"2")
    other = attempt(tmp_path, 1)
    other.take("00001")
    other.write("epochs/1.json", b"another trial")


@pytest.mark.parametrize(
    ("content", "whole"),
    [(None, False), ("", False), ('{"architectures": [{}', False), ("{}", False), ('{"architectures": [{}]}', True)],
)
def test_only_a_whole_result_is_one(tmp_path: Path, content: str | None, whole: bool) -> None:
    folder = attempt(tmp_path, 1)
    if content is not None:
        (tmp_path / "attempts/0001/result.json").write_text(content)
    assert (folder.result() is not None) == whole
    later = attempt(tmp_path, 2)
    assert (later.result() is not None) == whole, "it is found before the next attempt begins"
    later.begin()
    assert later.result() is None, "and counts no more once it has"


def test_ray_train_is_told_of_a_range_of_workers_and_of_the_type_of_their_nodes() -> None:
    fixed = scaling(tiny_spec(workers=3))
    assert fixed["num_workers"] == 3 and fixed["accelerator_type"] is None
    assert scaling(tiny_spec(workers=3, min_workers=3))["num_workers"] == 3, "Ray would ask first what there is"
    assert scaling(tiny_spec(workers=3, min_workers=1))["num_workers"] == (1, 3)
    typed = ScalingConfig(**scaling(tiny_spec(workers=2, gpus_per_worker=1, accelerator_type="A100")))
    assert typed._resources_per_worker_not_none == {"CPU": 1, "GPU": 1, "accelerator_type:A100": 0.001}
