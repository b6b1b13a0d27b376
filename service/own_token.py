"""The token that `yoso serve` makes for this machine's user where none are set, as Jupyter does.

It is kept in the storage's folder, so that it stays the same. While the service listens it is also in the user's state
folder (XDG_STATE_HOME), by address and port, where clients of the same user find it. Both files are 0600.
"""

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from service.settings import Settings, is_loopback

FILE = "token"


def kept(settings: Settings) -> str:
    """The token of the service's storage, made at its first start; a new one where the storage is no local folder."""
    if "://" in settings.storage:
        return secrets.token_urlsafe(32)
    path = Path(settings.storage, FILE)
    if path.exists():
        path.chmod(0o600)
        if token := path.read_text().strip():
            return token
    token = secrets.token_urlsafe(32)
    write(path, token)
    return token


def publish(settings: Settings, token: str) -> None:
    """Let clients of this user find the token of a service that listens."""
    write(_place(settings.host, settings.port), token)


def withdraw(settings: Settings, token: str) -> None:
    """Take back what `publish` put there, if it is still there."""
    path = _place(settings.host, settings.port)
    if path.exists() and path.read_text() == token:
        path.unlink()


def find(url: str) -> str | None:
    """The token of this user's service at `url`; None where it is another machine's, or has published none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        return None
    if parts.scheme != "http" or not is_loopback(host):
        return None
    path = _place(host, port)
    return path.read_text() if path.exists() else None


def _place(host: str, port: int) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state, "yoso", f"{'127.0.0.1' if host == 'localhost' else host}-{port}")


def write(path: Path, text: str) -> None:
    """Put a file there at once, that its owner alone can read, in a folder that the owner alone can enter."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
