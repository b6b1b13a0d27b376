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
        self.statistics = Statistics(context.searches.engine, context.cluster)
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
        build = GaugeMetricFamily("yoso_build_info", "The running version.", labels=["version"])
        build.add_metric([self.version], 1)
        yield build
        yield gauge("yoso_sse_streams", "Open event streams of this process.", len(self.context.streams))
        yield gauge("yoso_sse_streams_limit", "Event streams that one client may open.", self.context.streams.limit)
        found = self.snapshot()
        yield gauge("yoso_database_up", "Whether the database answers.", found is not None)
        if found is not None:
            yield gauge("yoso_database_seconds", "Time of a minimal query to the database.", found.seconds)
            yield from of_searches(found)
            yield from of_dispatchers(found)
            yield from of_cluster(found)
            yield from of_webhooks(found)


def of_searches(found: Snapshot) -> Iterator[Metric]:
    """The queue, and what has become of searches."""
    searches = GaugeMetricFamily("yoso_searches", "Searches and finals.", labels=["project", "state"])
    depth = GaugeMetricFamily("yoso_queue_depth", "Queued searches.", labels=["project"])
    attempts = CounterMetricFamily("yoso_attempts", "Launches, retries too.", labels=["project"])
    for project in found.projects:
        for state in Status:
            searches.add_metric([project, state], found.searches.get((project, state), 0))
        depth.add_metric([project], found.searches.get((project, Status.QUEUED), 0))
        attempts.add_metric([project], found.attempts.get(project, 0))
    yield searches
    yield depth
    yield gauge("yoso_queue_oldest_seconds", "Waiting time of the oldest search that may be launched.", found.oldest)
    yield attempts
    launch = "Time from submission to first launch, without finals, which wait for other searches."
    yield histogram("yoso_time_to_launch_seconds", launch, "project", found.launches)
    run = "Time from an attempt's launch until its job was gone, by the next state of the search."
    yield histogram("yoso_run_seconds", run, "outcome", found.runs)


def of_dispatchers(found: Snapshot) -> Iterator[Metric]:
    """Whether somebody follows what is with Ray."""
    heartbeat = "Longest time since a lease was renewed; dispatchers renew every 10 seconds."
    yield gauge("yoso_heartbeat_age_seconds", heartbeat, found.heartbeat)
    lag = "Longest delay of the newest journal lines of running searches from worker to database."
    yield gauge("yoso_ingest_lag_seconds", lag, found.lag)
    silence = "Longest time since the last update of a running search, which reports every epoch."
    yield gauge("yoso_silence_seconds", silence, found.silence)
    yield gauge("yoso_leases_expired", "Running searches that no dispatcher follows.", found.expired)
    takeovers = CounterMetricFamily("yoso_lease_takeovers", "Expired leases taken over by another dispatcher.")
    takeovers.add_metric([], found.takeovers)
    yield takeovers


def of_webhooks(found: Snapshot) -> Iterator[Metric]:
    """Whether those who want to be told are."""
    attempts = CounterMetricFamily(
        "yoso_webhook_attempts", "Webhook messages sent, including retries.", labels=["outcome"]
    )
    for outcome, count in found.messages.items():
        attempts.add_metric([outcome], count)
    yield attempts
    given_up = CounterMetricFamily("yoso_webhook_given_up", "Webhook messages given up, without tests.")
    given_up.add_metric([], found.given_up)
    yield given_up
    yield gauge("yoso_webhook_unsent", "Webhook messages to be sent, including retries.", found.unsent)
    yield gauge("yoso_webhooks_off", "Webhooks switched off because their deliveries fail.", found.off)


def of_cluster(found: Snapshot) -> Iterator[Metric]:
    """What the cluster has and who holds it, as the dispatchers last saw it."""
    state = found.cluster
    well = state is not None and state.error is None and state.age <= REPORT_SECONDS and bool(state.nodes)
    yield gauge("yoso_ray_up", "Whether Ray answered a dispatcher lately.", well)
    if state is not None:
        yield gauge("yoso_report_age_seconds", "Age of the last report on the cluster.", state.age)
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
        raise ProblemError(403, "Not allowed", "Metrics cover all projects and need an operator's token.")
    found = request.app.state.metrics
    assert isinstance(found, Metrics)
    encode, content_type = choose_encoder(accept)
    return Response(encode(found.registry), media_type=content_type)
