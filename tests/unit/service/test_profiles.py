"""`yoso login URL`: what it keeps, where, and whom it is sent to."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from nas_core.errors import InvalidValue
from service import cli, profiles
from service.client import Client, default_url, token_for
from service.profiles import Profile
from tests import seeding

VISION, AUDIO = "who-administers-vision", "who-administers-audio"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    tokens = {VISION: "vision:admin:ann", AUDIO: "audio:admin:bob"}
    made = seeding.make_app(tmp_path, tokens=tokens, data_roots=(str(tmp_path),))
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration folder, and nothing that says where a service is."""
    for name in ("YOSO_URL", "YOSO_HOST", "YOSO_PORT", "YOSO_TOKEN", "YOSO_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "yoso" / "profiles.json"


def yoso(*words: str, typed: str = "") -> Result:
    told = CliRunner().invoke(cli.app, cli.with_profile_first(list(words)), input=typed)
    profiles.CHOSEN.set(None)  # as the end of a process would
    return told


def test_signing_in_keeps_url_and_token_for_this_user_alone(url: str, config: Path) -> None:
    told = yoso("login", url + "/", typed=f"{VISION}\n")
    assert told.exit_code == 0 and f"signed in to {url} as ann: admin in project vision" in told.stdout, told.stderr
    assert stat.S_IMODE(config.stat().st_mode) == 0o600 and stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert VISION not in told.output and VISION not in repr(profiles.read())
    assert yoso("login", "--profile", "audio", url, typed=AUDIO).exit_code == 0
    assert default_url() == url and yoso("token").stdout == f"{VISION}\n"
    assert yoso("token", "--profile=audio").stdout == yoso("--profile", "audio", "token", "show").stdout == f"{AUDIO}\n"
    with Client() as client:
        assert client.me()["name"] == "ann"
    assert yoso("login").stdout.startswith(f"{url}/login?"), "a link for a browser, as ever"
    assert f"signed out of {url}" in yoso("logout", "--profile", "audio").stdout
    wrong = yoso("list", "--profile", "audio")
    assert wrong.exit_code == 2 and wrong.stderr.startswith(
        "--profile: no such profile (got 'audio'); accepted: default"
    )


@pytest.mark.parametrize("typed", ["wrong-token-that-is-long\n", "\n", "two words\n", "tökén\n"])
def test_a_token_that_opens_nothing_is_not_kept(url: str, config: Path, typed: str) -> None:
    told = yoso("login", url, typed=typed)
    assert told.exit_code != 0 and not config.exists() and "Traceback" not in told.output
    assert yoso("login", "ftp://nowhere", typed=VISION).exit_code == 2 and not config.exists()


def test_what_is_said_goes_before_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    profiles.keep("default", Profile("https://yoso.example.org", "kept"))
    profiles.keep("work", Profile("https://example.org/yoso", "works"))
    assert default_url() == "https://yoso.example.org"
    monkeypatch.setenv("YOSO_PORT", "1234")
    assert default_url() == "http://127.0.0.1:1234"
    monkeypatch.setenv("YOSO_URL", "https://other.example.org")
    assert default_url() == "https://other.example.org"
    monkeypatch.setenv("YOSO_PROFILE", "work")
    assert default_url() == "https://example.org/yoso"
    monkeypatch.setenv("YOSO_TOKEN", "said")
    assert token_for("https://example.org/yoso/api/v1/me") == "works"
    assert token_for("https://yoso.example.org") == "said"


def test_a_token_is_sent_to_its_own_service_alone() -> None:
    profiles.keep("work", Profile("https://example.org/yoso", "works"))
    assert token_for("https://example.org/yoso") == token_for("https://example.org/yoso/api/v1/me") == "works"
    for other in (
        "http://example.org/yoso/api",
        "https://example.org/",
        "https://example.org/yosoner/api",
        "https://example.org.evil/yoso/api",
        "https://example.org:8443/yoso/api",
        "https://other.example.org/yoso",
    ):
        assert token_for(other) is None


def test_a_file_that_others_can_read_or_that_holds_something_else_is_refused(config: Path) -> None:
    profiles.keep("default", Profile("https://yoso.example.org", "secret-of-mine"))
    config.chmod(0o640)
    with pytest.raises(InvalidValue, match="chmod 600"):
        default_url()
    config.chmod(0o600)
    for text in ("[]", '{"default": {"url": "secret-of-mine"}}', "secret-of-mine"):
        config.write_text(text)
        told = yoso("list")
        assert told.exit_code == 2 and "sign in again" in told.stderr and "secret-of-mine" not in told.stderr
    with pytest.raises(InvalidValue, match="--profile"):
        profiles.keep("../x", Profile("https://yoso.example.org", "t"))
