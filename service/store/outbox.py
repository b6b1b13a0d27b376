"""What webhooks are to be told of, written in the transaction in which it happens (an outbox).

So what is committed is sent, however processes die (`service.dispatch.webhooks`), and nothing is told of what never
came to be. A project without webhooks pays a look into a small table for each of its searches' starts and ends.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, insert, select
from sqlalchemy.orm import Session

from service.domain.lifecycle import TERMINAL, Status
from service.domain.receivers import Event
from service.store.models import Delivery, Project, Search, Sweep, Webhook

_TOLD = frozenset(event.value for event in Event)
_GOING_ON = [status for status in Status if status not in TERMINAL]


def tell(
    session: Session,
    project: str,
    sweep_id: str | None,
    status: Status,
    searches: Sequence[Mapping[str, Any] | RowMapping],
    time: float,
) -> None:
    """Tell the webhooks of a project that searches (`id`, `kind`, `name`, `started_at`), all of one sweep or of none,
    have come to a state; and that their sweep has, where it has with them.
    """
    if status not in _TOLD or not searches:
        return
    query = select(Webhook.id, Webhook.events).where(Webhook.project == project, Webhook.off_at.is_(None))
    with session.no_autoflush:
        hooks = session.execute(query).all()
    if not hooks:
        return
    told = [(status, {"kind": one["kind"], "id": one["id"], "name": one["name"]}) for one in searches]
    if sweep_id is not None and (its := _of_sweep(session, project, sweep_id, status, searches[0], time)) is not None:
        name = session.execute(select(Sweep.name).where(Sweep.id == sweep_id)).scalar_one()
        told.append((its, {"kind": "sweep", "id": sweep_id, "name": name}))
    rows = []
    for state, subject in told:
        data = subject | {"project": project, "status": state, "sweep": sweep_id, "links": _links(subject)}
        for hook in (hook for hook in hooks if state in hook.events):
            rows.append(delivery(hook.id, f"{subject['kind']}.{state}", data, time))
    if rows:
        session.execute(insert(Delivery), rows)


def delivery(webhook_id: str, kind: str, data: Mapping[str, Any], time: float) -> dict[str, Any]:
    """The columns of a message of some kind to a webhook, to be sent at once."""
    message_id = secrets.token_hex(16)
    moment = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    document = {"id": message_id, "type": kind, "timestamp": moment, "data": data}
    row = {"id": message_id, "webhook_id": webhook_id, "kind": kind, "document": document}
    return row | {"created_at": time, "due_at": time, "outcome": None, "attempts": []}


def _links(subject: Mapping[str, Any]) -> dict[str, str]:
    path = f"{'sweeps' if subject['kind'] == 'sweep' else 'searches'}/{subject['id']}"
    return {"api": f"/api/v1/{path}", "page": f"/{path}"}


def _of_sweep(
    session: Session, project: str, sweep_id: str, status: Status, search: Mapping[str, Any] | RowMapping, time: float
) -> Status | None:
    """The state that a sweep has come to with one or more of its searches; None where it has come to none.

    It runs when the first of them does, and ends with the last. Of two that are first or last at the same time the
    second waits for the project's row, as whoever ends an attempt does, and then sees the first.
    """
    of_it = Search.sweep_id == sweep_id
    if status == Status.RUNNING and search["started_at"] != time:
        return None
    session.flush()
    session.execute(select(Project.name).where(Project.name == project).with_for_update())
    if status == Status.RUNNING:
        others = select(Search.id).where(of_it, Search.started_at.is_not(None), Search.id != search["id"])
        return None if session.execute(others.limit(1)).first() else status
    if session.execute(select(Search.id).where(of_it, Search.status.in_(_GOING_ON)).limit(1)).first():
        return None
    states = set(session.scalars(select(Search.status).where(of_it).distinct()))
    return next(state for state in (Status.FAILED, Status.CANCELLED, Status.SUCCEEDED) if state in states)
