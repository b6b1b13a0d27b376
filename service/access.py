"""What is done about tokens, whoever asks for it: the API and the pages both come here.

Rules about what a token may open are `service.domain.grants`'s, queries `service.store.tokens`'s.
"""

import time
from collections.abc import Sequence

from sqlalchemy.orm import Session

from nas_core.errors import InvalidValue
from service.api.callers import Caller, Callers
from service.domain.grants import EVERY_PROJECT, NAME, Grant, Role, end_of
from service.settings import Settings
from service.store.models import Token
from service.store.tokens import NameTaken


class Access:
    """The tokens of a service, as an admin manages them."""

    def __init__(self, settings: Settings, callers: Callers) -> None:
        self.settings, self.callers, self.tokens = settings, callers, callers.tokens

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
                "YOSO_DATA_ROOTS", None, "whoever has a token could read any folder of this machine", "folders of data"
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
