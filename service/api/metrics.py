"""What Prometheus scrapes: how the service does, from the database, and what this process alone knows."""

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from sqlalchemy.exc import SQLAlchemyError

from service.api.health import REPORT_SECONDS
from service.domain.lifecycle import Status
from service.store.statistics import Histogram, Snapshot, Statistics
from service.web.context import Context, ProjectDep
from service.web.problems import ProblemError

SNAPSHOT_SECONDS = 5.0
"""However often somebody scrapes, the database is asked once in this time."""

router = APIRouter(include_in_schema=False)


class Metrics:
    """A collector for `prometheus_client` over the service `context`, of the given `version`."""

    def __init__(self, context: Context, version: str) -> None:
        self.context, self.version = context, version
        self.statistics = Statistics(context.searches.engine)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        self._snapshot: Snapshot | None = None
        self._taken = float("-inf")
        self._taking = threading.Lock()

    def snapshot(self) -> Snapshot | None:
        """How things stood at most `SNAPSHOT_SECONDS` ago; None where the database is away."""
        with self._taking:
            if time.monotonic() - self._taken > SNAPSHOT_SECONDS:
                try:
                    self._snapshot = self.statistics.read()
                except SQLAlchemyError:
                    self._snapshot = None
                self._taken = time.monotonic()
            return self._snapshot

    def collect(self) -> Iterator[Metric]:
        """All metrics; where the database is away those of this process alone."""
        build = GaugeMetricFamily("yoso_build_info", "The version that runs.", labels=["version"])
        build.add_metric([self.version], 1)
        yield build
        yield gauge("yoso_sse_streams", "Open streams of events of this process.", len(self.context.streams))
        yield gauge("yoso_sse_streams_limit", "Streams that it takes on of one client.", self.context.streams.limit)
        found = self.snapshot()
        yield gauge("yoso_database_up", "Whether the database answers.", found is not None)
        if found is not None:
            yield gauge("yoso_database_seconds", "How long the database took to tell the time.", found.seconds)
            yield from of_searches(found)
            yield from of_dispatchers(found)
            yield from of_cluster(found)
            yield from of_webhooks(found)


def of_searches(found: Snapshot) -> Iterator[Metric]:
    """The queue, and what has become of searches."""
    searches = GaugeMetricFamily("yoso_searches", "Searches and finals.", labels=["project", "state"])
    depth = GaugeMetricFamily("yoso_queue_depth", "Searches that wait to be launched.", labels=["project"])
    attempts = CounterMetricFamily("yoso_attempts", "Launches, retries too.", labels=["project"])
    for project in found.projects:
        for state in Status:
            searches.add_metric([project, state], found.searches.get((project, state), 0))
        depth.add_metric([project], found.searches.get((project, Status.QUEUED), 0))
        attempts.add_metric([project], found.attempts.get(project, 0))
    yield searches
    yield depth
    yield gauge("yoso_queue_oldest_seconds", "How long the oldest waits that may be launched.", found.oldest)
    yield attempts
    launch = "From submission to first launch; finals, which wait for others, are not counted."
    yield histogram("yoso_time_to_launch_seconds", launch, "project", found.launches)
    run = "From an attempt's launch until its job was gone, by the state that its search went to."
    yield histogram("yoso_run_seconds", run, "outcome", found.runs)


def of_dispatchers(found: Snapshot) -> Iterator[Metric]:
    """Whether somebody follows what is with Ray."""
    heartbeat = "The longest time since a lease was renewed, as happens every 10 seconds where journals are read."
    yield gauge("yoso_heartbeat_age_seconds", heartbeat, found.heartbeat)
    lag = "How long the newest lines of a running search took from the worker to the database: the longest."
    yield gauge("yoso_ingest_lag_seconds", lag, found.lag)
    silence = "Seconds since the last update of a running search, which reports every epoch: the longest."
    yield gauge("yoso_silence_seconds", silence, found.silence)
    yield gauge("yoso_leases_expired", "Searches with Ray that no dispatcher follows.", found.expired)
    takeovers = CounterMetricFamily("yoso_lease_takeovers", "Leases that had run out and that another took.")
    takeovers.add_metric([], found.takeovers)
    yield takeovers


def of_webhooks(found: Snapshot) -> Iterator[Metric]:
    """Whether those who want to be told are."""
    attempts = CounterMetricFamily("yoso_webhook_attempts", "Messages sent, retries too.", labels=["outcome"])
    for outcome, count in found.messages.items():
        attempts.add_metric([outcome], count)
    yield attempts
    given_up = CounterMetricFamily("yoso_webhook_given_up", "Messages that were given up, tests apart.")
    given_up.add_metric([], found.given_up)
    yield given_up
    yield gauge("yoso_webhook_unsent", "Messages that are to be sent, now or again.", found.unsent)
    yield gauge("yoso_webhooks_off", "Webhooks that are switched off, since their receivers take nothing.", found.off)


def of_cluster(found: Snapshot) -> Iterator[Metric]:
    """What the cluster has and who holds it, as the dispatchers last saw it."""
    state = found.cluster
    well = state is not None and state.error is None and state.age <= REPORT_SECONDS and bool(state.nodes)
    yield gauge("yoso_ray_up", "Whether a dispatcher has lately found Ray well.", well)
    if state is not None:
        yield gauge("yoso_report_age_seconds", "The age of the dispatchers' last report of the cluster.", state.age)
    nodes = [node for node in state.nodes if not node.possible] if state is not None else []
    yield gauge("yoso_cluster_nodes", "Nodes alive.", len(nodes))
    for kind, number in (("cpus", 0), ("gpus", 1)):
        has = sum(getattr(node, kind) for node in nodes)
        yield gauge(f"yoso_cluster_{kind}", f"{kind.upper()[:-1]}s of the cluster.", has)
        held = GaugeMetricFamily(f"yoso_held_{kind}", f"{kind.upper()[:-1]}s held by searches.", labels=["project"])
        for project in found.projects:
            held.add_metric([project], found.held.get(project, (0, 0))[number])
        yield held


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, text, value=float(value))


def histogram(name: str, text: str, label: str, found: Mapping[str, Histogram]) -> Metric:
    """Histograms of one name, by a label."""
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, one in sorted(found.items()):
        below, buckets = 0, []
        for bound, count in zip([*map(str, one.bounds), "+Inf"], one.counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric([value], buckets, sum_value=one.total)
    return family


@router.get("/metrics")
def metrics(request: Request, project: ProjectDep, accept: Annotated[str, Header()] = "") -> Response:
    """Everything, in Prometheus' text format or as OpenMetrics. Needs an operator's token where there are tokens."""
    if project is not None:
        raise ProblemError(403, "Not yours to read", "Metrics are of all projects: send an operator's token.")
    found = request.app.state.metrics
    assert isinstance(found, Metrics)
    encode, content_type = choose_encoder(accept)
    return Response(encode(found.registry), media_type=content_type)
