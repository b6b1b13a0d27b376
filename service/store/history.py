"""How long searches took that have succeeded on this cluster: what estimates of new ones follow from."""

import threading
from operator import attrgetter
from typing import Any

from cachetools import LRUCache, TTLCache, cachedmethod
from sqlalchemy import Engine, func, select

from nas_core.errors import InvalidValue
from nas_core.search.forecast import forecast
from nas_core.spec import SearchSpec
from service.domain.estimates import Ran
from service.domain.lifecycle import Status
from service.store.database import FRESH_SECONDS, reading
from service.store.models import Attempt, Search

REMEMBERED = 200
"""How many of the newest searches that have succeeded are looked at."""
_NEWEST = (
    select(Search.id)
    .where(Search.kind == "search", Search.status == Status.SUCCEEDED)
    .order_by(Search.created_at.desc(), Search.id.desc())
    .limit(REMEMBERED)
)


class History:
    """The newest searches that have succeeded in the database behind `engine`, of all projects."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._known: LRUCache[str, Ran | None] = LRUCache(2 * REMEMBERED)
        """What has ended stays as it is, so each is read once."""
        self._newest: TTLCache[Any, list[Ran]] = TTLCache(1, FRESH_SECONDS)
        self._reading = threading.Lock()

    @cachedmethod(attrgetter("_newest"), lock=attrgetter("_reading"))
    def searches(self) -> list[Ran]:
        """What they were and took, now or `FRESH_SECONDS` ago.

        What a specification of another release means is not known, and left out.
        """
        with reading(self.engine) as session:
            ids = list(session.scalars(_NEWEST))
            unknown = [one for one in ids if one not in self._known]
            if unknown:
                took = (
                    select(Attempt.search_id, func.sum(Attempt.ended_at - Attempt.started_at).label("seconds"))
                    .where(Attempt.search_id.in_(unknown))
                    .group_by(Attempt.search_id)
                    .subquery()
                )
                columns = (Search.id, Search.spec, Search.workers, took.c.seconds)
                for found in session.execute(select(*columns).join(took, took.c.search_id == Search.id)):
                    self._known[found.id] = _ran(found.spec, found.workers, found.seconds)
        return [ran for one in ids if (ran := self._known.get(one)) is not None]


def _ran(values: dict[str, Any], workers: int, seconds: float | None) -> Ran | None:
    """A search that has run; None where its specification does not tell its cost."""
    try:
        spec = SearchSpec.from_dict(values)
        multiply_adds = forecast(spec).multiply_adds
    except (InvalidValue, KeyError, TypeError, ValueError):
        return None
    if not seconds or seconds <= 0 or multiply_adds <= 0:
        return None
    return Ran(multiply_adds, seconds, workers, spec.cpus_per_worker, spec.gpus_per_worker, spec.accelerator_type)
