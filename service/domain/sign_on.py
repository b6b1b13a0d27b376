"""Whom a provider of OpenID Connect signs in: what its groups open here, and what people are called."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from nas_core.errors import InvalidValue
from service.domain.grants import EVERY_PROJECT, Grant, Role

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)*", re.ASCII)
LONGEST_NAME = 130
"""Characters: of who did something the database has 140, with what kind of name it is."""
SHORTEST_SECRET = 16
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PREFIX = "YOSO_OIDC_"
GRANTS_ACCEPTED = (
    'an object such as {"ml-team": "vision:submit", "ml-leads": "*:admin"}; roles are read, submit and admin'
)


@dataclass(frozen=True)
class SignOn:
    """A provider that people sign on with, and what they may do then.

    `grants` has what a group opens, by what the claim `claim` of a person holds. `client_secret` also signs what a
    browser keeps while it is at the provider. Raises `InvalidValue` for what cannot be used.
    """

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    grants: Mapping[str, Grant]
    claim: str = "groups"
    scopes: str = "openid profile email"
    name: str = ""

    def __post_init__(self) -> None:
        told = "https://HOST, with http for this machine alone"
        try:
            parts = urlsplit(self.issuer)
            parts.port  # noqa: B018  (raises where it is none)
        except ValueError as error:
            raise InvalidValue("YOSO_OIDC_ISSUER", "…", "not the URL of a provider", told) from error
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        if not secure or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise InvalidValue("YOSO_OIDC_ISSUER", "…", "not the URL of a provider", told)
        if not self.client_id:
            raise InvalidValue("YOSO_OIDC_CLIENT_ID", None, "missing", "what the provider calls this service")
        if len(self.client_secret) < SHORTEST_SECRET:
            told = f"what the provider gave, of {SHORTEST_SECRET} characters or more"
            raise InvalidValue("YOSO_OIDC_CLIENT_SECRET", "…", "missing, or so short that it can be guessed", told)
        if not self.grants:
            raise InvalidValue("YOSO_OIDC_GRANTS", None, "nobody could sign in", GRANTS_ACCEPTED)
        if "openid" not in self.scopes.split():
            raise InvalidValue("YOSO_OIDC_SCOPES", self.scopes, "without openid", "such as openid profile email groups")
        if not self.name:
            object.__setattr__(self, "name", parts.hostname)

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Self | None:
        """What the settings say; None where they name no provider. Raises `InvalidValue`."""
        if "YOSO_OIDC_ISSUER" not in given:
            for name in (name for name in given if name.startswith(PREFIX)):
                raise InvalidValue("YOSO_OIDC_ISSUER", None, f"missing, while {name} is set", "the URL of a provider")
            return None
        names = {"claim": "YOSO_OIDC_CLAIM", "scopes": "YOSO_OIDC_SCOPES", "name": "YOSO_OIDC_NAME"}
        return cls(
            issuer=given["YOSO_OIDC_ISSUER"],
            client_id=given.get("YOSO_OIDC_CLIENT_ID", ""),
            client_secret=given.get("YOSO_OIDC_CLIENT_SECRET", ""),
            grants=parse_grants(given.get("YOSO_OIDC_GRANTS", "{}")),
            **{part: given[name] for part, name in names.items() if name in given},
        )

    def gives(self, grant: Grant) -> bool:
        """Whether some group still opens what `grant` does."""
        return any((one.project, one.role) == (grant.project, grant.role) for one in self.grants.values())

    def opened(self, claims: Mapping[str, Any]) -> list[Grant]:
        """What the groups of a person open, by project, without what another of them opens as well."""
        held = claims.get(self.claim)
        groups = [held] if isinstance(held, str) else held if isinstance(held, list) else []
        roles, best = list(Role), dict[str, Grant]()
        for grant in (self.grants[group] for group in groups if isinstance(group, str) and group in self.grants):
            known = best.get(grant.project)
            if known is None or roles.index(known.role) < roles.index(grant.role):
                best[grant.project] = grant
        every = best.get(EVERY_PROJECT)
        covered = -1 if every is None else roles.index(every.role)
        return [one for _, one in sorted(best.items()) if one is every or roles.index(one.role) > covered]

    def named(self, claims: Mapping[str, Any]) -> str:
        """What a person is called in events: the e-mail address, if the provider has verified it, else their subject.

        No token can have such a name, nor a subject be taken for an address: people would pass for one another.
        """
        email = claims.get("email")
        if claims.get("email_verified") is True and isinstance(email, str) and EMAIL.fullmatch(email):
            told = email
        else:
            told = f"{urlsplit(self.issuer).hostname}/{claims['sub']}"
        return told if len(told) <= LONGEST_NAME else f"person/{hashlib.sha256(told.encode()).hexdigest()}"


def parse_grants(text: str) -> dict[str, Grant]:
    """What each group opens, from JSON. Raises `InvalidValue`."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise InvalidValue("YOSO_OIDC_GRANTS", text, f"not JSON: {error}", GRANTS_ACCEPTED) from error
    if not isinstance(given, dict):
        raise InvalidValue("YOSO_OIDC_GRANTS", text, "not an object", GRANTS_ACCEPTED)
    grants = {}
    for group, opens in given.items():
        try:
            if not isinstance(opens, str) or opens.count(":") != 1 or "@" in opens:
                raise ValueError("no project and role")
            grants[group] = Grant.parse(opens)
        except ValueError as error:
            told = f"PROJECT:ROLE for the group {group!r}, such as vision:submit"
            raise InvalidValue("YOSO_OIDC_GRANTS", opens, "not a project and a role", told) from error
    return grants
