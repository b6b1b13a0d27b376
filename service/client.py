"""The Python client of a Yoso service."""

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from nas_core.errors import InvalidValue
from service.settings import DEFAULT_PORT

ENDED = frozenset({"succeeded", "failed", "cancelled"})
PUT_OFF = frozenset({429, 503})
"""Answers that ask for the same request later."""

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""How long to wait before asking again, unless the service says."""

LONGEST_WAIT = 30.0


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
    """Where the service is expected: YOSO_URL, or YOSO_HOST and YOSO_PORT as `yoso serve` reads them."""
    host, port = os.environ.get("YOSO_HOST") or "127.0.0.1", os.environ.get("YOSO_PORT") or str(DEFAULT_PORT)
    return os.environ.get("YOSO_URL") or f"http://{host}:{port}"


class Client:
    """Talks to the service at `url`, with a bearer `token` where it asks for one (default: YOSO_TOKEN).

    Methods raise `ClientError` for what the service refuses and `Unreachable` where it does not answer. Raises
    `InvalidValue` for a URL that is none.
    """

    def __init__(self, url: str | None = None, token: str | None = None, seconds: float = 30.0) -> None:
        self.url = (url or default_url()).rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise InvalidValue("url", self.url, "not the URL of a service", "such as http://127.0.0.1:8765")
        token = token or os.environ.get("YOSO_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=self.url, timeout=seconds, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def submit(self, dataset: str, budgets: Sequence[int | float | str] | None = None, **fields: Any) -> dict[str, Any]:
        """Queue a search; `fields` are the request's others, such as `limits`, `space`, `settings` and `workers`.

        Without `budgets` there must be `limits`.
        """
        asked = {} if budgets is None else {"budgets": list(budgets)}
        return self._json("POST", "/api/v1/searches", json={"dataset": dataset} | asked | fields)

    def get(self, search_id: str) -> dict[str, Any]:
        """One search."""
        return self._json("GET", f"/api/v1/searches/{search_id}")

    def list(self, limit: int = 50, after: str | None = None, **filters: str | None) -> dict[str, Any]:
        """A page of searches, newest first: `items`, and `next` to be given as `after`."""
        wanted = {"limit": limit, "after": after} | filters
        return self._json("GET", "/api/v1/searches", params={k: v for k, v in wanted.items() if v is not None})

    def cancel(self, search_id: str) -> dict[str, Any]:
        """Cancel a search."""
        return self._json("POST", f"/api/v1/searches/{search_id}/cancel")

    def retry(self, search_id: str) -> dict[str, Any]:
        """Queue a search that failed or was cancelled again."""
        return self._json("POST", f"/api/v1/searches/{search_id}/retry")

    def submit_sweep(
        self, search: dict[str, Any], budgets: Sequence[int | float | str] | dict[str, Any], **fields: Any
    ) -> dict[str, Any]:
        """Queue searches that differ in budgets, `seeds` and a `grid`, and are otherwise as `search` says.

        `budgets` are numbers or texts, or `{"from": …, "to": …, "count": …, "scale": …}`.
        """
        asked = budgets if isinstance(budgets, dict) else list(budgets)
        return self._json("POST", "/api/v1/sweeps", json={"search": search, "budgets": asked} | fields)

    def sweep(self, sweep_id: str) -> dict[str, Any]:
        """One sweep: how many of its searches are in each state."""
        return self._json("GET", f"/api/v1/sweeps/{sweep_id}")

    def sweeps(self, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """A page of sweeps, newest first: `items`, and `next` to be given as `after`."""
        return self._json("GET", "/api/v1/sweeps", params={"limit": limit} | ({"after": after} if after else {}))

    def steer_sweep(self, sweep_id: str, how: str) -> dict[str, Any]:
        """`cancel`, `pause`, `resume` or `retry` a sweep."""
        return self._json("POST", f"/api/v1/sweeps/{sweep_id}/{how}")

    def pareto(self, sweep_id: str, cost: str = "multiply_adds") -> dict[str, Any]:
        """A sweep's networks by cost (`multiply_adds`, `parameters`, `activations` or `latency_ms`) and accuracy."""
        return self._json("GET", f"/api/v1/sweeps/{sweep_id}/pareto", params={"cost": cost})

    def cluster(self, limit: int = 100) -> dict[str, Any]:
        """What the cluster has, who holds it, and the first `limit` that wait, with the reasons."""
        return self._json("GET", "/api/v1/cluster", params={"limit": limit})

    def change_project(self, name: str, **changed: float | None) -> dict[str, Any]:
        """Change a project's `weight`, `max_running`, `max_accelerators` or `max_queued`; None lifts a quota."""
        return self._json("PATCH", f"/api/v1/projects/{name}", json=changed)

    def events(self, search_id: str, patience: float = 60.0) -> Iterator[Event]:
        """Everything that has happened to a search and happens to it until it ends.

        A connection that breaks is taken up again behind the last event; after `patience` seconds without a service
        `Unreachable` is raised.
        """
        last, ended, silent_since = 0, False, time.monotonic()
        while True:
            try:
                headers = {"Last-Event-ID": str(last)}
                with self.http.stream("GET", f"/api/v1/searches/{search_id}/events", headers=headers) as response:
                    if response.status_code >= 400:
                        response.read()
                        if response.status_code in PUT_OFF:
                            raise Unreachable(f"the service at {self.url} takes no streams just now")
                        raise _error(response)
                    for event in _parse(response.iter_lines()):
                        last, silent_since = event.seq, time.monotonic()
                        if event.kind == "status":
                            ended = event.data["status"] in ENDED
                        yield event
                # A stream may end because the service does; what came since is told by the next.
                if ended and self.get(search_id)["status"] in ENDED:
                    return
            except (httpx.HTTPError, Unreachable) as error:
                if time.monotonic() - silent_since > patience:
                    raise Unreachable(f"no service answers at {self.url}") from error
            time.sleep(0.5)

    def wait(self, search_id: str) -> dict[str, Any]:
        """Wait until a search has ended; returns it."""
        for _ in self.events(search_id):
            pass
        return self.get(search_id)

    def architecture(self, architecture_id: str) -> dict[str, Any]:
        """One network: costs, accuracy and genotype."""
        return self._json("GET", f"/api/v1/architectures/{architecture_id}")

    def download(self, path: str) -> bytes:
        """The content of a file that an architecture's `files` names."""
        return self._ask("GET", path).content

    def ready(self) -> bool:
        """Whether the service answers and can do its work."""
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = self._ask(method, path, **options)
        try:
            values = response.json()
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise ClientError(response.status_code, {"detail": f"what answers at {self.url} is not a Yoso service"})
        return values

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask, and ask again where the answer was lost or put off: with a key, what changes something is done once."""
        headers = {} if method == "GET" else {"Idempotency-Key": str(uuid.uuid4())}
        for wait in (*RETRY_SECONDS, None):
            try:
                response = self.http.request(method, path, headers=headers, **options)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                # Where nobody listens nothing was lost, and waiting would only hide it.
                if wait is None or isinstance(error, (httpx.ConnectError, httpx.InvalidURL, httpx.UnsupportedProtocol)):
                    raise Unreachable(f"no service answers at {self.url}; `yoso serve` starts one") from error
            else:
                if response.status_code not in PUT_OFF or wait is None:
                    break
                told = response.headers.get("Retry-After", "")
                wait = min(float(told), LONGEST_WAIT) if told.isdigit() else wait
            time.sleep(wait)
        if response.status_code >= 400:
            raise _error(response)
        return response


def _error(response: httpx.Response) -> ClientError:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    return ClientError(response.status_code, problem if isinstance(problem, dict) else {})


def _parse(lines: Iterator[str]) -> Iterator[Event]:
    """Events of a stream (https://html.spec.whatwg.org/multipage/server-sent-events.html), which here are one line."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Event(int(fields.get("id", 0)), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}
