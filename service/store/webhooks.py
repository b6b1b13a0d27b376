"""Webhooks: who is to be told what, what they were told, and what is to be sent next.

Whoever sends holds a webhook's lease meanwhile, so that of several processes one does; who dies leaves it to run out,
and what it had sent and not noted is sent again, under the same id.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, and_, delete, exists, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from service.domain.receivers import PAUSES, Event, new_secret
from service.store import audit, changes, outbox
from service.store.audit import Action
from service.store.database import reading, writing
from service.store.models import Delivery, Project, Webhook
from service.store.projects import OverQuota, admit_to_queue

MOST_OF_PROJECT = 10
TEST = "test"
"""The kind of messages that were asked for: sent once, also to a webhook that is switched off."""
LEASE_SECONDS = 60.0
"""Longer than sending some messages takes (`service.dispatch.webhooks`)."""
AT_ONCE = 8
"""Messages that are sent to one webhook at once."""
GONE = 410
TAKEN, GIVEN_UP = "taken", "given_up"
SENT, REFUSED = "webhook_taken", "webhook_refused"
"""The counters of attempts, by whether the receiver took the message."""
ABANDONED = "webhook_given_up"
"""The counter of messages that were given up, tests apart."""


class UnknownWebhook(LookupError):
    """No webhook of that id, or not in the asker's project."""


@dataclass(frozen=True)
class Attempt:
    """What came of sending a message once: seconds, the status of the answer, if any, and why it was not accepted."""

    message_id: str
    seconds: float
    status: int | None
    reason: str | None


@dataclass(frozen=True)
class Batch:
    """Messages that this process is to send to a webhook now, with the token of the lease."""

    webhook_id: str
    url: str
    secret: str
    lease_token: str
    messages: Sequence[tuple[str, Mapping[str, Any]]]
    """Ids and documents."""

    def __repr__(self) -> str:
        return f"Batch({self.webhook_id}, {len(self.messages)})"


class WebhookStore:
    """The webhooks in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # What admins do

    def make(
        self, project: str, url: str, host: str, events: Sequence[Event], within: Session, shown: str | None = None
    ) -> Webhook:
        """A new webhook with a secret of its own, or a notification, which has none and is `shown` so.

        The audit log has its `host`, or the scheme of a notification. Raises `OverQuota`.
        """
        admit_to_queue(within, project, 0)  # which makes sure that there is a row to lock
        within.execute(select(Project.name).where(Project.name == project).with_for_update())
        count = within.execute(select(func.count()).where(Webhook.project == project)).scalar_one()
        if count >= MOST_OF_PROJECT:
            told = f"has {count} webhooks and may have {MOST_OF_PROJECT}"
            raise OverQuota(project, told, "a new one once another is deleted")
        webhook = Webhook(
            id=changes.new_id(),
            project=project,
            url=url,
            events=list(dict.fromkeys(events)),
            secret=new_secret() if shown is None else "",
            shown=shown,
            created_by=changes.BY.get(),
            created_at=changes.time_of(within),
            leased_until=0.0,
        )
        within.add(webhook)
        within.flush()
        _audit(within, Action.WEBHOOK_MADE, webhook, {"host" if shown is None else "scheme": host})
        return webhook

    def get(self, webhook_id: str, project: str | None, within: Session, lock: bool = False) -> Webhook:
        """The webhook of that id; one of `project`, or of any. Raises `UnknownWebhook`."""
        webhook = within.get(Webhook, webhook_id, with_for_update=lock or None)
        if webhook is None or project not in (None, webhook.project):
            raise UnknownWebhook(webhook_id)
        return webhook

    def delete(self, webhook_id: str, project: str | None, within: Session) -> Webhook:
        """Delete a webhook with what it was told and is to be told. Raises `UnknownWebhook`."""
        webhook = self.get(webhook_id, project, within, lock=True)
        within.execute(delete(Delivery).where(Delivery.webhook_id == webhook_id))
        within.delete(webhook)
        _audit(within, Action.WEBHOOK_DELETED, webhook)
        return webhook

    def test(self, webhook_id: str, project: str | None, within: Session) -> Delivery:
        """A message that says nothing, to be sent at once. Raises `UnknownWebhook`."""
        webhook = self.get(webhook_id, project, within)
        made = Delivery(**outbox.delivery(webhook.id, TEST, {"project": webhook.project}, changes.time_of(within)))
        within.add(made)
        within.flush()
        _audit(within, Action.WEBHOOK_TESTED, webhook)
        return made

    def page(self, limit: int, after: str = "", project: str | None = None) -> Sequence[Webhook]:
        """At most `limit` webhooks behind the id `after`, by id; those of `project` or all."""
        query = select(Webhook).where(Webhook.id > after).order_by(Webhook.id).limit(limit)
        if project is not None:
            query = query.where(Webhook.project == project)
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def deliveries(
        self, webhook_id: str, project: str | None, limit: int, after: tuple[float, str] | None = None
    ) -> Sequence[Delivery]:
        """At most `limit` messages to a webhook, newest first, from behind the (time, id) `after`.

        Raises `UnknownWebhook`.
        """
        query = select(Delivery).where(Delivery.webhook_id == webhook_id)
        if after is not None:
            query = query.where(tuple_(Delivery.created_at, Delivery.id) < tuple_(*after))
        with reading(self.engine) as session:
            self.get(webhook_id, project, session)
            return session.scalars(query.order_by(Delivery.created_at.desc(), Delivery.id.desc()).limit(limit)).all()

    # What whoever sends does

    def claim(self, limit: int) -> list[Batch]:
        """What is to be sent now to at most `limit` webhooks that nobody else sends to, with their leases.

        Those come first that were sent to longest ago.
        """
        with reading(self.engine) as session:  # mostly there is nothing, and to find that out should lock nothing
            if session.execute(select(Webhook.id).where(*_due(changes.time_of(session))).limit(1)).first() is None:
                return []
        with writing(self.engine) as session:
            time = changes.time_of(session)
            free = select(Webhook).where(*_due(time)).order_by(Webhook.leased_until, Webhook.id).limit(limit)
            claimed = []
            for webhook in session.scalars(free.with_for_update(skip_locked=True)):
                webhook.leased_until, webhook.lease_token = time + LEASE_SECONDS, secrets.token_hex(16)
                due = select(Delivery.id, Delivery.document).where(Delivery.webhook_id == webhook.id, _is_due(time))
                rows = session.execute(due.order_by(Delivery.due_at, Delivery.id).limit(AT_ONCE)).all()
                messages = [(row.id, row.document) for row in rows]
                claimed.append(Batch(webhook.id, webhook.url, webhook.secret, webhook.lease_token, messages))
            return claimed

    def note(self, batch: Batch, attempts: Sequence[Attempt]) -> str | None:
        """Note what came of the messages of a batch, and give the lease back.

        Returns why the webhook was switched off, if it was: because the receiver is gone, or has taken nothing in
        all the time in which a message was tried.
        """
        with writing(self.engine) as session:
            webhook = session.get(Webhook, batch.webhook_id, with_for_update=True)
            if webhook is None:
                return None
            time, off, lost = changes.time_of(session), None, 0
            if webhook.lease_token == batch.lease_token:
                webhook.leased_until, webhook.lease_token = time, None
            for attempt in sorted(attempts, key=lambda attempt: attempt.reason is not None):
                message = session.get(Delivery, attempt.message_id, with_for_update=True)
                if message is None or message.due_at is None:
                    continue  # another has sent it meanwhile
                told = {"time": time, "status": attempt.status, "seconds": attempt.seconds, "reason": attempt.reason}
                message.attempts = [*message.attempts, told]
                off = _conclude(webhook, message, attempt, time) or off
                lost += message.outcome == GIVEN_UP and message.kind != TEST
            refused = sum(attempt.reason is not None for attempt in attempts)
            if off is not None:
                lost += _switch_off(session, webhook, off, time)
            for counter, count in ((REFUSED, refused), (SENT, len(attempts) - refused), (ABANDONED, lost)):
                if count:
                    changes.count(session, counter, count)
            return off

    def forget_old(self, days: float, limit: int) -> None:
        """Delete at most `limit` messages that are older than `days`, the oldest, unless they are still to be sent.

        What is to be sent to no webhook, since that was deleted just then, goes too.
        """
        with writing(self.engine) as session:
            time = changes.time_of(session)
            nobody = ~exists().where(Webhook.id == Delivery.webhook_id)
            past = and_(Delivery.created_at < time - days * 86400.0, or_(Delivery.due_at.is_(None), nobody))
            oldest = select(Delivery.id).where(past).order_by(Delivery.created_at).limit(limit)
            session.execute(delete(Delivery).where(Delivery.id.in_(oldest.scalar_subquery())))


def _is_due(time: float) -> Any:
    """Whether a message is to be sent at the database's `time`; it is too where that clock was put back since."""
    return and_(Delivery.due_at.is_not(None), or_(Delivery.due_at <= time, Delivery.due_at > time + max(PAUSES)))


