"""Settings are checked before anything starts, and secrets stay out of what is said about them."""

import re
from pathlib import Path

import pytest

from nas_core.errors import InvalidValue
from service.domain.grants import Grant
from service.settings import ELSEWHERE, KNOWN, Settings, is_loopback, without_credentials
from service.store.database import connect


def test_the_defaults_are_a_service_for_this_machine_alone() -> None:
    settings = Settings.from_environment({"YOSO_STORAGE": "/data/yoso"})
    assert (settings.host, settings.port, settings.ray_address) == ("127.0.0.1", 8765, None)
    assert settings.database_url == "sqlite:////data/yoso/yoso.db" and settings.any_folder


@pytest.mark.parametrize(
    ("environment", "field"),
    [
        ({"YOSO_PORT": "http"}, "YOSO_PORT"),
        ({"YOSO_PORT": "70000"}, "YOSO_PORT"),
        ({"YOSO_HOST": "0.0.0.0"}, "YOSO_HOST"),
        ({"YOSO_HOST": "0.0.0.0", "YOSO_TOKENS": "p=0123456789abcdef"}, "YOSO_HOST"),
        ({"YOSO_HOST": "example.org", "YOSO_DATA_ROOTS": "/data"}, "YOSO_HOST"),
        ({"YOSO_RAY_ADDRESS": "ray://head:10001"}, "YOSO_RAY_ADDRESS"),
        ({"YOSO_STORAGE": "s3://bucket/yoso"}, "YOSO_DATABASE_URL"),
        ({"YOSO_MLFLOW_URI": "sqlite:///secret.db"}, "YOSO_MLFLOW_URI"),
        ({"YOSO_MLFLOW_URI": "http://user:secret@host:port"}, "YOSO_MLFLOW_URI"),
        ({"YOSO_MLFLOW_URI": "user:secret@host"}, "YOSO_MLFLOW_URI"),
        ({"YOSO_OTLP_URL": "http://[secret/v1/traces"}, "YOSO_OTLP_URL"),
        ({"YOSO_OTLP_URL": "http://host:secret/v1/traces"}, "YOSO_OTLP_URL"),
        ({"YOSO_RATE_STORAGE": "memcached://:secret@host"}, "YOSO_RATE_STORAGE"),
        ({"YOSO_RATE_STORAGE": "redis://:secret@:6379"}, "YOSO_RATE_STORAGE"),
        ({"YOSO_RATE_STORAGE": "redis://:secret@host:port"}, "YOSO_RATE_STORAGE"),
        ({"YOSO_RATE_STORAGE": "redis://host/secret"}, "YOSO_RATE_STORAGE"),
        ({"YOSO_RATE_STORAGE": "redis://host?password=secret"}, "YOSO_RATE_STORAGE"),
        ({"YOSO_STORAGE": "memory:"}, "YOSO_STORAGE"),
        ({"YOSO_STORAGE": "memory://x", "YOSO_DATABASE_URL": "sqlite:////data/yoso.db"}, "YOSO_STORAGE"),
        ({"YOSO_STORAGE": "s3:bucket"}, "YOSO_STORAGE"),
        ({"YOSO_TOKENS": "p=short-secret"}, "YOSO_TOKENS"),
        ({"YOSO_TOKENS": "a-secret-without-a-project"}, "YOSO_TOKENS"),
        ({"YOSO_TOKEN_FILE": "secret"}, "YOSO_TOKEN_FILE"),
        ({"YOSO_KEEP_DAY": "30 secret"}, "YOSO_KEEP_DAY"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(environment: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Settings.from_environment({"YOSO_STORAGE": "/data"} | environment)
    assert refused.value.field == field and "secret" not in str(refused.value)


def test_a_misspelled_setting_is_refused_with_what_was_meant() -> None:
    with pytest.raises(InvalidValue, match="no such setting; did you mean 'YOSO_KEEP_DAYS'"):
        Settings.from_environment({"YOSO_STORAGE": "/data", "YOSO_KEEP_DAY": "30"})


def test_what_others_set_is_none_of_the_services_settings() -> None:
    links = {"YOSO_SERVICE_HOST": "10.0.0.1", "YOSO_API_SERVICE_PORT_HTTP": "80", "YOSO_PORT_8765_TCP_ADDR": "10.0.0.1"}
    others = {"YOSO_URL": "http://127.0.0.1:8765", "YOSO_GPUS": "2", "YOSO_CHECKPOINT_SECONDS": "5"}
    assert Settings.from_environment({"YOSO_STORAGE": "/data"} | links | others).port == 8765


def test_every_setting_that_code_and_files_of_deployment_name_is_known() -> None:
    roots = [Path("service"), Path("worker"), Path("nas_core"), Path("deploy/chart"), Path("docker-compose.yml")]
    files = [file for root in roots for file in ([root] if root.is_file() else root.rglob("*.*"))]
    texts = [file.read_text() for file in files if file.suffix in (".py", ".yml", ".yaml", ".tpl")]
    named = {name for text in texts for name in re.findall(r"YOSO_[A-Z_]*[A-Z]\b", text)}
    assert named - {"YOSO_OIDC", "YOSO_SERVICE_HOST"} <= {*KNOWN, *ELSEWHERE}


def test_tokens_do_not_show() -> None:
    settings = Settings.from_environment({"YOSO_TOKENS": "p=0123456789abcdef", "YOSO_STORAGE": "/data"})
    assert settings.tokens == {"0123456789abcdef": Grant("p")} and "0123456789abcdef" not in repr(settings)


@pytest.mark.parametrize(
    ("host", "here"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False)]
)
def test_loopback_is_known(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.mark.parametrize("url", ["mysql://user:secret@host/db", "nonsense with secret"])
def test_other_databases_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        connect(url)
    assert refused.value.field == "YOSO_DATABASE_URL" and "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "clean", "credentials"),
    [
        ("http://host:5000/", "http://host:5000", {}),
        ("https://user:p%40ss@host/mlflow", "https://host/mlflow", {"USERNAME": "user", "PASSWORD": "p@ss"}),
        ("http://user@[::1]:5000", "http://[::1]:5000", {"USERNAME": "user"}),
    ],
)
def test_the_credentials_of_an_address_are_told_apart_from_it(
    uri: str, clean: str, credentials: dict[str, str]
) -> None:
    settings = Settings.from_environment({"YOSO_MLFLOW_URI": uri, "YOSO_STORAGE": "/data"})
    assert settings.mlflow_uri == uri and "user" not in repr(settings)
    assert without_credentials(uri) == (
        clean,
        {f"MLFLOW_TRACKING_{name}": value for name, value in credentials.items()},
    )
