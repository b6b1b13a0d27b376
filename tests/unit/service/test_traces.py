"""Traces of searches, sent to a collector that takes OTLP over HTTP as the specification says."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nas_core.errors import InvalidValue
from service.dispatch.traces import Tracer
from service.domain.lifecycle import Status as State
from service.settings import Settings
from tests import seeding

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """What has reached a collector; with `answer` 503 it takes nothing."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: list[str | None] = []
        self.answer = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if collector.answer == 200:
                    sent = ExportTraceServiceRequest.FromString(body)
                    for resource in sent.resource_spans:
                        collector.spans += [span for scope in resource.scope_spans for span in scope.spans]
                    collector.headers.append(self.headers["x-key"])
                self.send_response(collector.answer)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"

    def named(self, name: str) -> Span:
        """The one span of that name."""
        [span] = [one for one in self.spans if one.name == name]
        return span

    def children(self, span: Span) -> list[str]:
        """The names of a span's children, in order of their begin."""
        found = [one for one in self.spans if one.parent_span_id == span.span_id]
        return [one.name for one in sorted(found, key=lambda one: one.start_time_unix_nano)]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on this machine."""
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def app(tmp_path: Path, database_url: str, collector: Collector) -> Iterator[FastAPI]:
    """A service that traces, on either database."""
    made = seeding.make_app(tmp_path, database_url, otlp_url=collector.url)
    yield made
    seeding.parts(made).searches.engine.dispose()


@contextmanager
def tracing(app: FastAPI, collector: Collector) -> Iterator[Tracer]:
    """A tracer that has begun before anything happens."""
    tracer = Tracer(seeding.parts(app).searches, collector.url)
    try:
        catch_up(tracer)
        yield tracer
    finally:
        tracer.news.let_go()
        tracer.exporter.shutdown()  # type: ignore[no-untyped-call]


def catch_up(tracer: Tracer) -> None:
    """Send everything; a lock that was let go just now may still be held for a moment."""
    while tracer.attempt() == 0 or not tracer.held:
        time.sleep(0.01)


def submit(app: FastAPI, traceparent: str | None = None) -> str:
    """Submit a search over REST; returns its id."""
    headers = {} if traceparent is None else {"traceparent": traceparent}
    with seeding.serving(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        body = {"dataset": "digits", "budgets": ["300k", "600k"], "name": "traced"}
        answer = client.post("/api/v1/searches", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


def test_a_search_is_a_trace_from_the_request_to_the_epochs(
    app: FastAPI, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
    with tracing(app, collector) as tracer:
        search_id = submit(app, f"00-{TRACE}-{PARENT}-01")
        run = seeding.Run(app, search_id)
        catch_up(tracer)
        assert collector.spans == [], "it has not ended"
        run.succeed()
        catch_up(tracer)
        sent = len(collector.spans)
        catch_up(tracer)
        assert len(collector.spans) == sent and {*collector.headers} == {"secret"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert len({span.span_id for span in collector.spans}) == sent

    request = collector.named("POST /api/v1/searches")
    assert request.parent_span_id.hex() == PARENT and request.kind == Span.SPAN_KIND_SERVER
    root = collector.named("search run")
    assert collector.children(request) == ["search run"] and collector.children(root) == ["queued", "attempt 1"]
    attempt = collector.named("attempt 1")
    steps = ["launching", "waiting", "running", "finishing"]
    phases = ["pretrain", "search", "retrain 300k", "retrain 600k"]
    assert sorted(collector.children(attempt)) == sorted(steps + phases)
    assert len(collector.children(collector.named("pretrain"))) == 12
    assert len(collector.children(collector.named("retrain 600k"))) == 60
    assert [event.name for event in attempt.events] == ["architecture"] * 2 + ["retrained"] * 2
    attributes = {one.key: one.value for one in root.attributes}
    assert attributes["yoso.search"].string_value == search_id
    assert attributes["yoso.status"].string_value == "succeeded"
    assert [one.int_value for one in attributes["yoso.budgets"].array_value.values] == seeding.BUDGETS
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in collector.spans)


def test_a_search_that_failed_and_is_queued_again_continues_its_trace(app: FastAPI, collector: Collector) -> None:
    with tracing(app, collector) as tracer:
        search_id = submit(app)
        error = {"kind": "out_of_memory", "message": "the worker was killed: out of memory", "attempt": 1}
        seeding.Run(app, search_id).start().pretrain(2).move(State.FAILED, error=error)
        catch_up(tracer)
        first = list(collector.spans)
        failed = collector.named("search run")
        assert failed.status.code == Status.STATUS_CODE_ERROR and failed.status.message == error["message"]
        assert collector.named("attempt 1").status.message == error["message"]
        collector.spans.clear()
        seeding.parts(app).searches.retry(search_id)
        catch_up(tracer)
        assert collector.spans == [], "it has not ended again"
        seeding.Run(app, search_id).succeed()
        catch_up(tracer)
    assert collector.named("search run").status.code != Status.STATUS_CODE_ERROR
    assert collector.children(collector.named("search run")) == ["queued", "attempt 2"]
    assert {span.trace_id for span in collector.spans} == {first[0].trace_id}
    assert not {span.span_id for span in collector.spans} & {span.span_id for span in first}


def test_what_is_sent_twice_is_the_same_and_what_was_there_before_is_not_sent(
    app: FastAPI, collector: Collector
) -> None:
    seeding.Run(app, submit(app)).succeed()
    with tracing(app, collector) as tracer:
        assert collector.spans == []
        seeding.parts(app).searches.cancel(submit(app))
        collector.answer = 503
        tracer.exporter._client._timeout = 0.1  # it would try again for ten seconds
        assert tracer.attempt() == 2 and collector.spans == []
        collector.answer = 200
        catch_up(tracer)
        first = [span.SerializeToString() for span in collector.spans]
        assert [span.name for span in collector.spans] == ["POST /api/v1/searches", "search run", "queued"]
    with tracing(app, collector):
        assert [span.SerializeToString() for span in collector.spans] == first * 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("traceparent", "traces"),
    [
        (f"00-{TRACE}-{PARENT}-00", []),
        (f"00-{TRACE}-{PARENT}-03", [TRACE]),
        (f"cc-{TRACE}-{PARENT}-01-more", [TRACE]),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        ("nonsense", None),
    ],
)
def test_a_trace_goes_on_where_its_parent_is_one_and_is_sampled(
    app: FastAPI, collector: Collector, traceparent: str, traces: list[str] | None
) -> None:
    with tracing(app, collector) as tracer:
        seeding.parts(app).searches.cancel(submit(app, traceparent))
        catch_up(tracer)
    found = sorted({span.trace_id.hex() for span in collector.spans})
    assert found == traces if traces is not None else len(found) == 1 and TRACE not in found


@pytest.mark.parametrize("url", ["collector:4318", "http://collector:4318", "http://me:secret@collector/v1/traces"])
def test_only_the_url_of_a_collector_is_taken(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="YOSO_OTLP_URL") as raised:
        Settings.from_environment({"YOSO_STORAGE": str(tmp_path), "YOSO_OTLP_URL": url})
    assert "secret" not in str(raised.value)