def _due(time: float) -> tuple[Any, ...]:
    free = or_(Webhook.leased_until <= time, Webhook.leased_until > time + LEASE_SECONDS)
    return free, exists().where(Delivery.webhook_id == Webhook.id, _is_due(time))


def _conclude(webhook: Webhook, message: Delivery, attempt: Attempt, time: float) -> str | None:
    """What becomes of a message that was just sent; returns why the webhook is to be switched off, if it is."""
    if attempt.reason is None:
        message.due_at, message.outcome = None, TAKEN
        webhook.taken_at = time
        if message.kind == TEST:
            webhook.off_at = webhook.off_reason = None
        return None
    tries = len(message.attempts)
    last = message.kind == TEST or tries > len(PAUSES) or attempt.status == GONE
    message.due_at, message.outcome = (None, GIVEN_UP) if last else (time + PAUSES[tries - 1], None)
    if attempt.status == GONE:
        return "it answered 410: the receiver is permanently gone"
    if last and message.kind != TEST and (webhook.taken_at is None or webhook.taken_at < message.created_at):
        return f"it has taken nothing for {len(PAUSES) + 1} attempts in a row over 22 hours; the last: {attempt.reason}"
    return None


def _switch_off(session: Session, webhook: Webhook, reason: str, time: float) -> int:
    """Give up what waits for a webhook, and say why; returns how many messages that is."""
    waiting = update(Delivery).where(Delivery.webhook_id == webhook.id, Delivery.due_at.is_not(None))
    session.flush()
    given_up = waiting.values(due_at=None, outcome=GIVEN_UP).returning(Delivery.id)
    count = len(session.execute(given_up.execution_options(synchronize_session=False)).all())
    if webhook.off_at is None:
        webhook.off_at, webhook.off_reason = time, reason
        _audit(session, Action.WEBHOOK_SWITCHED_OFF, webhook, {"reason": reason})
    return count


def _audit(session: Session, action: Action, webhook: Webhook, data: Mapping[str, Any] | None = None) -> None:
    audit.note(session, action, webhook.project, f"webhook/{webhook.id}", data)
