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
        description="Where messages are sent, and no address inside: by POST for http and https, and in words for a "
        "notification's, such as mailto:// or slack://."
    )
    events: list[_Event] = Field(list(ENDS), min_length=1, description="The events that it receives.")
    project: Text | None = Field(None, description="Whose searches and sweeps; by default the caller's own.")


@router.post("", status_code=201, responses=FORBIDDEN)
def make(wanted: NewWebhook, service: ContextDep, caller: CallerDep) -> answers.MadeWebhook:
    """Make a webhook.

    Its secret is in this answer alone. So no `Idempotency-Key` can have the answer given again: where it was lost,
    delete the webhook and make another.
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
    """Webhooks by id, a page at a time; with a project's token those of the project alone."""
    return webhooks.browse(service, caller, limit, after, project)


@router.delete("/{webhook_id}", response_model=answers.Webhook, responses=FORBIDDEN | UNKNOWN)
def delete(webhook_id: Text, service: ContextDep, caller: CallerDep, key: KeyDep) -> Response:
    """Delete a webhook, with what it was told and what was still to be sent."""
    return done(webhooks.delete(service, caller, webhook_id, key))


@router.post("/{webhook_id}/test", status_code=202, response_model=answers.Delivery, responses=FORBIDDEN | UNKNOWN)
def test(webhook_id: Text, service: ContextDep, caller: CallerDep, key: KeyDep) -> Response:
    """Send a message that says nothing, once. If it is taken, a webhook that was switched off is on again."""
    return done(webhooks.test(service, caller, webhook_id, key), 202)


@router.get("/{webhook_id}/deliveries", responses=FORBIDDEN | UNKNOWN)
def deliveries(
    webhook_id: Text,
    service: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Text | None = None,
) -> answers.DeliveryPage:
    """What was sent to a webhook and is to be sent, newest first, a page at a time, with what came of it."""
    return webhooks.deliveries(service, caller, webhook_id, limit, after)
