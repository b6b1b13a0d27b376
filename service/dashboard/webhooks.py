"""Webhooks and notifications of a project, or of all: make one, see what it was told, try it, delete it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from nas_core.errors import InvalidValue
from service.callers import Caller
from service.dashboard.frame import ViewerDep, page
from service.dashboard.submit import FormDep
from service.domain.receivers import ENDS, Event
from service.domain.request import Text
from service.store.projects import OverQuota
from service.use_cases import webhooks
from service.web.context import CallerDep, Context, ContextDep

MOST_SHOWN = 100
router = APIRouter(include_in_schema=False)


@router.get("/webhooks")
def webhooks_page(
    request: Request, service: ContextDep, project: ViewerDep, caller: CallerDep, after: Text = ""
) -> Response:
    """The webhooks, and a form for another."""
    return shown(request, service, caller, after=after)


@router.post("/webhooks")
def make(request: Request, service: ContextDep, project: ViewerDep, caller: CallerDep, form: FormDep) -> Response:
    """Make a webhook, and show its secret, this once."""
    filled = {field: form.get(field, [""])[0].strip() for field in ("url", "project")}
    events = form.get("event", [])
    try:
        if not events or not set(events) <= set(Event):
            raise InvalidValue("event", ", ".join(events), "no valid events are selected", ", ".join(Event))
        told = [Event(event) for event in events]
        made = webhooks.make(service, caller, filled["url"], told, filled["project"] or None)
    except InvalidValue as problem:
        return shown(request, service, caller, 422, filled, events, problem)
    except OverQuota as full:
        too_many = InvalidValue("project", full.project, str(full), full.accepted)
        return shown(request, service, caller, 403, filled, events, too_many)
    return shown(request, service, caller, made=made["id"], secret=made["secret"] or "")


@router.get("/webhooks/{webhook_id}")
def webhook_page(
    request: Request, service: ContextDep, project: ViewerDep, caller: CallerDep, webhook_id: Text
) -> Response:
    """What a webhook was told last, and what came of it."""
    found = webhooks.deliveries(service, caller, webhook_id, MOST_SHOWN)
    return page("webhook.html", request, hook=webhooks.look(service, caller, webhook_id), deliveries=found["items"])


@router.post("/webhooks/{webhook_id}/test")
def test(service: ContextDep, project: ViewerDep, caller: CallerDep, webhook_id: Text) -> Response:
    """Send a message that says nothing."""
    webhooks.test(service, caller, webhook_id)
    return RedirectResponse(f"/webhooks/{webhook_id}", 303)


@router.post("/webhooks/{webhook_id}/delete")
def delete(service: ContextDep, project: ViewerDep, caller: CallerDep, webhook_id: Text) -> Response:
    """Delete a webhook, with what it was told."""
    webhooks.delete(service, caller, webhook_id)
    return RedirectResponse("/webhooks", 303)


def shown(
    request: Request,
    service: Context,
    caller: Caller,
    code: int = 200,
    filled: Mapping[str, str] | None = None,
    events: Sequence[str] = ENDS,
    problem: InvalidValue | None = None,
    after: str = "",
    **made: Any,
) -> Response:
    """The page. Raises `NotAllowed`."""
    found = webhooks.browse(service, caller, MOST_SHOWN, after)
    return page(
        "webhooks.html",
        request,
        code,
        hooks=found["items"],
        next=found["next"],
        filled={"url": "", "project": ""} | dict(filled or {}),
        all_events=[event.value for event in Event],
        events=list(events),
        problem=problem,
        own=caller.project,
        **({"made": "", "secret": ""} | made),
    )
