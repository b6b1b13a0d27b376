"""What the Ray of the service's own is given."""

import subprocess
import time
from pathlib import Path

import pytest

from service.dispatch import local_ray
from service.dispatch.local_ray import LocalRay, ray_environment, tell_ports


def test_ray_gets_the_services_environment_and_none_of_its_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "YOSO_TOKENS": "vision=hidden-0123456789",
        "YOSO_TOKEN": "hidden-0123456789",
        "YOSO_DATABASE_URL": "postgresql://yoso:hidden@localhost/yoso",
        "YOSO_MLFLOW_URI": "https://yoso:hidden@localhost",
        "MLFLOW_TRACKING_PASSWORD": "hidden",
        "RAY_AUTH_TOKEN": "hidden",
        "YOSO_CHECKPOINT_SECONDS": "2",
        "AWS_PROFILE": "storage",
    }.items():
        monkeypatch.setenv(name, value)
    given = ray_environment(tmp_path / "token")
    assert not [name for name, value in given.items() if "hidden" in value]
    assert given["YOSO_CHECKPOINT_SECONDS"] == "2" and given["AWS_PROFILE"] == "storage"
    assert given["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token") and given["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(("told", "times"), [("The current node timed out during startup.", 2), ("No such port", 1)])
def test_a_ray_that_was_too_slow_to_start_is_given_a_second_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str, times: int
) -> None:
    """It is Python's `ray` on the path that says so here."""
    code = f"open({str(tmp_path / 'starts')!r}, 'a').write('.'); raise Exception({told!r})"
    (tmp_path / "ray" / "scripts").mkdir(parents=True)
    for package in ("ray", "ray/scripts"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "ray" / "scripts" / "scripts.py").write_text(code)
    monkeypatch.setattr(local_ray, "ray_environment", lambda _: {"PYTHONPATH": str(tmp_path)})
    with pytest.raises(RuntimeError, match=told):
        LocalRay(tmp_path / "storage").ensure()
    assert (tmp_path / "starts").read_text() == times * "."


def test_a_raylet_is_told_where_its_agent_will_listen(tmp_path: Path) -> None:
    agent = "--dashboard_agent_command=python agent.py --grpc-port=0 --listen-port=40123 --head"
    for name, told in (("/bin/sh", None), ("/opt/ray/raylet", "40123")):
        words = [name, "-c", "read never", f"--session_dir={tmp_path}", "--node_id=abc", agent]
        process = subprocess.Popen(words, executable="/bin/sh", stdin=subprocess.PIPE)
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():  # in the moment in which it becomes the program
            time.sleep(0.01)
        tell_ports([process.pid, 2**22])
        process.communicate()
        file = tmp_path / "dashboard_agent_listen_port_abc"
        assert (file.read_text() if file.exists() else None) == told
