"""What a job's entry point decides without Ray."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.train import ScalingConfig

from tests.unit.nas_core.networks import tiny_spec
from worker.job import finished, give_way
from worker.run_folder import RunFolder
from worker.training import scaling


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """The SIGINTs that come, noted instead of obeyed."""
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGINT, before)


def test_an_attempt_gives_way_to_a_later_one_and_to_no_other(tmp_path: Path, interrupts: list[int]) -> None:
    folder = RunFolder(str(tmp_path))
    folder.write_json("spec.json", {"attempt": 2})
    thread = give_way(folder, attempt=2, seconds=0.01)
    thread.join(0.2)
    assert thread.is_alive() and interrupts == []
    (tmp_path / "spec.json").write_text('{"attempt": ')
    thread.join(0.1)
    assert thread.is_alive() and interrupts == [], "a file that is torn just now says nothing"
    folder.write_json("spec.json", {"attempt": 3})
    thread.join(10)
    assert not thread.is_alive() and interrupts == [signal.SIGINT]


@pytest.mark.parametrize(
    ("content", "whole"),
    [(None, False), ("", False), ('{"architectures": [{}', False), ("{}", False), ('{"architectures": [{}]}', True)],
)
def test_only_a_whole_result_is_one(tmp_path: Path, content: str | None, whole: bool) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    assert finished(RunFolder(str(tmp_path))) == whole


def test_ray_train_is_told_of_a_range_of_workers_and_of_the_type_of_their_nodes() -> None:
    fixed = scaling(tiny_spec(workers=3))
    assert fixed["num_workers"] == 3 and fixed["accelerator_type"] is None
    assert scaling(tiny_spec(workers=3, min_workers=3))["num_workers"] == 3, "Ray would ask first what there is"
    assert scaling(tiny_spec(workers=3, min_workers=1))["num_workers"] == (1, 3)
    typed = ScalingConfig(**scaling(tiny_spec(workers=2, gpus_per_worker=1, accelerator_type="A100")))
    assert typed._resources_per_worker_not_none == {"CPU": 1, "GPU": 1, "accelerator_type:A100": 0.001}
