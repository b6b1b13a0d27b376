"""Looks at datasets: in processes of their own, shared, remembered, and stopped when nobody waits."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from nas_core.errors import InvalidValue
from nas_core.spec import DataOptions
from service import inspections
from service.inspections import Found, Inspections, StillLooking, state_of
from tests.seeding import images

OPTIONS = DataOptions()
PATIENCE = 60.0


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """An image folder that can be searched on."""
    return images(tmp_path / "pets", "cat", "dog")


@pytest.fixture
def looks(tmp_path: Path) -> Iterator[Inspections]:
    made = Inspections((str(tmp_path),), False)
    yield made
    made.close()


def until(reached: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def command(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Have another program look: what a decoder may do to a process that looks."""
    monkeypatch.setattr(inspections, "COMMAND", (sys.executable, "-c", program))


def started(looks: Inspections) -> list[str]:
    """The datasets that processes are started for from now on."""
    found: list[str] = []
    look = looks._looked

    def counted(one: inspections.Look) -> Found | InvalidValue | None:
        found.append(one.dataset)
        return look(one)

    looks._looked = counted  # type: ignore[method-assign, assignment]
    return found


def test_many_who_ask_at_once_share_one_look_and_what_it_found_is_remembered(looks: Inspections, pets: Path) -> None:
    found: list[Found] = []
    count = started(looks)

    def ask() -> None:
        found.append(looks.look(str(pets), OPTIONS, None, PATIENCE))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(count) == 1 and len(found) == 6
    assert found[0].report["counts"] == {"train": {"cat": 9, "dog": 9}} and found[0].problems == ()
    assert found[0].shown and looks.sheet(str(pets), OPTIONS, None, 0.0).startswith(b"\x89PNG")  # type: ignore[union-attr]
    looks.look(str(pets), OPTIONS, None, 0.0)
    assert len(count) == 1
    assert looks.look(str(pets), DataOptions(channels=3), 32, PATIENCE).info.image_size == 32
    assert len(count) == 2, "other options ask something else"


