"""Webhooks: URLs that are told what becomes of a project's searches and sweeps, managed by its admins."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from service import answers
from service.api.tokens import FORBIDDEN
from service.domain.receivers import ENDS, Event
from service.domain.request import Text
from service.use_cases import webhooks
from service.web.context import CallerDep, ContextDep
from service.web.described import PROBLEMS, UNKNOWN
from service.web.idempotency import KeyDep, done

router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"], responses=PROBLEMS)
_Event = Annotated[Event, Field(strict=False)]


class NewWebhook(BaseModel):
    """A webhook to be made."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Text = Field(
        description="Where to send messages (not an internal address): by POST for http and https, as text "
        "for notifications such as mailto:// or slack://."
    )
    events: list[_Event] = Field(list(ENDS), min_length=1, description="The events to send.")
    project: Text | None = Field(None, description="Default: the caller's own.")


@router.post("", status_code=201, responses=FORBIDDEN)
def make(wanted: NewWebhook, service: ContextDep, caller: CallerDep) -> answers.MadeWebhook:
    """Create a webhook.

    Only this answer contains its secret, and an `Idempotency-Key` cannot repeat the answer. If it was lost, delete the
    webhook and create another.
    """
    return webhooks.make(service, caller, wanted.url, wanted.events, wanted.project)


@router.get("", responses=FORBIDDEN)
def browse(
    service: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Text = "",
    project: Text | None = None,
) -> answers.WebhookPage:
    """Webhooks by ID, a page at a time; with a project's token only those of the project."""
    return webhooks.browse(service, caller, limit, after, project)


@router.delete("/{webhook_id}", response_model=answers.Webhook, responses=FORBIDDEN | UNKNOWN)
def delete(webhook_id: Text, service: ContextDep, caller: CallerDep, key: KeyDep) -> Response:
    """Delete a webhook with its messages, sent and pending."""
    return done(webhooks.delete(service, caller, webhook_id, key))


@router.post("/{webhook_id}/test", status_code=202, response_model=answers.Delivery, responses=FORBIDDEN | UNKNOWN)
def test(webhook_id: Text, service: ContextDep, caller: CallerDep, key: KeyDep) -> Response:
    """Send a test message once. Success turns on a webhook that was switched off."""
    return done(webhooks.test(service, caller, webhook_id, key), 202)


@router.get("/{webhook_id}/deliveries", responses=FORBIDDEN | UNKNOWN)
def deliveries(
    webhook_id: Text,
    service: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Text | None = None,
) -> answers.DeliveryPage:
    """Sent and pending messages of a webhook with their results, newest first, a page at a time."""
    return webhooks.deliveries(service, caller, webhook_id, limit, after)
