"""Webhooks and notifications: made, shown with what they were told, tried and deleted by admins."""

from collections.abc import Sequence

from service import answers
from service.callers import Caller
from service.domain.receivers import Event
from service.store.database import writing
from service.store.idempotency import Key
from service.use_cases.once import Done, once
from service.use_cases.service import Service
from service.use_cases.views import place, position, view_delivery, view_webhook


def make(
    service: Service, caller: Caller, url: str, events: Sequence[Event], project: str | None
) -> answers.MadeWebhook:
    """A new webhook; its secret is told this once. Raises `InvalidValue`, `NotAllowed` and `OverQuota`."""
    project, shown = service.webhooks.check(caller, url, project)
    with writing(service.searches.engine) as session:
        made = service.webhooks.make(project, url, events, session, shown)
    return answers.MadeWebhook(**view_webhook(made), secret=made.secret or None)


def browse(
    service: Service, caller: Caller, limit: int, after: str = "", project: str | None = None
) -> answers.WebhookPage:
    """At most `limit` webhooks by id, from behind `after`. Raises `NotAllowed`."""
    found = service.webhooks.page(caller, limit + 1, after, project)
    shown = found[:limit]
    return answers.WebhookPage(
        items=[view_webhook(one) for one in shown], next=shown[-1].id if len(found) > limit else None
    )


def look(service: Service, caller: Caller, webhook_id: str) -> answers.Webhook:
    """One webhook. Raises `NotAllowed` and `UnknownWebhook`."""
    return view_webhook(service.webhooks.get(caller, webhook_id))


def delete(service: Service, caller: Caller, webhook_id: str, key: Key | None = None) -> Done[answers.Webhook]:
    """Delete a webhook, with what it was told and what was still to be sent.

    Raises `NotAllowed`, `UnknownWebhook` and `KeyReused`.
    """
    return once(service, key, lambda session: view_webhook(service.webhooks.delete(caller, webhook_id, session)))


def test(service: Service, caller: Caller, webhook_id: str, key: Key | None = None) -> Done[answers.Delivery]:
    """Send a message that says nothing, once. If it is taken, a webhook that was switched off is on again.

    Raises `NotAllowed`, `UnknownWebhook` and `KeyReused`.
    """
    return once(
        service, key, lambda session: view_delivery(service.webhooks.test(caller, webhook_id, session)), status=202
    )


def deliveries(
    service: Service, caller: Caller, webhook_id: str, limit: int, after: str | None = None
) -> answers.DeliveryPage:
    """What was sent to a webhook and is to be sent, newest first, with what came of it.

    Raises `NotAllowed`, `UnknownWebhook` and `InvalidValue`.
    """
    found = service.webhooks.deliveries(caller, webhook_id, limit + 1, place(after) if after else None)
    shown = found[:limit]
    return answers.DeliveryPage(
        items=[view_delivery(one) for one in shown],
        next=position(shown[-1].created_at, shown[-1].id) if len(found) > limit else None,
    )
