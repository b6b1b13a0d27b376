"""Searches: submit, estimate, look at, cancel, retry and delete."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Literal

from sqlalchemy.orm import Session

from nas_core.search.forecast import forecast, training_images
from nas_core.spec import SearchSpec
from service import answers
from service.domain.estimates import Estimate, estimate, warnings
from service.domain.references import left_out
from service.domain.request import NewDescription, SearchRequest, check, without_gpus
from service.store.changes import UnknownSearch
from service.store.idempotency import Key
from service.store.models import Search
from service.store.searches import Wanted
from service.use_cases.once import Done, before, once
from service.use_cases.service import Service
from service.use_cases.views import place, position, view_search

Kind = Literal["search", "finals"]


def seen(service: Service, project: str | None, search_id: str) -> Search:
    """The search, if the caller's project may see it. Raises `UnknownSearch`."""
    search = service.searches.get(search_id)
    if project is not None and search.project != project:
        raise UnknownSearch(search_id)
    return search


def submit(service: Service, request: SearchRequest, project: str | None, key: Key | None) -> Done[answers.Search]:
    """Queue a search for a caller of `project`.

    Everything that can be known to be wrong is refused here, before anything is queued. Raises `InvalidRequest`,
    `InvalidValue`, `StillLooking`, `OverQuota` and `KeyReused`.
    """
    if (done := before(service, key)) is not None:
        return done
    request = service.confined(request, project)
    spec, _, notes = _specified(service, request)
    notes = left_out(spec, spec.budgets, spec.finals.baselines) + notes

    def create(session: Session) -> answers.Search:
        return view_search(service.searches.create(request, spec, session), [], notes=notes)

    return once(service, key, create, 201, "/api/v1/searches/{}")


def expect(service: Service, request: SearchRequest, project: str | None) -> answers.Estimate:
    """How long a search would take, held to the same rules as one that is submitted; nothing is queued.

    Raises what `submit` does.
    """
    # What has to be confirmed is told here, and not refused.
    sure = service.confined(request, project).model_copy(update={"confirmed": True})
    spec, expected, notes = _specified(service, sure)
    schedule = spec.settings
    return answers.Estimate(
        seconds=expected.seconds,
        low=expected.low,
        high=expected.high,
        searches=expected.searches,
        cpu_hours=expected.cpu_hours,
        gpu_hours=expected.gpu_hours,
        workers=spec.workers,
        cpus_per_worker=spec.cpus_per_worker,
        gpus_per_worker=spec.gpus_per_worker,
        images=training_images(spec),
        epochs=answers.Epochs(
            pretrain=schedule.pretrain_epochs, search=schedule.search_epochs, retrain=schedule.retrain_epochs
        ),
        multiply_adds=answers.Compute(**asdict(forecast(spec))),
        supernet_multiply_adds=spec.space.complete().multiply_adds,
        notes=notes,
    )


def _specified(service: Service, request: SearchRequest) -> tuple[SearchSpec, Estimate, list[str]]:
    """What a request means, held to all rules, how long that is expected to take, and what its user should know."""
    settings, before_it, capacity = service.settings, service.history.searches(), service.capacity()
    roots = settings.roots_of(request.project)
    spec = check(request, roots, settings.any_folder, capacity, service.look(), before=before_it)
    expected = estimate(spec, before_it)
    return spec, expected, [*warnings(expected), *without_gpus(request, capacity)]


def browse(service: Service, limit: int, after: str | None, wanted: Wanted) -> answers.SearchPage:
    """At most `limit` searches, from behind a place that an earlier page told. Raises `InvalidValue`."""
    shown, further = service.searches.page(limit, place(after, wanted.order) if after else None, wanted)
    networks, capacity = service.searches.architectures(search.id for search in shown), service.capacity()
    return answers.SearchPage(
        items=[view_search(search, networks[search.id], capacity) for search in shown],
        next=position(*further, wanted.order) if further else None,
    )


def view(service: Service, search: Search, within: Session | None = None) -> answers.Search:
    """What is told of one search."""
    capacity = service.capacity() if within is None else None  # a transaction is in the way of others as it is
    return view_search(search, service.searches.architectures([search.id], within)[search.id], capacity)


def cancel(service: Service, search: Search, key: Key | None = None) -> Done[answers.Search]:
    """Cancel a search; one that has ended stays as it is. Raises `KeyReused`."""
    return once(service, key, lambda session: view(service, service.searches.cancel(search.id, session), session))


def retry(
    service: Service, search: Search, deadlines: Mapping[str, float | None], key: Key | None = None
) -> Done[answers.Search]:
    """Queue a search that failed or was cancelled again; it resumes from its last checkpoint, if it has one.

    Its time to wait and to run begins anew, with the deadlines that it had or those that are given. Raises
    `InvalidRequest`, `NotEnded`, `OverQuota` and `KeyReused`.
    """
    service.still_open(search.project, [search.dataset])

    def do(session: Session) -> answers.Search:
        return view(service, service.searches.retry(search.id, session, deadlines), session)

    return once(service, key, do)


def describe(
    service: Service, search: Search, described: NewDescription, key: Key | None = None
) -> Done[answers.Search]:
    """Give a search another name, tags or description, whatever its state. Raises `KeyReused`."""
    fields = described.model_dump(exclude_unset=True)
    return once(
        service, key, lambda session: view(service, service.searches.describe(search.id, fields, session), session)
    )


def delete(service: Service, search: Search, key: Key | None = None) -> Done[answers.Deleted]:
    """Delete a search that has ended, with its networks, events and files; this cannot be undone.

    Raises `NotEnded`, also where finals may still retrain its networks, and `KeyReused`.
    """

    def do(session: Session) -> answers.Deleted:
        service.searches.delete(search.id, session)
        return answers.Deleted(id=search.id)

    return once(service, key, do)
