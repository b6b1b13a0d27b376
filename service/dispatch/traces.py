"""Sends each search that has ended as an OpenTelemetry trace, over OTLP.

A trace is made of the search's events: the request that queued it, its time in the queue, each attempt with its start,
phases and epochs. A request with a W3C `traceparent` (https://www.w3.org/TR/trace-context/) has its searches in its own
trace, or in none where that is not sampled; any other search has a trace of its own, which it continues when it is
queued again.

The ids of spans follow from those of events: what is sent twice, after a crash in between, is the same.
"""

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas_core.errors import InvalidValue
from nas_core.version import __version__
from service.dispatch.follower import Follower, named
from service.domain.lifecycle import TERMINAL, Status
from service.formats import rival, short
from service.store.models import Event, Search
from service.store.searches import Searches

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

PAGE = 1000
"""Events that are read at once."""
BATCH = 500
"""Spans that are sent at once."""
_LOCK = 7_364_201_815
"""The key of the advisory lock on PostgreSQL of whoever sends; any number that nobody else uses."""
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1
_MEASURED = ("loss", "accuracy", "multiply_adds", "live_edges", "l1_weight", "budget", "trial", "origin", "seed")
"""What a span tells of an epoch, or an event of a network, where its line has it."""
_POINTS = ("architecture", "retrained", "stopped", "warning")
"""The lines that tell of a point in time."""


@dataclass
class Span:
    """A part of a search, in seconds since 1970; its id in the trace follows from the `key`."""

    key: str
    name: str
    start: float
    end: float
    parent: "Span | None" = None
    attributes: dict[str, Any] = field(default_factory=dict)
    points: list[tuple[str, float, dict[str, Any]]] = field(default_factory=list)
    error: str | None = None
    request: bool = False


@dataclass
class Run:
    """What happened to a search from when it was queued, by a request, until it had ended with the event `seq`."""

    spans: list[Span]
    traceparent: str | None
    seq: int


class Tracer(Follower):
    """Sends the searches in the database that have ended to the OTLP collector at `url`.

    Headers, certificates and timeouts are those of the environment (`OTEL_EXPORTER_OTLP_HEADERS`, …). Raises
    `InvalidValue` where the exporter is not installed.
    """

    def __init__(self, searches: Searches, url: str) -> None:
        if importlib.util.find_spec("opentelemetry.exporter.otlp") is None:
            accepted = "unset, or set after pip install yoso[otel]"
            raise InvalidValue("YOSO_OTLP_URL", url, "OpenTelemetry's exporter is not installed", accepted)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        self.exporter = OTLPSpanExporter(endpoint=url)
        super().__init__(searches, f"the OTLP collector at {url}", named("traces", url), _LOCK)

    def forget(self) -> None:
        """Know nothing but what the database says, as ever."""

    def begin(self) -> int:
        """Go on where it was left; the first time, with what ends from now on."""
        if (seen := super().begin()) == 0:
            self.news.see(seen := self.searches.newest_seq())
        return seen

    def take(self, search_id: str) -> None:
        """Send how a search went that has ended, unless it was sent before. Raises `ConnectionError`."""
        search = self.searches.get(search_id)
        if search.status not in TERMINAL:
            return
        sent = max(self.seen, self.taken.get(search_id, 0))
        for run in runs(search, self._events(search_id)):
            if run.seq > sent:
                self._send(exported(search_id, run))

    def _send(self, spans: "list[ReadableSpan]") -> None:
        for start in range(0, len(spans), BATCH):
            if self.exporter.export(spans[start : start + BATCH]).name != "SUCCESS":
                raise ConnectionError("it did not accept a trace")

    def _events(self, search_id: str) -> Iterator[Event]:
        last = 0
        while events := self.searches.events(search_id, last, limit=PAGE):
            yield from events
            last = events[-1].seq


