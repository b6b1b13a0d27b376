"""The audit log: who did what, and when, a row for everything that somebody asked for.

It is written in the transaction that does what was asked, so that neither is there without the other. The events of a
search tell more of what became of it, but they are no log of what people did: they go when the search is deleted, those
of a sweep tell one request as hundreds, and what is about no search is not among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, insert, select, tuple_
from sqlalchemy.orm import Session

from service.store import changes
from service.store.database import reading
from service.store.models import AuditEntry


class Action(StrEnum):
    """What is noted."""

    SIGNED_IN = "signed_in"
    SIGN_IN_REFUSED = "sign_in_refused"
    SIGNED_OUT = "signed_out"
    TOKEN_MADE = "token_made"
    TOKEN_REVOKED = "token_revoked"
    SUBMITTED = "submitted"
    EXTENDED = "extended"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    RESUMED = "resumed"
    RETRIED = "retried"
    DESCRIBED = "described"
    DELETED = "deleted"
    PROJECT_CHANGED = "project_changed"
    WEBHOOK_MADE = "webhook_made"
    WEBHOOK_TESTED = "webhook_tested"
    WEBHOOK_DELETED = "webhook_deleted"
    WEBHOOK_SWITCHED_OFF = "webhook_switched_off"
    RESTORED = "restored"
    """The whole database, from a backup: what happened after that was made is not in the log."""


@dataclass(frozen=True)
class Asked:
    """Which entries are asked for; `since` and `until` are in seconds since 1970, and None asks for any."""

    project: str | None = None
    by: str | None = None
    action: Action | None = None
    about: str | None = None
    since: float | None = None
    until: float | None = None


def note(
    session: Session,
    action: Action,
    project: str | None,
    about: str | None,
    data: Mapping[str, Any] | None = None,
    time: float | None = None,
    by: str | None = None,
) -> None:
    """Note that somebody did something `about`, such as search/ID, in the caller's transaction.

    It is done in the name of the request's token unless `by` says otherwise; where nobody asked, by the service itself.
    """
    time = changes.time_of(session) if time is None else time
    name = changes.BY.get() if by is None else by
    values = {"time": time, "by": name, "action": action, "project": project, "about": about, "data": dict(data or {})}
    session.connection().execute(insert(AuditEntry), values)  # nobody needs it back, which would take longer


class Audit:
    """The audit log in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def page(self, limit: int, after: tuple[float, int] | None, asked: Asked) -> Sequence[AuditEntry]:
        """At most `limit` entries that are asked for, newest first, from behind the time and number `after`."""
        query = select(AuditEntry).order_by(AuditEntry.time.desc(), AuditEntry.id.desc()).limit(limit)
        for column in ("project", "by", "action", "about"):
            if (value := getattr(asked, column)) is not None:
                query = query.where(getattr(AuditEntry, column) == value)
        if asked.since is not None:
            query = query.where(AuditEntry.time >= asked.since)
        if asked.until is not None:
            query = query.where(AuditEntry.time < asked.until)
        if after is not None:
            query = query.where(tuple_(AuditEntry.time, AuditEntry.id) < tuple_(*after))
        with reading(self.engine) as session:
            return session.scalars(query).all()
