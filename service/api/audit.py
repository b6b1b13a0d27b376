"""The audit log, for admins: who did what, and when."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from nas_core.errors import InvalidValue
from service import answers
from service.api.tokens import FORBIDDEN
from service.domain.request import Text
from service.store.audit import Action, Asked
from service.use_cases.views import place, position, view_entry
from service.web.context import CallerDep, ContextDep
from service.web.described import PROBLEMS

router = APIRouter(prefix="/api/v1/audit", tags=["audit"], responses=PROBLEMS)
When = Annotated[Text | None, Query(description="A date or a time (ISO 8601), in UTC without an offset.")]


@router.get("", responses=FORBIDDEN)
def browse(
    service: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Text | None = None,
    project: Text | None = None,
    by: Text | None = None,
    action: Action | None = None,
    about: Annotated[
        Text | None, Query(description="Such as search/ID, sweep/ID, token/NAME, person/NAME, project/NAME.")
    ] = None,
    since: When = None,
    until: When = None,
) -> answers.AuditPage:
    """The audit log, newest first, a page at a time; with a project's token only that of the project."""
    asked = Asked(project, by, action, about, moment("since", since), moment("until", until))
    behind = place(after) if after else None
    if behind is not None and not behind[1].isdecimal():
        raise InvalidValue("after", after, "not a place in the log", "what an earlier page gave as `next`")
    found = service.access.audit(caller, limit + 1, (behind[0], int(behind[1])) if behind else None, asked)
    shown = found[:limit]
    further = position(shown[-1].time, str(shown[-1].id)) if len(found) > limit else None
    return answers.AuditPage(items=[view_entry(entry) for entry in shown], next=further)


def moment(field: str, text: str | None) -> float | None:
    """A time in seconds since 1970. Raises `InvalidValue` for a text that is none."""
    if text is None:
        return None
    try:
        told = datetime.fromisoformat(text)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidValue(field, text, "not a time", "such as 2027-01-31 or 2027-01-31T12:00Z") from error
