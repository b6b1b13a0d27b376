"""What is done about tokens, sessions and the audit log, whoever asks for it: the API and the pages both come here.

Rules about what a token may open are `service.domain.grants`'s, queries `service.store`'s.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from nas_core.errors import InvalidValue
from service.callers import Caller, Callers
from service.domain.grants import EVERY_PROJECT, NAME, Grant, NotAllowed, Role, end_of
from service.settings import Settings
from service.store.audit import Action, Asked, Audit, note
from service.store.database import is_away, writing
from service.store.logins import digest
from service.store.models import AuditEntry, Token
from service.store.tokens import NameTaken

log = logging.getLogger(__name__)


class Access:
    """Who gets into a service, and what is known of them."""

    def __init__(self, settings: Settings, callers: Callers, audit: Audit) -> None:
        self.settings, self.callers, self.tokens, self.entries = settings, callers, callers.tokens, audit

    def make(
        self, by: Caller, name: str, role: Role, project: str | None, expires: str | None, within: Session
    ) -> tuple[Token, str]:
        """A new token, and what is to be sent for it, which nobody can be told again.

        Without a `project` it is of the asker's own, and it ends with the asker's at the latest. Raises `InvalidValue`,
        `NotAllowed` and `NameTaken`.
        """
        by.grant.check_manages()
        if not NAME.fullmatch(name):
            raise InvalidValue("name", name, "not a name", "1 to 64 letters, digits, dots, dashes and underscores")
        if project is None and by.project is None:
            raise InvalidValue("project", None, "missing", f"a project's name, or {EVERY_PROJECT} for all")
        project = by.grant.project if project is None else project
        if project != EVERY_PROJECT and not NAME.fullmatch(project):
            raise InvalidValue("project", project, "not a name", f"a project's name, or {EVERY_PROJECT} for all")
        expires_at = by.grant.expires_at if expires is None else end_of(expires, time.time())
        grant = Grant(project, role, name, expires_at)
        by.grant.check_gives(grant)
        if self.settings.any_folder:
            raise InvalidValue(
                "YOSO_DATA_ROOTS", None, "anyone with a token could read any folder of this machine", "folders of data"
            )
        if name in self.callers.names:
            raise NameTaken(name)
        return self.tokens.make(grant, within)

    def page(self, by: Caller, limit: int, after: str = "", project: str | None = None) -> Sequence[Token]:
        """At most `limit` tokens that `by` manages, by name, from behind `after`. Raises `NotAllowed`."""
        by.grant.check_manages()
        return self.tokens.page(limit, after, by.project or project)

    def revoke(self, by: Caller, name: str, within: Session) -> Token:
        """Take a token back, and its sessions with it. Raises `NotAllowed` and `UnknownToken`."""
        by.grant.check_manages()
        if name in self.callers.names:
            raise InvalidValue(
                "name", name, "a token of YOSO_TOKENS, which is removed there", "one of `yoso token list`"
            )
        return self.tokens.revoke(name, by.project, within)

    def sign_on(self, grant: Grant, claims: Mapping[str, Any], address: str) -> str:
        """A session for a browser whose user a provider has told of, in `claims`."""
        assert self.settings.sign_on is not None
        key = digest("\n".join((self.settings.sign_on.issuer, claims["sub"], grant.project, grant.role)))
        with writing(self.entries.engine) as session:
            told = self._of_person(claims, address) | {"role": grant.role}
            note(session, Action.SIGNED_IN, grant.confined_to, f"person/{grant.name}", told, by=grant.name)
            return self.callers.logins.begin(key, within=session, person=grant)

    def sign_in(self, caller: Caller, key: str, how: str, address: str) -> str:
        """A session for a browser that has shown a token, or a link of one; `key` is the token's hash."""
        with writing(self.entries.engine) as session:
            told = {"how": how, "address": address}
            note(session, Action.SIGNED_IN, caller.project, f"token/{caller.name}", told, by=caller.name)
            return self.callers.logins.begin(key, within=session)

    def sign_out(self, caller: Caller | None, browser: str) -> None:
        """End the session that a browser has, if it has one."""
        with writing(self.entries.engine) as session:
            if caller is not None:
                kind = "person" if caller.grant.person else "token"
                note(session, Action.SIGNED_OUT, caller.project, f"{kind}/{caller.name}", by=caller.name)
            self.callers.logins.end(browser, session)
        self.callers.forget(session=browser)

    def refused(self, token: str, how: str, address: str) -> None:
        """Count a token, or the code of a link, that opens nothing; the log and at times the audit log tell of it.

        An expired token is told by its name. That the database is away does not matter to whoever is refused.
        """
        count = self.callers.guesses.failed(address)
        if not count:
            return
        expired = self.callers.expired(digest(token))
        told: dict[str, Any] = {"how": how, "address": address, "within_a_minute": count}
        told |= {"why": "it has expired" if expired is not None else "no such token"}
        project = expired.confined_to if expired is not None else None
        self._note_refused(project, f"token/{expired.name}" if expired is not None else None, told)

    def refused_to_sign_on(self, why: str, claims: Mapping[str, Any], address: str) -> None:
        """Count a sign-on that came to nothing, and tell of it likewise; `claims` are of who it was, where known."""
        count = self.callers.guesses.failed(
            address, f"{claims['sub']!r} signed on: {why}" if claims else f"signing on: {why}"
        )
        if count:
            self._note_refused(None, None, self._of_person(claims, address) | {"within_a_minute": count, "why": why})

    def _of_person(self, claims: Mapping[str, Any], address: str) -> dict[str, Any]:
        """What the audit log has of somebody who signs on."""
        return {"how": "oidc", "address": address, "subject": claims.get("sub"), "email": claims.get("email")}

    def _note_refused(self, project: str | None, about: str | None, told: Mapping[str, Any]) -> None:
        try:
            with writing(self.entries.engine) as session:
                note(session, Action.SIGN_IN_REFUSED, project, about, told)
        except SQLAlchemyError as error:
            if not is_away(error):
                raise
            log.warning("this is missing in the audit log: the database is unavailable")

    def audit(self, by: Caller, limit: int, after: tuple[float, int] | None, asked: Asked) -> Sequence[AuditEntry]:
        """At most `limit` entries of what `by` may know of, newest first, behind a time and number.

        Raises `NotAllowed`.
        """
        by.grant.check_manages()
        if by.project is not None and asked.project not in (None, by.project):
            raise NotAllowed(f"{by.grant.whose} is of the project {by.project} alone.")
        return self.entries.page(limit, after, replace(asked, project=by.project or asked.project))
