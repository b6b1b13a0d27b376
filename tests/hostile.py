"""What a hostile worker may leave in its run's folder: each attack is a function of the folder and a secret outside it.

They are played by `tests/unit/service/test_hostile_worker.py` and by `benchmarks/break_in.py`. What reads a folder must
never give out `SECRET`, never wait, and never take more memory than a file may have.
"""

import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_core.files import FILES

SECRET = "the-secret-of-somebody-else"
"""What the file outside holds."""


@dataclass(frozen=True)
class Victim:
    """A run's `folder`, where its attempt writes (`own`), for a `budget`, and a file outside that is none of its
    business.
    """

    folder: Path
    own: Path
    budget: int
    secret: Path


Attack = Callable[[Victim], None]


def put(path: Path, content: bytes | str) -> None:
    """Write a file, whatever was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.unlink()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def result(victim: Victim, **fields: Any) -> None:
    """A result for the budget that was asked for, but for `fields`."""
    network = {"budget": victim.budget, "multiply_adds": victim.budget - 1, "parameters": 1000, "files": FILES}
    tested = {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "test_images": 100}
    put(victim.own / "result.json", json.dumps({"architectures": [network | tested | fields]}))


def line(victim: Victim, **fields: Any) -> None:
    """A journal with one line."""
    told = {"kind": "epoch", "time": 1.0, "attempt": 1, "phase": "search", "epoch": 1} | fields
    put(victim.folder / "journal" / "0001-000002.jsonl", json.dumps(told) + "\n")


def _network(victim: Victim, kind: str) -> Path:
    path = victim.own / "architectures" / str(victim.budget) / FILES[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.unlink()
    return path


def network_of(victim: Victim, architecture: str) -> None:
    """The files that a good worker leaves of its network, with its `architecture` as JSON, before the attack."""
    for kind in ("weights", "card", "picture"):
        put(_network(victim, kind), kind)
    put(_network(victim, "architecture"), architecture)
    put(victim.folder / "tensorboard" / "search" / "events.out.tfevents.0001-000001", "events")


def link_for_result(victim: Victim) -> None:
    """result.json is a symbolic link."""
    (victim.own / "result.json").symlink_to(victim.secret)


def link_for_weights(victim: Victim) -> None:
    """The weights are a symbolic link to a file outside."""
    result(victim)
    _network(victim, "weights").symlink_to(victim.secret)


def link_to_environment(victim: Victim) -> None:
    """The weights are a symbolic link to the environment of the process that reads them."""
    result(victim)
    _network(victim, "weights").symlink_to("/proc/self/environ")


def linked_folder(victim: Victim) -> None:
    """The network's folder is a symbolic link to a folder outside, where a file has the right name."""
    result(victim)
    folder = victim.own / "architectures" / str(victim.budget)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        folder.rename(folder.with_name("moved"))
    put(victim.secret.parent / "elsewhere" / FILES["weights"], SECRET)
    folder.symlink_to(victim.secret.parent / "elsewhere")


def hard_link_for_weights(victim: Victim) -> None:
    """The weights are a second name of a file outside."""
    result(victim)
    os.link(victim.secret, _network(victim, "weights"))


def paths_in_result(victim: Victim) -> None:
    """The result tells its own paths and files."""
    files = {kind: str(victim.secret) for kind in FILES}
    result(victim, path=str(victim.secret.parent), files=files)


def climbing_paths_in_result(victim: Victim) -> None:
    """The result tells paths that climb out of its folder."""
    climbing = os.path.relpath(victim.secret, victim.own)
    result(victim, path="../" * 9, files=dict.fromkeys(FILES, climbing))


def kinds_that_are_none(victim: Victim) -> None:
    """The result tells a kind of file that there is not."""
    result(victim, files={"weights": "x", "../../secret": "y"})


def linked_event_file(victim: Victim) -> None:
    """An event file for TensorBoard is a symbolic link."""
    result(victim)
    path = victim.folder / "tensorboard" / "search" / "events.out.tfevents.0001-000001"
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.unlink()
    path.symlink_to(victim.secret)


def linked_tensorboard(victim: Victim) -> None:
    """The folder for TensorBoard is a symbolic link."""
    result(victim)
    os.rename(victim.folder / "tensorboard", victim.folder / "moved") if (
        victim.folder / "tensorboard"
    ).exists() else None
    put(victim.secret.parent / "board" / "search" / "events.out.tfevents.0001-000001", SECRET)
    (victim.folder / "tensorboard").symlink_to(victim.secret.parent / "board")


def linked_logs(victim: Victim) -> None:
    """The folder of the driver's logs is a symbolic link, through which the service would write."""
    result(victim)
    (victim.folder / "logs").symlink_to(victim.secret.parent)


def linked_log(victim: Victim) -> None:
    """The driver's log is a symbolic link."""
    result(victim)
    path = victim.folder / "logs" / "driver-0001.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim.secret)


def linked_journal(victim: Victim) -> None:
    """A chunk of the journal is a symbolic link."""
    path = victim.folder / "journal" / "0001-000002.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim.secret)


def pipe_for_result(victim: Victim) -> None:
    """result.json is a named pipe that nobody writes to."""
    os.mkfifo(victim.own / "result.json")


