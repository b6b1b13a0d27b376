"""Webhooks: URLs that are told what becomes of a project's searches and sweeps, managed by its admins."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from service.api.context import CallerDep, ContextDep
from service.api.idempotency import KeyDep, once
from service.api.searches import PROBLEMS, UNKNOWN
from service.api.tokens import FORBIDDEN
from service.api.views import iso, place, position
from service.domain.receivers import ENDS, Event
from service.domain.request import Text
from service.store.database import writing
from service.store.idempotency import Answer
from service.store.models import Delivery, Webhook

router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"], responses=PROBLEMS)
_Event = Annotated[Event, Field(strict=False)]


class NewWebhook(BaseModel):
    """A webhook to be made."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Text = Field(
        description="Where messages are sent, and no address inside: by POST for http and https, and in words for a "
        "notification's, such as mailto:// or slack://."
    )
    events: list[_Event] = Field(list(ENDS), min_length=1, description="The events that it receives.")
    project: Text | None = Field(None, description="Whose searches and sweeps; by default the caller's own.")


class WebhookView(BaseModel):
    """A webhook, without its secret."""

    id: str
    project: str
    url: str
    """That of a notification without what is secret in it."""
    events: list[str]
    created_by: str | None
    created_at: str
    taken_at: str | None
    """When it last took a message."""
    off_at: str | None
    """Since when it is switched off; None where it is on."""
    off_reason: str | None


class MadeWebhook(WebhookView):
    """A webhook that was just made."""

    secret: str | None
    """What its messages are signed with, for the receiver; it is told here and nowhere again. Notifications: None."""


class WebhookPage(BaseModel):
    """A page of webhooks, by id; `next` asks for the following one, as `after`."""

    items: list[WebhookView]
    next: str | None


class DeliveryAttempt(BaseModel):
    """What came of sending a message once."""

    time: str
    status: int | None
    """Of the answer; None where there was none."""
    seconds: float
    reason: str | None
    """Why it was not taken; None where it was."""


class DeliveryView(BaseModel):
    """A message to a webhook."""

    id: str
    """What the header `webhook-id` says."""
    type: str
    """Such as search.succeeded, sweep.failed or test."""
    document: dict[str, Any]
    """What is sent; links are below `YOSO_PUBLIC_URL` then, where that is set."""
    created_at: str
    due_at: str | None
    """When it is to be sent (again)."""
    outcome: str | None
    """`taken`, `given_up`, or None while it is to be sent."""
    attempts: list[DeliveryAttempt]


class DeliveryPage(BaseModel):
    """A page of messages to a webhook, newest first; `next` asks for the following one, as `after`."""

    items: list[DeliveryView]
    next: str | None


@router.post("", status_code=201, responses=FORBIDDEN)
def make(wanted: NewWebhook, service: ContextDep, caller: CallerDep) -> MadeWebhook:
    """Make a webhook.

    Its secret is in this answer alone. So no `Idempotency-Key` can have the answer given again: where it was lost,
    delete the webhook and make another.
    """
    project, shown = service.webhooks.check(caller, wanted.url, wanted.project)
    with writing(service.searches.engine) as session:
        made = service.webhooks.make(project, wanted.url, wanted.events, session, shown)
    return MadeWebhook(**view(made).model_dump(), secret=made.secret or None)


@router.get("", responses=FORBIDDEN)
def browse(
    service: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Text = "",
    project: Text | None = None,
) -> WebhookPage:
    """Webhooks by id, a page at a time; with a project's token those of the project alone."""
    found = service.webhooks.page(caller, limit + 1, after, project)
    shown = found[:limit]
    return WebhookPage(items=[view(one) for one in shown], next=shown[-1].id if len(found) > limit else None)


@router.delete("/{webhook_id}", response_model=WebhookView, responses=FORBIDDEN | UNKNOWN)
def delete(webhook_id: Text, service: ContextDep, caller: CallerDep, key: KeyDep) -> Response:
    """Delete a webhook, with what it was told and what was still to be sent."""

    def do(session: Session) -> Answer:
        return Answer(200, view(service.webhooks.delete(caller, webhook_id, session)).model_dump(mode="json"))

    return once(service, key, do)


@router.post("/{webhook_id}/test", status_code=202, response_model=DeliveryView, responses=FORBIDDEN | UNKNOWN)
def test(webhook_id: Text, service: ContextDep, caller: CallerDep, key: KeyDep) -> Response:
    """Send a message that says nothing, once. If it is taken, a webhook that was switched off is on again."""

    def do(session: Session) -> Answer:
        return Answer(202, view_delivery(service.webhooks.test(caller, webhook_id, session)).model_dump(mode="json"))

    return once(service, key, do)


@router.get("/{webhook_id}/deliveries", responses=FORBIDDEN | UNKNOWN)
def deliveries(
    webhook_id: Text,
    service: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Text | None = None,
) -> DeliveryPage:
    """What was sent to a webhook and is to be sent, newest first, a page at a time, with what came of it."""
    found = service.webhooks.deliveries(caller, webhook_id, limit + 1, place(after) if after else None)
    shown = found[:limit]
    further = position(shown[-1].created_at, shown[-1].id) if len(found) > limit else None
    return DeliveryPage(items=[view_delivery(one) for one in shown], next=further)


def view(webhook: Webhook) -> WebhookView:
    """What the API says of a webhook."""
    times = {name: getattr(webhook, name) for name in ("taken_at", "off_at")}
    return WebhookView(
        id=webhook.id,
        project=webhook.project,
        url=webhook.url if webhook.shown is None else webhook.shown,
        events=webhook.events,
        created_by=webhook.created_by,
        created_at=iso(webhook.created_at),
        off_reason=webhook.off_reason,
        **{name: iso(time) if time is not None else None for name, time in times.items()},
    )


def view_delivery(message: Delivery) -> DeliveryView:
    """What the API says of a message."""
    return DeliveryView(
        id=message.id,
        type=message.kind,
        document=message.document,
        created_at=iso(message.created_at),
        due_at=iso(message.due_at) if message.due_at is not None else None,
        outcome=message.outcome,
        attempts=[DeliveryAttempt(**one | {"time": iso(one["time"])}) for one in message.attempts],
    )
