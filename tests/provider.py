"""A real provider of OpenID Connect on this machine: NanoIDP, which asks for PKCE, secrets and known redirects."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from service.dispatch.local_ray import free_ports
from service.domain.sign_on import SignOn, parse_grants

CLIENT, SECRET = "yoso", "a-secret-of-the-client-0123456789"
PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "ann": {"email": "ann@example.org", "groups": ["vision-leads"]},
    "bob": {"email": "bob@example.org", "groups": ["vision-team", "audio-team", "climbing"]},
    "eve": {"email": "eve@example.org", "groups": ["climbing"]},
}
"""Everybody's password is their name, twice."""
GRANTS = {"vision-leads": "vision:admin", "vision-team": "vision:submit", "audio-team": "audio:read"}


def sign_on(issuer: str, **more: Any) -> SignOn:
    """The service's settings for a provider."""
    return SignOn(issuer, CLIENT, SECRET, parse_grants(json.dumps(GRANTS)), name="Example", **more)


@contextmanager
def provider(folder: Path, port: int = 0) -> Iterator[str]:
    """The provider, with its configuration in `folder`; its issuer."""
    port = port or free_ports(1)[0]
    issuer = f"http://localhost:{port}"
    # Of loopback addresses it takes any port.
    client = {"client_id": CLIENT, "client_secret": SECRET, "redirect_uris": ["http://127.0.0.1:1/login/oidc/callback"]}
    settings = {
        "config_version": 1,
        "server": {"host": "127.0.0.1", "port": port},
        "oauth": {"issuer": issuer, "audience": "others", "clients": [client]},
        "authority_prefixes": {"groups": "", "roles": ""},
    }
    users = {name: {"password": name * 2, "roles": [], **more} for name, more in PEOPLE.items()}
    folder.mkdir(exist_ok=True)
    # JSON is YAML too.
    (folder / "settings.yaml").write_text(json.dumps(settings))
    (folder / "users.yaml").write_text(json.dumps({"config_version": 1, "users": users}))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nanoidp", "--config", str(folder), "--profile", "oauth21", "--strict-config"],
            stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not answers(issuer):
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.05)
        yield issuer
    finally:
        process.kill()
        process.wait()


def answers(issuer: str) -> bool:
    """Whether the provider is there."""
    try:
        return httpx.get(f"{issuer}/.well-known/openid-configuration", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def approve(at: str, name: str) -> str:
    """Sign in at the provider's page `at` under a name; where it leads back to."""
    with httpx.Client(trust_env=False, timeout=30) as http:
        shown = http.get(at)
        assert shown.status_code == 200, shown.text
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', shown.text))
        back = http.post(at, data=hidden | {"username": name, "password": name * 2})
        assert back.status_code in (302, 303), back.text
        return urljoin(at, back.headers["location"])
