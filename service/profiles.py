"""The services that a user has signed in to: `yoso login URL` keeps their URLs and tokens by names.

They are in one file of the user's configuration folder (XDG_CONFIG_HOME), which its owner alone can read.
"""

import json
import os
import stat
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nas_core.errors import InvalidValue
from service.domain.grants import NAME
from service.own_token import write

DEFAULT = "default"
"""The profile of a sign-in that names none; it is used where nothing else says which service is meant."""
CHOSEN = ContextVar[str | None]("CHOSEN", default=None)
"""The profile that a command's --profile names."""


@dataclass(frozen=True)
class Profile:
    """A service, and what is sent to it."""

    url: str
    token: str = field(repr=False)

    def is_for(self, url: str) -> bool:
        """Whether `url` is one of the service's, which alone may see the token."""
        return f"{url}/".startswith(f"{self.url}/")


def place() -> Path:
    """The file of the profiles."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "yoso", "profiles.json")


def read() -> dict[str, Profile]:
    """All profiles by name. Raises `InvalidValue` for a file that others can read too, or that holds something else."""
    path = place()
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except FileNotFoundError:
        return {}
    if mode & 0o077:
        raise InvalidValue(str(path), f"{stat.S_IMODE(mode):o}", "others can use the tokens in it", f"chmod 600 {path}")
    try:
        return {name: Profile(**values) for name, values in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        accepted = "what `yoso login URL` writes: remove it and sign in again"
        raise InvalidValue(str(path), "…", "no profiles", accepted) from error


def keep(name: str, profile: Profile) -> None:
    """Add a profile, in the place of one of the same name. Raises `InvalidValue` for a name that is none."""
    if not NAME.fullmatch(name):
        raise InvalidValue("--profile", name, "not a name", "1 to 64 letters, digits, dots, dashes and underscores")
    _write(read() | {name: profile})


def forget(name: str) -> Profile:
    """Remove a profile; returns it. Raises `InvalidValue` where there is none of that name."""
    known = read()
    profile = _named(known, name)
    del known[name]
    _write(known)
    return profile


def chosen() -> Profile | None:
    """The profile that --profile, or else YOSO_PROFILE, names, if either does. Raises `InvalidValue` for another."""
    name = chosen_name()
    return _named(read(), name) if name else None


def chosen_name() -> str | None:
    """What --profile, or else YOSO_PROFILE, says."""
    return CHOSEN.get() or os.environ.get("YOSO_PROFILE")


def token_for(url: str) -> str | None:
    """The token of a profile whose service `url` is of; None where no profile is for it."""
    return next((one.token for one in read().values() if one.is_for(url)), None)


def _named(known: dict[str, Profile], name: str) -> Profile:
    if name not in known:
        raise InvalidValue("--profile", name, "no such profile", ", ".join(known) or "what `yoso login URL` kept")
    return known[name]


def _write(profiles: dict[str, Profile]) -> None:
    write(place(), json.dumps({name: asdict(profile) for name, profile in profiles.items()}, indent=1) + "\n")
