"""The Python clients of a Yoso service: `Client`, and `AsyncClient` with the same words to be awaited.

What can be asked is written once, as methods of `Calls` that describe a request and the type of its answer; each client
only sends what they describe.
"""

import asyncio
import functools
import html
import io
import json
import os
import re
import tempfile
import time
import uuid
import zipfile
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, get_args, overload
from urllib.parse import quote, urlsplit

import httpx

from nas_core.errors import InvalidValue, did_you_mean
from nas_core.files import FILES
from service import answers, objects, own_token, profiles, proxies
from service.answers import (
    ENDED,
    Architecture,
    ArchitectureDetail,
    Attempt,
    AuditPage,
    Cluster,
    DatasetReport,
    Delivery,
    DeliveryPage,
    Estimate,
    Front,
    Log,
    LoginLink,
    Looking,
    MadeToken,
    MadeWebhook,
    Me,
    Project,
    Search,
    SearchPage,
    Sweep,
    SweepPage,
    Token,
    TokenPage,
    Webhook,
    WebhookPage,
)
from service.settings import DEFAULT_PORT

PUT_OFF = frozenset({429, 503})
"""Answers that ask for the same request later."""

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""How long to wait before asking again, unless the service says."""

LONGEST_WAIT = 30.0
POLL_SECONDS = 1.0
MOST_LOOKED_THROUGH, MOST_TOLD = 20_000, 160
"""Characters of an answer that is not a Yoso service's, which may be long."""
LOOK_SECONDS = 0.3
"""Between questions after a dataset that is being looked at; the service waits for two seconds before it answers."""
STILL_LOOKING = "urn:yoso:still-looking"
"""The type of a refusal that ends when a dataset has been looked at."""
RECONNECT_SECONDS = 0.5
MOST_NAMED = 8
"""Searches and sweeps that an error names, of those that a name may stand for."""

Answer = TypeVar("Answer")
P = ParamSpec("P")


@dataclass(frozen=True)
class Event:
    """Something that happened to a search: its number, kind, and what the API tells of it."""

    seq: int
    kind: str
    data: dict[str, Any]


class ClientError(RuntimeError):
    """The service refused; `problem` is its problem document, `status` the HTTP status."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or f"the service answered {status}")
        self.status, self.problem = status, problem


class Unreachable(RuntimeError):
    """No service answers at the URL."""


def default_url() -> str:
    """Where the service is expected.

    That is what the profile says that --profile or YOSO_PROFILE names; else YOSO_URL, or YOSO_HOST and YOSO_PORT as
    `yoso serve` reads them; else where the user has signed in to; else this machine. Raises `InvalidValue` for a
    profile that cannot be used.
    """
    if (chosen := profiles.chosen()) is not None:
        return chosen.url
    if not any(os.environ.get(name) for name in ("YOSO_URL", "YOSO_HOST", "YOSO_PORT")):
        kept = profiles.read().get(profiles.DEFAULT)
        if kept is not None:
            return kept.url
    host, port = os.environ.get("YOSO_HOST") or "127.0.0.1", os.environ.get("YOSO_PORT") or str(DEFAULT_PORT)
    host = f"[{host}]" if ":" in host else host
    return os.environ.get("YOSO_URL") or f"http://{host}:{port}"


@dataclass(frozen=True)
class Request(Generic[Answer]):
    """One request, whoever sends it, and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], Answer]
    params: Mapping[str, Any]
    body: Any


def ask(method: str, path: str, body: Any = None, **params: Any) -> Request[Any]:
    """A request that is answered with a JSON object; a parameter that is None is left out."""
    given = {name: value for name, value in params.items() if value is not None}
    return Request(method, path, _answer, given, body)


