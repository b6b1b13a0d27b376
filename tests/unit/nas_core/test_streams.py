"""Images that processes read ahead: the same whoever reads them, and what is told of those that cannot go on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas_core.data.augmentation import Augment, Vary
from nas_core.data.decoding import Decoding
from nas_core.data.images import FileImages, HostImages, TensorImages
from nas_core.data.loading import Data
from nas_core.data.manifest import digest
from nas_core.data.streams import Wanted
from nas_core.errors import DataChanged, LoaderDied, ReadFailed
from tests.unit.nas_core.networks import tiny_data

EVERYTHING = Augment(0, True, 2, 0.5, 0.4, 1.0, Vary(0.3, 0.4, "trivial_augment"))
SIZE, BATCH = 12, 5


def in_files(folder: Path, count: int = 17) -> Data:
    """Images of many colours in files, and no process that reads them."""
    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        files.append(folder / f"{number}.png")
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(files[-1])
    images = FileImages(files, Decoding(3, SIZE, resize=14), [digest(file) for file in files])
    labels = torch.arange(count) % 3
    return Data("many", 3, images, labels, {"weights": torch.arange(count), "scaling": torch.arange(0)}, "many", CPU)


CPU = torch.device("cpu")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[Data]]:
    """The same images, read by no, one and two processes."""
    data = in_files(tmp_path)
    all_of_them = [replace(data, processes=processes) for processes in (0, 1, 2)]
    yield all_of_them
    for one in all_of_them:
        one.close()


def steps(data: Data, numbers: range, augment: Augment | None = EVERYTHING, name: str = "a") -> list[torch.Tensor]:
    every = [data.batch(data.parts["weights"], step, BATCH, 7, name, augment) for step in numbers]
    return [tensor for batch in every for tensor in batch]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


@pytest.mark.proof
def test_any_number_of_processes_reads_the_same_from_any_step_on(opened: list[Data]) -> None:
    alone, one, two = opened
    state = torch.get_rng_state()
    wanted = steps(alone, range(7))  # two epochs and a bit
    for data in (one, two):
        assert same(steps(data, range(7)), wanted)
        assert same(steps(data, range(3, 5)), wanted[6:10])
        assert not same(steps(data, range(3, 5), name="b"), wanted[6:10])
        evaluated = list(data.each([torch.tensor([3, 1, 2]), torch.tensor([0])]))
        for (images, labels), indices in zip(evaluated, ([3, 1, 2], [0]), strict=True):
            assert same([images, labels], list(alone.load(torch.tensor(indices))))
        assert same(steps(data, range(5, 7)), wanted[10:])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.proof
def test_the_processes_stay_and_are_few(opened: list[Data]) -> None:
    data = opened[1]
    steps(data, range(2), name="a")
    [process] = data._streams.training["a"]._processes()
    steps(data, range(4, 6), name="a")
    for name in "bcde":
        steps(data, range(1), name=name)
    assert [stream._processes()[0].pid for stream in data._streams.training.values()].count(process.pid) == 1
    assert len(data._streams.training) == 4


@pytest.mark.parametrize("held", ["device", "host"])
def test_images_in_memory_are_varied_as_those_in_files(tmp_path: Path, held: str) -> None:
    data = in_files(tmp_path)
    pixels = data.images.fetch(data.parts["weights"])
    plain = Decoding(3, SIZE)
    images = TensorImages(pixels) if held == "device" else HostImages(pixels, plain)
    other = replace(data, images=images, processes=1)
    augment = Augment(2, True, vary=Vary(policy="rand_augment"))
    wanted = steps(data, range(3), augment)
    assert same(steps(other, range(3), augment), wanted)
    assert torch.equal(next(other.each([torch.arange(3)]))[0], data.load(torch.arange(3))[0])
    other.close()


def test_a_file_that_changes_or_goes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_core.data.snapshot.PAUSES", ())
    data = replace(in_files(tmp_path), processes=1)
    Image.new("RGB", (20, 30)).save(tmp_path / "16.png")
    with pytest.raises(DataChanged, match=r"16\.png has changed since the search began") as raised:
        list(data.each([data.parts["weights"]]))
    assert raised.value.changes["files changed"]["count"] == 1
    (tmp_path / "16.png").unlink()
    with pytest.raises(ReadFailed, match=r"16\.png: no such file"):
        list(data.each([data.parts["weights"]]))
    with pytest.raises(ReadFailed, match=r"16\.png: no such file"):
        steps(data, range(3))
    data.close()


class Deadly(FileImages):
    """Files of which one ends the process that reads it."""

    def read(self, index: int, choose: Any = None) -> Any:
        if index == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index, choose)


def test_a_process_that_dies_is_told_of_with_what_it_read(tmp_path: Path) -> None:
    data = in_files(tmp_path)
    assert isinstance(data.images, FileImages)
    deadly = Deadly(data.images.files, data.images.decoding, data.images.digests)
    dying = replace(data, images=deadly, processes=2)
    with pytest.raises(LoaderDied, match=r"while it read .*11\.png: it was killed by SIGKILL, maybe by the system"):
        list(dying.each([data.parts["weights"]]))
    dying.close()


@pytest.mark.parametrize(("processes", "number"), [(1, 0), (2, 0), (2, 1)])
def test_a_process_that_dies_while_it_hands_a_batch_over_is_told_of(
    tmp_path: Path, processes: int, number: int
) -> None:
    """Of two one has begun to write, and the other waits for it."""
    files, pixels = in_files(tmp_path), torch.zeros((40, 3, 100, 100), dtype=torch.uint8)  # more than a pipe holds
    data = replace(files, images=HostImages(pixels, Decoding(3, 100)), processes=processes)

    def wanted(step: int) -> Wanted:
        return Wanted(tuple(range(40)))

    data._streams.batch("a", 0, wanted)
    stream = data._streams.training["a"]
    assert stream.loader._iterator is not None
    assert stream.loader._iterator._worker_result_queue._reader.poll(30), "the next batch is begun"  # type: ignore[attr-defined]
    dying = stream._processes()[number]
    os.kill(dying.pid, signal.SIGKILL)
    with pytest.raises(LoaderDied, match=f"process {dying.pid}, .* it was killed by SIGKILL"):
        for step in range(1, 9):  # which of the processes has begun to write is left to the system
            data._streams.batch("a", step, wanted)
    data.close()


@pytest.mark.proof
def test_processes_import_nothing_of_a_program_which_needs_no_guard_and_ends(tmp_path: Path) -> None:
    Image.new("RGB", (20, 30), "red").save(tmp_path / "red.png")
    script = tmp_path / "script.py"
    script.write_text(f"""
import sqlite3
import torch
from pathlib import Path
from nas_core.data.decoding import Decoding
from nas_core.data.images import FileImages
from nas_core.data.manifest import digest
from nas_core.data.streams import Streams

print("once")
file = Path({str(tmp_path / "red.png")!r})
streams = Streams(FileImages([file], Decoding(3, 4), [digest(file)]), 1, pin=False)
print([part.shape for part in next(streams.each([torch.tensor([0])]))])
[process] = streams.evaluation._processes()
there = Path(f"/proc/{{process.pid}}/maps").read_text()
print([library in there for library in ("libtorch", "sqlite")])
""")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == ["once", "[torch.Size([1, 3, 4, 4])]", "[True, False]"]


def test_what_is_read_is_what_lies_on_the_device() -> None:
    data = tiny_data()
    varied = Augment(1, True, vary=Vary())
    wanted = data.batch(data.parts["weights"], 3, 16, 0, "a", Augment(1, True))
    assert same(list(data.batch(data.parts["weights"], 3, 16, 0, "a", varied)), list(wanted))
