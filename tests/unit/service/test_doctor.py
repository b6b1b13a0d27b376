"""`yoso doctor` on what is well and what is not."""

import re
import socket
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from service import doctor
from service.doctor import Finding, State
from service.settings import Settings
from service.store.database import connect, migrate
from tests.ray_double import TOKEN, ray_double


@pytest.fixture
def nobody_listens() -> int:
    """A port that nobody listens at."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def settings_of(tmp_path: Path, **environment: str) -> Settings:
    return Settings.from_environment({"YOSO_STORAGE": str(tmp_path)} | environment)


def test_this_machine_can_search() -> None:
    found = doctor.worker()
    assert found.state is State.GOOD, found
    assert "torchvision" in found.told and re.search("CPUs|GPUs", found.told)


def test_a_torch_that_does_not_load_is_bad_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE", "raise RuntimeError('operator torchvision::nms does not exist')")
    found = doctor.worker()
    assert found.state is State.BAD and "nms does not exist" in found.told and "constraints.txt" in found.remedy


def test_a_gpu_that_torch_does_not_see_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE", """print('{"torch": "2", "torchvision": "0", "gpus": []}')""")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert doctor.worker().state is State.BAD and "driver" in doctor.worker().remedy


def test_settings_that_cannot_be_end_the_examination_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "worker", lambda: Finding("worker", State.GOOD, "as it may be"))
    *_, last = doctor.examine({"YOSO_PORT": "many"})
    assert last == Finding("settings", State.BAD, "YOSO_PORT: not a number (got 'many')", "accepted: such as 8765")


def test_a_database_is_looked_at(database_url: str, tmp_path: Path) -> None:
    """Its revision, also one that this version does not know."""
    settings = settings_of(tmp_path, YOSO_DATABASE_URL=database_url)
    engine = connect(database_url)
    migrate(engine)
    assert all(one.state is State.GOOD for one in doctor.database(settings))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    (found,) = doctor.database(settings)
    assert found.state is State.BAD and "newer version" in found.told
    engine.dispose()


def test_clocks_that_differ_are_told(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() - 60)
    *_, clock = doctor.database(settings_of(tmp_path, YOSO_DATABASE_URL=postgres_url))
    assert clock.part == "clock" and clock.state is State.BAD and "ahead" in clock.told and "NTP" in clock.remedy


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path, nobody_listens: int) -> None:
    url = f"postgresql://yoso:secret-password@127.0.0.1:{nobody_listens}/yoso"
    (found,) = doctor.database(settings_of(tmp_path, YOSO_DATABASE_URL=url))
    assert found.state is State.BAD and "refused" in found.told and "secret-password" not in str(found)


def test_a_database_and_a_storage_that_are_yet_to_be_made_are_no_fault(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "new")
    assert [one.state for one in (*doctor.database(settings), doctor.storage(settings))] == [State.GOOD] * 2
    assert not (tmp_path / "new").exists(), "looking changes nothing"


def test_a_storage_that_is_nearly_full_or_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.storage(settings_of(tmp_path)).state is State.GOOD
    monkeypatch.setattr(doctor, "FREE_BYTES", 2**80)
    assert doctor.storage(settings_of(tmp_path)).state is State.UNSURE
    (tmp_path / "file").write_text("")
    assert doctor.storage(settings_of(tmp_path / "file")).state is State.BAD


def test_data_roots_that_are_not_there_are_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    roots = f"{tmp_path}/images:vision={tmp_path}/away"
    found = {one.told: one.state for one in doctor.data_roots(settings_of(tmp_path, YOSO_DATA_ROOTS=roots))}
    assert found == {f"{tmp_path}/images can be read": State.GOOD, f"{tmp_path}/away is not there": State.BAD}


def test_a_cluster_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with ray_double() as ray:
        settings = settings_of(tmp_path, YOSO_RAY_ADDRESS=ray.endpoint.url)
        found = doctor.ray(settings)
        assert found.state is State.GOOD and "CPUs" in found.told
        monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
        assert doctor.ray(settings).state is State.BAD
    assert doctor.ray(settings).state is State.BAD


def test_the_service_that_commands_ask_is_looked_at(
    url: str, nobody_listens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOSO_URL", f"http://127.0.0.1:{nobody_listens}")
    assert doctor.running().state is State.UNSURE
    monkeypatch.setenv("YOSO_URL", url)
    found = doctor.running()
    assert found.state is State.BAD and "dispatcher" in found.told, "none has reported to this database"