class Call(Generic[P, Answer]):
    """A method of both clients, made of the request that it describes: one answers, the other's answer is awaited."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Request[Answer]]) -> None:
        self.describe = describe
        [self.kind] = get_args(describe.__annotations__["return"])

    @overload
    def __get__(self, client: None, owner: type) -> Callable[Concatenate[Any, P], Request[Answer]]: ...

    @overload
    def __get__(self: "Call[P, Search]", client: "Client", owner: type) -> Callable[P, objects.Search]: ...

    @overload
    def __get__(self: "Call[P, Sweep]", client: "Client", owner: type) -> Callable[P, objects.Sweep]: ...

    @overload
    def __get__(self: "Call[P, Front]", client: "Client", owner: type) -> Callable[P, objects.Front]: ...

    @overload
    def __get__(
        self: "Call[P, SearchPage]", client: "Client", owner: type
    ) -> Callable[P, objects.Page[objects.Search]]: ...

    @overload
    def __get__(
        self: "Call[P, SweepPage]", client: "Client", owner: type
    ) -> Callable[P, objects.Page[objects.Sweep]]: ...

    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, Answer]: ...

    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Coroutine[Any, Any, Answer]]: ...

    def __get__(self, client: "Client | AsyncClient | None", owner: type) -> Any:
        if client is None:
            return self.describe

        @functools.wraps(self.describe)
        def method(*given: P.args, **named: P.kwargs) -> Any:
            request = self.describe(client, *given, **named)
            return client.send(replace(request, read=lambda response: client._made(self.kind, request.read(response))))

        return method


def _json(budgets: Sequence[int | float | str] | Mapping[str, Any]) -> Any:
    return dict(budgets) if isinstance(budgets, Mapping) else list(budgets)


class Calls:
    """What a service can be asked."""

    _own: Mapping[type, Callable[..., Any]] = {}
    """What a client returns in place of an answer, by the class of the answer."""

    def _made(self, kind: Any, told: Any) -> Any:
        """The answer of type `kind` that was `told` as JSON."""
        return answers.read(kind, told, self._own)

    @Call
    def submit(
        self, /, dataset: str, budgets: Sequence[int | float | str] | None = None, **fields: Any
    ) -> Request[Search]:
        """Queue a search; `fields` are the request's others, such as `limits`, `space`, `settings` and `workers`.

        Without `budgets` there must be `limits`.
        """
        asked = {} if budgets is None else {"budgets": list(budgets)}
        return ask("POST", "/api/v1/searches", {"dataset": dataset} | asked | fields)

    @Call
    def estimate(
        self, /, dataset: str, budgets: Sequence[int | float | str] | None = None, **fields: Any
    ) -> Request[Estimate]:
        """How long a search is expected to run, and what it would compute; the request is as in `submit`, and nothing
        is queued.
        """
        asked = {} if budgets is None else {"budgets": list(budgets)}
        return ask("POST", "/api/v1/estimates", {"dataset": dataset} | asked | fields)

    @Call
    def look_at(self, dataset: str, data: Mapping[str, Any] | None = None) -> Request[DatasetReport | Looking]:
        """What is in a dataset, or how far the look at it is; `inspect` waits for the report."""
        return ask("POST", "/api/v1/datasets/inspect", {"dataset": dataset, "data": dict(data or {})})

    @Call
    def get(self, search_id: str) -> Request[Search]:
        """One search."""
        return ask("GET", f"/api/v1/searches/{_part(search_id)}")

    @Call
    def attempts(self, search_id: str) -> Request[list[Attempt]]:
        """The launches of a search, in order."""
        return ask("GET", f"/api/v1/searches/{_part(search_id)}/attempts")

    @Call
    def log(self, search_id: str, attempt: int | None = None, after: int | None = None) -> Request[Log]:
        """What the driver of an attempt, the newest unless another is named, has printed after so many bytes.

        Without `after` it is the log's end, of at most 4 MiB.
        """
        return ask("GET", f"/api/v1/searches/{_part(search_id)}/log", attempt=attempt, after=after)

    @Call
    def describe(self, /, search_id: str, **fields: str | Sequence[str]) -> Request[Search]:
        """Give a search another `name`, `tags` or `description`; what is not given stays as it is."""
        return ask("PATCH", f"/api/v1/searches/{_part(search_id)}", _described(fields))

    @Call
    def cancel(self, search_id: str) -> Request[Search]:
        """Cancel a search."""
        return ask("POST", f"/api/v1/searches/{_part(search_id)}/cancel")

    @Call
    def retry(self, /, search_id: str, **deadlines: float | str | None) -> Request[Search]:
        """Queue a search that failed or was cancelled again, with a new `max_wait` or `max_run` if given; None lifts
        one.
        """
        return ask("POST", f"/api/v1/searches/{_part(search_id)}/retry", deadlines or None)

    @Call
    def delete(self, search_id: str) -> Request[dict[str, str]]:
        """Delete a search that has ended, with its networks, events and files."""
        return ask("DELETE", f"/api/v1/searches/{_part(search_id)}")

    @Call
    def submit_sweep(
        self, /, search: Mapping[str, Any], budgets: Sequence[int | float | str] | Mapping[str, Any], **fields: Any
    ) -> Request[Sweep]:
        """Queue searches that differ in budgets, `seeds` and a `grid`, and are otherwise as `search` says.

        `budgets` are numbers or texts, or `{"from": …, "to": …, "count": …, "scale": …}`.
        """
        return ask("POST", "/api/v1/sweeps", {"search": dict(search), "budgets": _json(budgets)} | fields)

    @Call
    def sweep(self, sweep_id: str) -> Request[Sweep]:
        """One sweep: how many of its searches are in each state."""
        return ask("GET", f"/api/v1/sweeps/{_part(sweep_id)}")

    @Call
    def describe_sweep(self, /, sweep_id: str, **fields: str | Sequence[str]) -> Request[Sweep]:
        """Give a sweep another `name` or `description`, or all its searches `tags` in place of those in common."""
        return ask("PATCH", f"/api/v1/sweeps/{_part(sweep_id)}", _described(fields))

    @Call
    def sweeps(
        self, limit: int = 50, after: str | None = None, tag: str | None = None, q: str | None = None
    ) -> Request[SweepPage]:
        """A page of sweeps, newest first: `items`, and `next` to be given as `after`; with a `tag` those with it, and
        those with `q` in the name, ID or dataset."""
        return ask("GET", "/api/v1/sweeps", limit=limit, after=after, tag=tag, q=q)

    @Call
    def sweep_searches(self, sweep_id: str, limit: int = 100, after: str | None = None) -> Request[SearchPage]:
        """A page of a sweep's searches, in the order of its points."""
        return ask("GET", f"/api/v1/sweeps/{_part(sweep_id)}/searches", limit=limit, after=after)

    @Call
    def extend_sweep(
        self,
        sweep_id: str,
        budgets: Sequence[int | float | str] | Mapping[str, Any] | None = None,
        baselines: Sequence[str] | None = None,
    ) -> Request[Sweep]:
        """Retrain more networks of a sweep whose searches have ended, which are not run again.

        `budgets` as in `submit_sweep`, that the searches passed on their way down; `baselines` of "random", "thin"
        and the families of `nas_core.space.FAMILIES`, to compare with, by default those of every search for budgets
        that are new.
        """
        asked = {} if budgets is None else {"budgets": _json(budgets)}
        asked |= {} if baselines is None else {"baselines": list(baselines)}
        return ask("POST", f"/api/v1/sweeps/{_part(sweep_id)}/networks", asked)

    @Call
    def steer_sweep(self, /, sweep_id: str, how: str, **deadlines: float | str | None) -> Request[Sweep]:
        """`cancel`, `pause`, `resume` or `retry` a sweep; the last with new `deadlines` as those of a search."""
        return ask("POST", f"/api/v1/sweeps/{_part(sweep_id)}/{how}", deadlines or None)

    @Call
    def pareto(self, sweep_id: str, cost: str = "multiply_adds", by: str = "accuracy") -> Request[Front]:
        """A sweep's networks by cost (`multiply_adds`, `parameters`, `activations` or `latency_ms`) and accuracy.

        The front is of those that no other beats in the cost and in what it is `by`: `accuracy` or `balanced_accuracy`.
        """
        return ask("GET", f"/api/v1/sweeps/{_part(sweep_id)}/pareto", cost=cost, by=by)

    @Call
    def cluster(self, limit: int = 100) -> Request[Cluster]:
        """What the cluster has, who holds it, and the first `limit` that wait, with the reasons."""
        return ask("GET", "/api/v1/cluster", limit=limit)

    @Call
    def change_project(self, /, name: str, **changed: float | None) -> Request[Project]:
        """Change a project's `weight`, `max_running`, `max_accelerators`, `max_queued` or `max_stored` (bytes); None
        lifts a quota.
        """
        return ask("PATCH", f"/api/v1/projects/{_part(name)}", changed)

    @Call
    def architecture(self, architecture_id: str) -> Request[ArchitectureDetail]:
        """One network: costs, accuracy and genotype."""
        return ask("GET", f"/api/v1/architectures/{_part(architecture_id)}")

    @Call
    def download(self, path: str) -> Request[bytes]:
        """The content of a file, such as those that an architecture's `files` names."""
        return Request("GET", path, lambda response: response.content, {}, None)

    @Call
    def event_files(self, search_id: str) -> Request[bytes]:
        """What a search has measured, as event files for TensorBoard in a zip."""
        path = f"/api/v1/searches/{_part(search_id)}/tensorboard"
        return Request("GET", path, lambda response: response.content, {}, None)

    @Call
    def login_link(self, next: str = "/searches") -> Request[LoginLink]:
        """A link that signs a browser in with the client's own token, once, and then shows the page `next`."""
        return ask("POST", "/api/v1/login-links", next=next)

    @Call
    def me(self) -> Request[Me]:
        """Who the client is to the service, and what its token opens."""
        return ask("GET", "/api/v1/me")

    @Call
    def make_token(
        self, name: str, role: str, project: str | None = None, expires: str | None = None
    ) -> Request[MadeToken]:
        """Make a token that opens no more than the client's own: the only answer that has it as `token`.

        `role` is read, submit or admin; `project` by default the client's own, `*` all; `expires` such as 90d or
        2027-01-31, by default as late as the client's own.
        """
        return ask("POST", "/api/v1/tokens", {"name": name, "role": role, "project": project, "expires": expires})

    @Call
    def tokens(self, limit: int = 100, after: str | None = None, project: str | None = None) -> Request[TokenPage]:
        """A page of the tokens that the service has made, by name: `items`, and `next` to be given as `after`."""
        return ask("GET", "/api/v1/tokens", limit=limit, after=after, project=project)

    @Call
    def revoke_token(self, name: str) -> Request[Token]:
        """Take a token back, and the sessions that it has begun."""
        return ask("DELETE", f"/api/v1/tokens/{_part(name)}")

    @Call
    def make_webhook(
        self, url: str, events: Sequence[str] | None = None, project: str | None = None
    ) -> Request[MadeWebhook]:
        """Have a URL told what becomes of a project's searches and sweeps: the only answer that has its `secret`.

        `events` are running, succeeded, failed and cancelled, by default all but the first.
        """
        asked = {} if events is None else {"events": [*events]}
        return ask("POST", "/api/v1/webhooks", {"url": url, "project": project} | asked)

    @Call
    def webhooks(self, limit: int = 100, after: str | None = None, project: str | None = None) -> Request[WebhookPage]:
        """A page of webhooks: `items`, and `next` to be given as `after`."""
        return ask("GET", "/api/v1/webhooks", limit=limit, after=after, project=project)

    @Call
    def deliveries(self, webhook_id: str, limit: int = 100, after: str | None = None) -> Request[DeliveryPage]:
        """A page of what a webhook was told and is to be told, newest first, with what came of it."""
        return ask("GET", f"/api/v1/webhooks/{_part(webhook_id)}/deliveries", limit=limit, after=after)

    @Call
    def test_webhook(self, webhook_id: str) -> Request[Delivery]:
        """Have a message sent that says nothing; `deliveries` tells what came of it."""
        return ask("POST", f"/api/v1/webhooks/{_part(webhook_id)}/test")

    @Call
    def delete_webhook(self, webhook_id: str) -> Request[Webhook]:
        """Delete a webhook, with what is still to be sent to it."""
        return ask("DELETE", f"/api/v1/webhooks/{_part(webhook_id)}")

    @Call
    def audit(self, /, limit: int = 100, after: str | None = None, **filters: str | None) -> Request[AuditPage]:
        """A page of who did what, newest first: `items`, and `next` to be given as `after`.

        Filters are `project`, `by` (a token's name), `action`, `about` (such as search/ID), `since` and `until`.
        """
        return ask("GET", "/api/v1/audit", limit=limit, after=after, **filters)

    # Last, because what stands below it in this class no longer sees the type of this name.
    @Call
    def list(self, /, limit: int = 50, after: str | None = None, **filters: str | None) -> Request[SearchPage]:
        """A page of searches: `items`, and `next` to be given as `after`.

        Filters are `status`, `project`, `kind`, `tag`, and `q` for words in the name, the id or the dataset; `sort` is
        newest, oldest or accuracy.
        """
        return ask("GET", "/api/v1/searches", limit=limit, after=after, **filters)