def runs(search: Search, events: Iterable[Event]) -> Iterator[Run]:
    """How a search went, each time that it was queued by a request and ended."""
    run: Run | None = None
    state, phase = Status.QUEUED, None
    for event in events:
        data, at = event.data, event.time
        if run is None:
            if event.kind != "status":
                continue
            asked = data.get("request")
            run = Run([], (asked or {}).get("traceparent"), event.seq)
            request = None
            if asked is not None:
                request = Span(f"request {asked['id']}", f"{asked['method']} {asked['path']}", asked["began"], at)
                request.request, request.attributes = True, {"yoso.request": asked["id"]}
                run.spans.append(request)
            root = attempt = Span(str(event.seq), f"{search.kind} run", at, at, request, described(search))
            step = Span(f"{event.seq} {state}", state, at, at, root)
            run.spans += [root, step]
            continue
        root.end = max(root.end, at)
        if event.kind == "status":
            state = Status(data["status"])
            step.end = attempt.end = at
            if phase is not None and state not in (Status.RUNNING, Status.WAITING):
                phase.end, phase = max(phase.end, at), None
            if data.get("error"):
                attempt.error = data["error"].get("message")
            if state in TERMINAL:
                root.end, root.attributes["yoso.status"], run.seq = at, str(state), event.seq
                root.error = attempt.error if state == Status.FAILED else None
                yield run
                run, attempt, state = None, root, Status.QUEUED
                continue
            if state == Status.LAUNCHING:
                attempt = Span(f"{event.seq} attempt", f"attempt {data['attempt']}", at, at, root)
                run.spans.append(attempt)
            elif state == Status.QUEUED:
                attempt = root
            step = Span(f"{event.seq} {state}", state, at, at, attempt)
            run.spans.append(step)
        elif event.kind == "phase":
            if phase is not None:
                phase.end = max(phase.end, at)
            network = f" {short(data['budget'])}" if "budget" in data else ""
            phase = Span(str(event.seq), f"{data['phase']}{network}", at, at, attempt)
            run.spans.append(phase)
        elif event.kind == "epoch":
            begun = at - float(data.get("seconds") or 0.0)
            name = f"epoch {data['epoch']}{rival(data)}"
            run.spans.append(Span(str(event.seq), name, begun, at, phase or attempt, measured(data)))
        elif event.kind in _POINTS:
            attempt.points.append((event.kind, at, measured(data)))


def described(search: Search) -> dict[str, Any]:
    """What the first span of a search tells of it."""
    told = {"search": search.id, "name": search.name, "project": search.project, "sweep": search.sweep_id}
    told |= {"dataset": search.dataset, "budgets": search.spec["budgets"], "by": search.submitted_by}
    return {f"yoso.{name}": value for name, value in told.items() if value is not None}


def measured(line: dict[str, Any]) -> dict[str, Any]:
    """What a line measures, and of which network."""
    told = {name: line[name] for name in (*_MEASURED, "message") if line.get(name) is not None}
    return {f"yoso.{name}": value for name, value in told.items()}


def exported(search_id: str, run: Run) -> "list[ReadableSpan]":
    """A run as OpenTelemetry's exporters take it; nothing where its request's trace is not sampled."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event as Point
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags
    from opentelemetry.trace import Status as Outcome

    trace, outer = _number(f"trace {search_id}", 16), None
    if run.traceparent is not None and (given := _PARENT.fullmatch(run.traceparent)):
        trace = int(given[1], 16)
        if not int(given[3], 16) & _SAMPLED:
            return []
        outer = SpanContext(trace, int(given[2], 16), is_remote=True, trace_flags=TraceFlags(_SAMPLED))

    def context(span: Span) -> SpanContext:
        number = _number(f"{trace} {span.key}" if span.request else f"{search_id} {span.key}", 8)
        return SpanContext(trace, number, is_remote=False, trace_flags=TraceFlags(_SAMPLED))

    name = os.environ.get("OTEL_SERVICE_NAME", "yoso")
    resource = Resource.create({"service.name": name, "service.version": __version__})
    return [
        ReadableSpan(
            name=span.name,
            context=context(span),
            parent=context(span.parent) if span.parent is not None else outer,
            resource=resource,
            attributes=span.attributes,
            events=[Point(point, told, _nanoseconds(at)) for point, at, told in span.points],
            kind=SpanKind.SERVER if span.request else SpanKind.INTERNAL,
            status=Outcome(StatusCode.ERROR, span.error) if span.error is not None else Outcome(),
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(max(span.start, span.end)),
            instrumentation_scope=InstrumentationScope("yoso", __version__),
        )
        for span in run.spans
    ]


def _number(text: str, size: int) -> int:
    """An id of so many bytes that follows from a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size]) or 1


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