def pipe_for_journal(victim: Victim) -> None:
    """A chunk of the journal is a named pipe."""
    (victim.folder / "journal").mkdir(exist_ok=True)
    os.mkfifo(victim.folder / "journal" / "0001-000002.jsonl")


def socket_for_error(victim: Victim) -> None:
    """error.json is a socket."""
    here = os.open(victim.own, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{here}/error.json")  # a socket's path may have no more than 107 bytes
    finally:
        os.close(here)


def folder_for_result(victim: Victim) -> None:
    """result.json is a folder."""
    (victim.own / "result.json").mkdir()


def sparse_result(victim: Victim) -> None:
    """result.json is a terabyte of nothing."""
    put(victim.own / "result.json", b"")
    os.truncate(victim.own / "result.json", 1 << 40)


def sparse_weights(victim: Victim) -> None:
    """The weights are a terabyte of nothing."""
    result(victim)
    put(_network(victim, "weights"), b"")
    os.truncate(_network_path(victim, "weights"), 1 << 40)


def _network_path(victim: Victim, kind: str) -> Path:
    return victim.own / "architectures" / str(victim.budget) / FILES[kind]


def sparse_chunk(victim: Victim) -> None:
    """A chunk of the journal has ten gigabytes."""
    put(victim.folder / "journal" / "0001-000002.jsonl", b"")
    os.truncate(victim.folder / "journal" / "0001-000002.jsonl", 10 << 30)


def script_in_picture(victim: Victim) -> None:
    """The picture holds a script."""
    result(victim)
    put(
        _network(victim, "picture"),
        "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(document.cookie)</script></svg>",
    )


def architecture_bomb(victim: Victim) -> None:
    """The architecture claims a space that would take for ever to count."""
    result(victim)
    space = {"name": "x", "levels": 10**6, "blocks": [10**6] * 6, "operations": ["separable3"], "image_size": 10**9}
    values = {"version": 1, "space": space, "widths": [10**18], "blocks": [], "reductions": []}
    put(_network(victim, "architecture"), json.dumps(values))


def deep_architecture(victim: Victim) -> None:
    """The architecture is nested a hundred thousand times."""
    result(victim)
    put(_network(victim, "architecture"), '{"a":' + "[" * 100_000 + "]" * 100_000 + "}")


def two_results_for_a_budget(victim: Victim) -> None:
    """The result tells a budget twice."""
    one = {"budget": victim.budget, "multiply_adds": 1, "parameters": 1}
    put(victim.own / "result.json", json.dumps({"architectures": [one, one]}))


def budget_that_nobody_asked_for(victim: Victim) -> None:
    """The result tells of another budget."""
    result(victim, budget=victim.budget + 7)


def network_above_its_budget(victim: Victim) -> None:
    """The result tells a network that costs more than its budget."""
    result(victim, multiply_adds=victim.budget + 1)


def accuracy_above_one(victim: Victim) -> None:
    """The result tells more than all images right."""
    result(victim, accuracy=1.5)


def huge_number(victim: Victim) -> None:
    """The result holds a number that no database takes."""
    result(victim, parameters=2**63)


def long_kind(victim: Victim) -> None:
    """A line of the journal is of a kind that is too long for its column."""
    line(victim, kind="k" * 10_000)


def kind_of_the_service(victim: Victim) -> None:
    """A line of the journal claims that the search has succeeded."""
    line(victim, kind="status", status="succeeded")


def number_of_another_event(victim: Victim) -> None:
    """A line of the journal claims to be another event of another search."""
    line(victim, seq=1, search_id="other")


def progress_that_is_no_number(victim: Victim) -> None:
    """A line of the journal tells a text for its progress."""
    line(victim, progress="much")


def progress_above_one(victim: Victim) -> None:
    """A line of the journal tells a progress of 200 %."""
    line(victim, progress=2)


def long_line(victim: Victim) -> None:
    """A line of the journal has a megabyte."""
    line(victim, note="x" * 1_000_000)


def deep_line(victim: Victim) -> None:
    """A line of the journal is nested fifty times."""
    nested: Any = 1
    for _ in range(50):
        nested = [nested]
    line(victim, note=nested)


def far_attempts(victim: Victim) -> None:
    """The folder claims nine thousand attempts."""
    (victim.folder / "attempts" / "9999").mkdir(parents=True, exist_ok=True)
    line(victim, progress=7)


ENDING: tuple[Attack, ...] = (
    link_for_result,
    linked_journal,
    pipe_for_result,
    pipe_for_journal,
    folder_for_result,
    sparse_result,
    sparse_chunk,
    two_results_for_a_budget,
    budget_that_nobody_asked_for,
    network_above_its_budget,
    accuracy_above_one,
    huge_number,
    kinds_that_are_none,
    long_kind,
    kind_of_the_service,
    number_of_another_event,
    progress_that_is_no_number,
    progress_above_one,
    long_line,
    deep_line,
    far_attempts,
)
"""Attacks after which the search has failed, with a reason."""

HARMLESS: tuple[Attack, ...] = (
    link_for_weights,
    link_to_environment,
    linked_folder,
    hard_link_for_weights,
    paths_in_result,
    climbing_paths_in_result,
    linked_event_file,
    linked_tensorboard,
    linked_logs,
    linked_log,
    sparse_weights,
    script_in_picture,
    architecture_bomb,
    deep_architecture,
)
"""Attacks after which the search may have succeeded, and nothing that is asked of it gives anything away."""