class Client(Calls):
    """Talks to the service at `url`, with a bearer `token` where it asks for one (default: `token_for`).

    Searches, sweeps, networks and fronts are returned as objects with methods (`yoso.objects`). Methods raise
    `ClientError` for what the service refuses and `Unreachable` where it does not answer. Raises `InvalidValue` for a
    URL that is none.
    """

    def __init__(self, url: str | None = None, token: str | None = None, seconds: float = 30.0) -> None:
        self.url = _checked(url)
        self.http = proxies.client(httpx.Client, self.url, base_url=self.url, timeout=seconds, auth=Bearer(token))
        self._own = {
            Search: partial(objects.Search.of, self),
            Sweep: partial(objects.Sweep.of, self),
            Architecture: partial(objects.Network.of, self),
            Front: objects.Front,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def send(self, request: Request[Answer]) -> Answer:
        """Ask, and ask again where the answer was lost or put off."""
        tries = _Tries(self.url, request)
        while True:
            outcome: httpx.Response | Exception
            try:
                outcome = self.http.request(**tries.options)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                outcome = error
            if (answer := tries.answer(outcome)) is not None:
                return request.read(answer)
            time.sleep(tries.seconds)

    def ready(self) -> bool:
        """Whether the service answers and can do its work."""
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    @overload
    def find(self, name: str, only: Literal["search"]) -> objects.Search: ...

    @overload
    def find(self, name: str, only: Literal["sweep"]) -> objects.Sweep: ...

    @overload
    def find(self, name: str, only: None = None) -> objects.Search | objects.Sweep: ...

    def find(self, name: str, only: Any = None) -> Any:
        """The search or sweep, or `only` one of them, that a whole ID, the beginning of an ID or a name stands for.

        Raises `InvalidValue` where there is none, with names that are alike, and where there are several.
        """
        asking = _find(name, only)
        try:
            request = next(asking)
            while True:
                try:
                    answer = self.send(request)
                except ClientError as error:
                    request = asking.throw(error)
                else:
                    request = asking.send(answer)
        except StopIteration as end:
            return self._made(Search | Sweep, end.value)

    def each_search(self, sweep_id: str) -> Iterator[objects.Search]:
        """Every search of a sweep, in the order of its points."""
        after = None
        while True:
            page = self.sweep_searches(sweep_id, after=after)
            yield from page["items"]
            if (after := page["next"]) is None:
                return

    def inspect(
        self,
        dataset: str,
        data: Mapping[str, Any] | None = None,
        progress: Callable[[str, int, int | None], object] | None = None,
    ) -> DatasetReport:
        """Look at a dataset; `data` says how it is read, as in a request: `train`, `test`, `ignore` and others.

        `progress` is told what is done at present, for how many files, and of how many where that is known. A report
        may tell of `problems`, with which a search is refused.
        """
        while isinstance(found := self.look_at(dataset, data), Looking):
            _tell(found, progress)
            time.sleep(LOOK_SECONDS)
        return found

    def events(self, search_id: str, patience: float = 60.0) -> Iterator[Event]:
        """Everything that has happened to a search and happens to it until it ends.

        A connection that breaks is taken up again behind the last event; after `patience` seconds without a service
        `Unreachable` is raised.
        """
        stream = _Stream(self.url, patience)
        path = f"/api/v1/searches/{_part(search_id)}/events"
        while True:
            try:
                with self.http.stream("GET", path, headers=stream.open()) as opened:
                    if opened.status_code >= 400:
                        opened.read()
                        raise _error(opened)
                    for line in opened.iter_lines():
                        if (event := stream.take(line)) is not None:
                            yield event
                # A stream may end because the service does; what came since is told by the next.
                if stream.ended and self.get(search_id)["status"] in ENDED:
                    return
            except (httpx.HTTPError, Unreachable, ClientError) as error:
                stream.patience.lost(error)
            time.sleep(RECONNECT_SECONDS)

    def wait(
        self, search_id: str, progress: Callable[[objects.Search], object] | None = None, patience: float = 60.0
    ) -> objects.Search:
        """Wait until a search has ended; returns it. `progress` is shown the search about once a second.

        After `patience` seconds without a service `Unreachable` is raised.
        """
        return self._until(lambda: self.get(search_id), lambda search: search["status"] in ENDED, progress, patience)

    def wait_sweep(
        self, sweep_id: str, progress: Callable[[objects.Sweep], object] | None = None, patience: float = 60.0
    ) -> objects.Sweep:
        """Wait until every search of a sweep has ended, as `wait` does; one that is paused has not."""
        return self._until(lambda: self.sweep(sweep_id), lambda sweep: sweep["done"], progress, patience)

    def fetch(
        self, search_id: str, to: str | Path | None = None, formats: Sequence[str] | None = None
    ) -> dict[int, str]:
        """Download a search's networks to a folder for each budget below `to` (default: yoso-ID); returns the folders.

        Each folder appears whole. `formats` are kinds of file (`nas_core.files.FILES`), all if not given. Raises
        `InvalidValue`, before anything is brought, where there are no networks or one lacks a format.
        """
        search = self.get(search_id)
        folders = {}
        for one, paths in _wanted(search, formats):
            contents = {kind: self.download(path) for kind, path in paths.items()}
            folders[one["budget"]] = _put(Path(to or f"yoso-{search_id}"), search_id, one, contents)
        return folders

    def tensorboard(self, search_id: str, to: str | Path) -> str:
        """Download a search's event files for TensorBoard to a folder of its own below `to`; returns that.

        What is there already stays: asked again, it brings what is new.
        """
        return _unpack(Path(to), self.get(search_id), self.event_files(search_id))

    def _until(
        self,
        look: Callable[[], Answer],
        over: Callable[[Answer], bool],
        progress: Callable[[Answer], object] | None,
        seconds: float,
    ) -> Answer:
        patience = _Patience(self.url, seconds)
        while True:
            try:
                found = look()
            except (Unreachable, ClientError) as error:
                patience.lost(error)
            else:
                patience.heard()
                if progress is not None:
                    progress(found)
                if over(found):
                    return found
            time.sleep(POLL_SECONDS)


class AsyncClient(Calls):
    """As `Client`, with methods to be awaited and events to be iterated with `async for`.

    Answers have their fields as attributes too (`yoso.answers`), but no methods: `await client.wait(search.id)`.
    """

    def __init__(self, url: str | None = None, token: str | None = None, seconds: float = 30.0) -> None:
        self.url = _checked(url)
        self.http = proxies.client(httpx.AsyncClient, self.url, base_url=self.url, timeout=seconds, auth=Bearer(token))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def send(self, request: Request[Answer]) -> Answer:
        """As `Client.send`."""
        tries = _Tries(self.url, request)
        while True:
            outcome: httpx.Response | Exception
            try:
                outcome = await self.http.request(**tries.options)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                outcome = error
            if (answer := tries.answer(outcome)) is not None:
                return request.read(answer)
            await asyncio.sleep(tries.seconds)

    async def ready(self) -> bool:
        """As `Client.ready`."""
        try:
            return (await self.http.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    @overload
    async def find(self, name: str, only: Literal["search"]) -> Search: ...

    @overload
    async def find(self, name: str, only: Literal["sweep"]) -> Sweep: ...

    @overload
    async def find(self, name: str, only: None = None) -> Search | Sweep: ...

    async def find(self, name: str, only: Any = None) -> Any:
        """As `Client.find`."""
        asking = _find(name, only)
        try:
            request = next(asking)
            while True:
                try:
                    answer = await self.send(request)
                except ClientError as error:
                    request = asking.throw(error)
                else:
                    request = asking.send(answer)
        except StopIteration as end:
            return self._made(Search | Sweep, end.value)

    async def each_search(self, sweep_id: str) -> AsyncIterator[Search]:
        """As `Client.each_search`."""
        after = None
        while True:
            page = await self.sweep_searches(sweep_id, after=after)
            for search in page["items"]:
                yield search
            if (after := page["next"]) is None:
                return

    async def inspect(
        self,
        dataset: str,
        data: Mapping[str, Any] | None = None,
        progress: Callable[[str, int, int | None], object] | None = None,
    ) -> DatasetReport:
        """As `Client.inspect`."""
        while isinstance(found := await self.look_at(dataset, data), Looking):
            _tell(found, progress)
            await asyncio.sleep(LOOK_SECONDS)
        return found

    async def events(self, search_id: str, patience: float = 60.0) -> AsyncIterator[Event]:
        """As `Client.events`."""
        stream = _Stream(self.url, patience)
        path = f"/api/v1/searches/{_part(search_id)}/events"
        while True:
            try:
                async with self.http.stream("GET", path, headers=stream.open()) as opened:
                    if opened.status_code >= 400:
                        await opened.aread()
                        raise _error(opened)
                    async for line in opened.aiter_lines():
                        if (event := stream.take(line)) is not None:
                            yield event
                if stream.ended and (await self.get(search_id))["status"] in ENDED:
                    return
            except (httpx.HTTPError, Unreachable, ClientError) as error:
                stream.patience.lost(error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def wait(
        self, search_id: str, progress: Callable[[Search], object] | None = None, patience: float = 60.0
    ) -> Search:
        """As `Client.wait`."""
        return await self._until(
            lambda: self.get(search_id), lambda search: search["status"] in ENDED, progress, patience
        )

    async def wait_sweep(
        self, sweep_id: str, progress: Callable[[Sweep], object] | None = None, patience: float = 60.0
    ) -> Sweep:
        """As `Client.wait_sweep`."""
        return await self._until(lambda: self.sweep(sweep_id), lambda sweep: sweep["done"], progress, patience)

    async def fetch(
        self, search_id: str, to: str | Path | None = None, formats: Sequence[str] | None = None
    ) -> dict[int, str]:
        """As `Client.fetch`."""
        search = await self.get(search_id)
        folders = {}
        for one, paths in _wanted(search, formats):
            contents = {kind: await self.download(path) for kind, path in paths.items()}
            folder = Path(to or f"yoso-{search_id}")
            folders[one["budget"]] = await asyncio.to_thread(_put, folder, search_id, one, contents)
        return folders

    async def tensorboard(self, search_id: str, to: str | Path) -> str:
        """As `Client.tensorboard`."""
        search, packed = await self.get(search_id), await self.event_files(search_id)
        return await asyncio.to_thread(_unpack, Path(to), search, packed)

    async def _until(
        self,
        look: Callable[[], Coroutine[Any, Any, Answer]],
        over: Callable[[Answer], bool],
        progress: Callable[[Answer], object] | None,
        seconds: float,
    ) -> Answer:
        patience = _Patience(self.url, seconds)
        while True:
            try:
                found = await look()
            except (Unreachable, ClientError) as error:
                patience.lost(error)
            else:
                patience.heard()
                if progress is not None:
                    progress(found)
                if over(found):
                    return found
            await asyncio.sleep(POLL_SECONDS)


def _find(name: str, only: Literal["search", "sweep"] | None) -> Generator[Request[Any], Any, Any]:
    """The requests that find out what `name` stands for, for a client to send; returns that. Raises `InvalidValue`.

    A whole ID takes one request or two; a beginning or a name is looked for among all.
    """
    paths = {"search": "/api/v1/searches", "sweep": "/api/v1/sweeps"}
    asked = [only] if only else [*paths]
    for kind in asked if name else ():
        try:
            return (yield ask("GET", f"{paths[kind]}/{_part(name)}"))
        except ClientError as error:
            if error.status != 404:
                raise
    alike: dict[str, dict[str, Any]] = {}
    for kind in asked:
        after, words = None, {"q": name} if kind == "search" else {}
        while True:
            page = yield ask("GET", paths[kind], limit=100, after=after, **words)
            alike |= {one["id"]: one | {"what": kind} for one in page["items"]}
            if (after := page["next"]) is None:
                break
    meant = {at: one for at, one in alike.items() if name and (at.startswith(name) or one["name"] == name)}
    # The searches of a sweep have its name: the name means the sweep.
    meant = {at: one for at, one in meant.items() if at.startswith(name) or one.get("sweep") not in meant}
    if len(meant) == 1:
        [one] = meant.values()
        del one["what"]
        return one
    if meant:
        shown = [f"{at} ({one['what']}{' ' + repr(one['name']) if one['name'] else ''})" for at, one in meant.items()]
        more = f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
        raise InvalidValue("ID", name, f"ambiguous: {len(shown)} match", ", ".join(shown[:MOST_NAMED]) + more)
    if "search" in asked:
        page = yield ask("GET", paths["search"], limit=100)
        alike |= {one["id"]: one for one in page["items"]}
    known = dict.fromkeys(word for one in alike.values() for word in (one["name"], one["id"]) if word)
    raise InvalidValue(
        "ID",
        name,
        f"no {' or '.join(asked)} has this ID or name{did_you_mean(name, known)}",
        "an ID, the beginning of one, or a name, as `yoso list` and `yoso sweeps` show them",
    )


def _tell(looking: Looking, progress: Callable[[str, int, int | None], object] | None) -> None:
    if progress is not None:
        progress(looking["doing"], looking["done"], looking["total"])


class _Tries:
    """What becomes of a request's answers: with a key, what changes something is done once however often it is sent."""

    def __init__(self, url: str, request: Request[Any]) -> None:
        self.url = url
        self.options: dict[str, Any] = {
            "method": request.method,
            "url": request.path,
            "params": request.params,
            "headers": {} if request.method == "GET" else {"Idempotency-Key": str(uuid.uuid4())},
        }
        if request.body is not None:
            # In ASCII, which has room for what no encoding has: what is wrong with it is the service's to say.
            self.options["content"] = json.dumps(request.body)
            self.options["headers"]["Content-Type"] = "application/json"
        self.left = list(RETRY_SECONDS)
        self.seconds = 0.0
        """How long to wait before the next."""

    def answer(self, outcome: httpx.Response | Exception) -> httpx.Response | None:
        """The answer, or None where it is to be asked for again. Raises `ClientError` and `Unreachable`."""
        if isinstance(outcome, Exception):
            # Where nobody listens nothing was lost, and waiting would only hide it.
            hopeless = isinstance(
                outcome, (httpx.ConnectError, httpx.ProxyError, httpx.InvalidURL, httpx.UnsupportedProtocol)
            )
            if hopeless or not self.left:
                raise Unreachable(_unanswered(self.url, outcome)) from outcome
            self.seconds = self.left.pop(0)
            return None
        if outcome.status_code == 503 and _error(outcome).problem.get("type") == STILL_LOOKING:
            self.seconds = LOOK_SECONDS  # it ends by itself, and the service sees to it that it does
            return None
        if outcome.status_code in PUT_OFF and self.left:
            self.seconds = self.left.pop(0)
            told = outcome.headers.get("Retry-After", "")
            if told.isdigit():
                self.seconds = min(float(told), LONGEST_WAIT)
            return None
        if outcome.status_code >= 400:
            raise _error(outcome)
        return outcome


class _Patience:
    """How long a service may be away for somebody who waits."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url, self.seconds = url, seconds
        self.heard()

    def heard(self) -> None:
        """The service is there."""
        self.since = time.monotonic()

    def lost(self, error: Exception) -> None:
        """It was not, or is not yet; raises `Unreachable` when it has been away too long, and `error` if it refused."""
        if isinstance(error, ClientError) and error.status not in PUT_OFF:
            raise error
        if time.monotonic() - self.since > self.seconds:
            told = str(error) if isinstance(error, Unreachable | ClientError) else _unanswered(self.url, error)
            raise Unreachable(told) from error


class _Stream:
    """Where a stream of events (https://html.spec.whatwg.org/multipage/server-sent-events.html) has come to."""

    def __init__(self, url: str, seconds: float) -> None:
        self.patience = _Patience(url, seconds)
        self.last, self.ended = 0, False
        self.fields: dict[str, str] = {}

    def open(self) -> dict[str, str]:
        """The headers that ask for what comes behind the last event; half an event of before is forgotten."""
        self.fields = {}
        return {"Last-Event-ID": str(self.last)}

    def take(self, line: str) -> Event | None:
        """Take in a line; the event that it completes. Data are one line here."""
        if line:
            name, _, value = line.partition(":")
            self.fields[name] = value.removeprefix(" ")
            return None
        fields, self.fields = self.fields, {}
        if "data" not in fields:
            return None
        event = Event(int(fields.get("id", 0)), fields.get("event", "message"), json.loads(fields["data"]))
        self.last = event.seq
        self.patience.heard()
        if event.kind == "status":
            self.ended = event.data["status"] in ENDED
        return event


def _checked(url: str | None) -> str:
    url = (url or default_url()).rstrip("/")
    try:
        parts, parsed = urlsplit(url), httpx.URL(url)
        usable = parts.scheme in ("http", "https") and bool(parsed.host) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable or parts.query or parts.fragment:
        raise InvalidValue("url", url, "not the URL of a service", "such as http://127.0.0.1:8765")
    return url


def _described(fields: Mapping[str, str | Sequence[str]]) -> dict[str, str | list[str]]:
    return {name: one if isinstance(one, str) else [*one] for name, one in fields.items()}


def _part(name: str) -> str:
    """A name as one part of a path, whatever it holds."""
    return quote(name, safe="", errors="surrogatepass")


def _unanswered(url: str, error: Exception) -> str:
    """What to tell of a request that got no answer: where it went and what became of it."""
    proxy = proxies.proxy_of(url)
    way = f" by way of the proxy {proxy}" if proxy else ""
    hint = "`yoso serve` starts one" if proxies.on_this_machine(url) else "--url or YOSO_URL says where one is"
    shown = re.sub(r"//[^/@]*@", "//", url)
    return f"no service answers at {shown}{way}: {_cause(error)}; {hint}"


def _cause(error: Exception) -> str:
    """Why a request got no answer, in a few words."""
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    at: BaseException | None = error
    while at is not None and not (isinstance(at, OSError) and at.strerror):
        at = at.__cause__ or at.__context__
    words = at.strerror if isinstance(at, OSError) else str(error)
    told = re.sub(r"^\[Errno -?\d+\] ", "", words or type(error).__name__).strip()
    return told[0].lower() + told[1:] if told[1:2].islower() else told


def token_for(url: str) -> str | None:
    """What is sent to the service that `url` is of, if anything.

    It is the token of the profile that was chosen, if that is the service's; else YOSO_TOKEN; else that of any profile
    that is; else that of this user's own service on this machine. Raises `InvalidValue` for profiles that cannot be
    used.
    """
    chosen = profiles.chosen()
    if chosen is not None and chosen.is_for(url):
        return chosen.token
    return os.environ.get("YOSO_TOKEN") or profiles.token_for(url) or own_token.find(url)


class Bearer(httpx.Auth):
    """Sends a bearer token: the one that is given, else that of `token_for`.

    This is looked for with every request: a service may be started anew, and with another.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The request, with the token."""
        if token := self.token or token_for(str(request.url)):
            request.headers["Authorization"] = f"Bearer {token}"
        yield request


def _answer(response: httpx.Response) -> Any:
    try:
        values = response.json()
    except ValueError:
        values = None
    if not isinstance(values, dict | list):
        raise ClientError(response.status_code, {"detail": _foreign(response)})
    return values


def _error(response: httpx.Response) -> ClientError:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not {"detail", "title"} & problem.keys():
        problem = {"detail": _foreign(response)}
    return ClientError(response.status_code, problem)


def _foreign(response: httpx.Response) -> str:
    """What to tell of an answer that is not Yoso's, such as a proxy's page: where it came from and its gist."""
    url = str(response.url.copy_with(path="/", query=None, userinfo=b""))
    proxy = proxies.proxy_of(url)
    way = f", reached by way of the proxy {proxy}," if proxy else ""
    text = response.text[:MOST_LOOKED_THROUGH]
    title = re.search(r"<title[^>]*>(.*?)</title", text, re.S | re.I)
    words = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", title[1] if title else text, flags=re.S | re.I)
    gist = " ".join(html.unescape(words).split())[:MOST_TOLD]
    status = f"{response.status_code} {response.reason_phrase}".strip()
    return f"what answers at {url}{way} is not a Yoso service: {status}" + (f", {gist!r}" if gist else "")


def _wanted(search: Search, formats: Sequence[str] | None) -> list[tuple[Architecture, dict[str, str]]]:
    """The network to take for each budget, with the paths of its files, by kind. Raises `InvalidValue`."""
    found = [one for one in search["architectures"] if one["winner"]]
    if not found:
        told = f"has no networks yet: it is {search['status']}"
        raise InvalidValue("search_id", search["id"], told, "a search that ended")
    for one in found:
        for kind in formats or ():
            if kind not in one["files"]:
                why = one["not_exported"].get(kind, "it was made without" if kind in FILES else "no such format")
                told = f"the network for {one['budget']} has none: {why}"
                raise InvalidValue("formats", kind, told, ", ".join(one["files"]))
    return [(one, {kind: one["files"][kind] for kind in formats or one["files"]}) for one in found]


def _put(to: Path, search_id: str, one: Architecture, contents: Mapping[str, bytes]) -> str:
    """Write a network's files to a folder below `to`, which is replaced if it is there; returns it."""
    to.mkdir(parents=True, exist_ok=True)
    target = to / str(one["budget"])
    with tempfile.TemporaryDirectory(dir=to, prefix=".fetching-") as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        for kind, content in contents.items():
            (new / FILES[kind]).write_bytes(content)
        (new / "result.json").write_text(json.dumps(one | {"search_id": search_id}, indent=1))
        if target.exists():
            target.rename(Path(temporary, "old"))
        new.rename(target)
    return str(target)


def _unpack(to: Path, search: Search, packed: bytes) -> str:
    """Write a search's event files to a folder below `to` that has its name and id; returns it."""
    name = re.sub(r"[^\w.-]+", "-", search["name"]).strip("-.")
    target = to / (f"{name}-{search['id']}" if name else search["id"])
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for one in archive.infolist():
            known = target / one.filename
            if not known.exists() or known.stat().st_size != one.file_size:  # what was cut short is written again
                archive.extract(one, target)
    return str(target)