def test_a_folder_that_changes_is_looked_at_again(looks: Inspections, pets: Path) -> None:
    before = looks.look(str(pets), OPTIONS, None, PATIENCE)
    file = pets / "cat" / "0.png"
    status = file.stat()
    Image.effect_noise((16, 16), 99).save(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = looks.look(str(pets), OPTIONS, None, PATIENCE)
    assert before.report["fingerprint"] != after.report["fingerprint"]
    (pets / "dog" / "0.png").unlink()
    (pets / "dog" / "1.png").unlink()
    assert looks.look(str(pets), OPTIONS, None, PATIENCE).problems[0].field == "dataset"


def test_the_state_of_a_folder_follows_links_and_ends_in_loops(tmp_path: Path, pets: Path) -> None:
    (pets / "loop").symlink_to(pets)
    outside = images(tmp_path / "outside", "mouse")
    (pets / "link").symlink_to(outside)
    os.mkfifo(pets / "pipe")
    (pets / "nowhere").symlink_to("missing")
    before = state_of(str(pets))
    assert before == state_of(str(pets))
    confined = state_of(str(pets), (str(pets),))
    (outside / "mouse" / "0.png").write_bytes(b"another")
    assert state_of(str(pets)) != before
    assert state_of(str(pets), (str(pets),)) == confined, "what lies outside the roots is not looked into"


TOLD = 'print(\'{"doing": "looking at images", "done": 3, "total": 9}\', flush=True); '
FATAL = {
    "import os; os.abort()": "SIGABRT",
    "import os; os._exit(3)": "exit code 3",
    "print('not JSON')": "the inspection failed",
    TOLD + "import os; os.abort()": "3 of 9 files",
    "import sys\nwhile True: sys.stdout.write('x' * 10**6)": "SIGKILL",
}


@pytest.mark.parametrize("program", FATAL)
def test_what_ends_the_process_costs_one_look_and_is_told(
    program: str, looks: Inspections, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(monkeypatch, program)
    count = started(looks)
    for _ in range(2):
        with pytest.raises(InvalidValue) as refused:
            looks.look(str(pets), OPTIONS, None, PATIENCE)
        assert refused.value.field == "dataset" and FATAL[program] in refused.value.reason
    assert len(count) == 1, "it is not tried again at once"
    monkeypatch.undo()
    (pets / "cat" / "new.png").write_bytes((pets / "cat" / "0.png").read_bytes())
    assert looks.look(str(pets), OPTIONS, None, PATIENCE).problems == ()


def test_a_look_that_hangs_is_killed_when_its_time_is_over(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    command(monkeypatch, f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(1000)")
    looks = Inspections((str(tmp_path),), False, seconds=1.0)
    with pytest.raises(InvalidValue, match="took longer than 1 seconds") as refused:
        looks.look(str(pets), OPTIONS, None, PATIENCE)
    assert "YOSO_INSPECTION_SECONDS" in refused.value.accepted
    assert not alive(int(pid.read_text()))


def test_a_look_that_nobody_waits_for_is_stopped(
    looks: Inspections, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspections, "LINGER_SECONDS", 0.3)
    pid = tmp_path / "pid"
    command(
        monkeypatch,
        'import os, time; print(\'{"doing": "listing", "done": 7, "total": null}\', flush=True); '
        f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(1000)",
    )
    state = state_of(str(pets))
    monkeypatch.setattr(inspections, "state_of", lambda folder, within: state)
    for _ in range(3):  # somebody who comes back keeps it going
        with pytest.raises(StillLooking):
            looks.look(str(pets), OPTIONS, None, 0.25)
    until(lambda: pid.exists() and bool(pid.read_text()))
    with pytest.raises(StillLooking, match="listing, 7 files so far"):
        looks.look(str(pets), OPTIONS, None, 0.25)
    until(lambda: not looks._looks)
    assert not alive(int(pid.read_text()))


def test_a_bomb_is_left_out_and_harms_nobody(tmp_path: Path, pets: Path) -> None:
    Image.new("1", (14_000, 14_000)).save(pets / "cat" / "bomb.png")
    for number in range(100):
        Image.effect_noise((16, 16), 60).save(pets / "dog" / f"more-{number}.png")
    looks = Inspections((str(tmp_path),), False, memory=1 << 30)
    found = looks.look(str(pets), OPTIONS, None, PATIENCE)
    assert [one["examples"] for one in found.report["left_out"]] == [["cat/bomb.png"]]
    assert "decompression bomb" in found.report["left_out"][0]["reason"]


def test_a_look_knows_no_secret_of_the_service(
    looks: Inspections, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOSO_TOKENS", "vision=0123456789abcdef")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "0123456789abcdef")
    command(monkeypatch, f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(repr(dict(os.environ)))")
    with pytest.raises(InvalidValue):
        looks.look(str(pets), OPTIONS, None, PATIENCE)
    assert "0123456789abcdef" not in (tmp_path / "seen").read_text()


def test_no_more_threads_wait_than_may(
    looks: Inspections, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(monkeypatch, "import time; time.sleep(1000)")
    waiting: list[bool] = []

    def ask() -> None:
        with pytest.raises(StillLooking):
            looks.look(str(pets), OPTIONS, None, 1.0)
        waiting.append(True)

    threads = [threading.Thread(target=ask) for _ in range(inspections.MOST_WAITING)]
    for one in threads:
        one.start()
    until(lambda: sum(one.waiting for one in list(looks._looks.values())) == inspections.MOST_WAITING)
    with pytest.raises(StillLooking, match="waiting for other inspections"):
        looks.look(str(pets), OPTIONS, None, 0.0)
    assert looks.look("digits", OPTIONS, None, 0.0).info.classes == 10, "a name needs no look"
    for one in threads:
        one.join()
    assert len(waiting) == len(threads)


def test_what_lies_outside_the_roots_is_not_looked_at(looks: Inspections, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="outside the data roots"):
        looks.look(str(tmp_path / ".."), OPTIONS, None, 0.0)
    assert not looks._looks


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
