"""What the Ray of the service's own is given."""

from pathlib import Path

import pytest

from service.dispatch.local_ray import ray_environment


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
