"""Mirrors searches to an MLflow tracking server: a run for each search, in an experiment for each project.

A worker knows of nothing but its folder, so the metrics come from the events in the database. Each run keeps, as the
tag `yoso.event`, the number of the last event that is in it: whoever takes over goes on behind it. What was sent and
not noted is sent again, and MLflow keeps one of several points with the same name, step, time and value. Networks of
finals are runs below that of the finals. A run that was deleted in MLflow stays deleted.

MLflow being away delays the mirror and nothing else; nothing is lost as long as the database is there.
"""

import importlib.util
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas_core.errors import InvalidValue
from nas_core.metrics import Metrics, metrics_of
from service.dispatch.follower import Follower, named
from service.domain.lifecycle import Status
from service.proxies import spare_loopback
from service.settings import without_credentials
from service.store.models import Event, Search
from service.store.searches import Searches

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)

PAGE = 150
"""Events that are sent at once."""
MOST_METRICS = 1000
"""Metrics that MLflow takes at once."""
MOST_PARAMS = 100
"""Parameters that MLflow takes at once."""
LONGEST_VALUE = 500
"""Characters of a parameter, which is what old servers take."""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # By itself it would try for minutes, of which nobody would learn.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""What MLflow's client reads from the environment, unless it is there already."""
_LOCK = 7_364_201_813
"""The key of the advisory lock on PostgreSQL of whoever mirrors; any number that nobody else uses."""
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")
"""What MLflow will not take however often it is sent."""
_ENDS = {Status.SUCCEEDED: "FINISHED", Status.FAILED: "FAILED", Status.CANCELLED: "KILLED"}
_TRIAL_ENDS = {"retrained": "FINISHED", "stopped": "KILLED", "warning": "FAILED"}


@dataclass
class Mirrored:
    """A search's run in MLflow, the last event that is in it, and the runs of its networks by their names.

    A network's run that was deleted is None.
    """

    run_id: str
    seq: int
    networks: dict[str, str | None] = field(default_factory=dict)


class Mirror(Follower):
    """Mirrors the searches in the database to the MLflow at `uri`.

    Raises `InvalidValue` where MLflow's client is not installed.
    """

    def __init__(self, searches: Searches, uri: str) -> None:
        if importlib.util.find_spec("mlflow") is None:
            accepted = "unset, or set after pip install yoso[mlflow]"
            raise InvalidValue("YOSO_MLFLOW_URI", "…", "MLflow's client is not installed", accepted)
        self.uri, self.credentials = without_credentials(uri)
        super().__init__(searches, f"MLflow at {self.uri}", named("mlflow", self.uri), _LOCK)

    def forget(self) -> None:
        """Know nothing but what the database and MLflow say."""
        self.known: dict[str, Mirrored] = {}
        self.experiments: dict[str, str] = {}
        self.client: MlflowClient | None = None

    def turn(self) -> bool:
        """Send what is new, and forget the runs of searches that have been quiet. Raises `MlflowException`."""
        more = super().turn()
        self.known = {search_id: one for search_id, one in self.known.items() if search_id in self.taken}
        return more

    def expected(self, error: Exception) -> bool:
        """Whether MLflow's client raises this where MLflow is away."""
        return _code(error) is not None

    def take(self, search_id: str) -> None:
        """Send what is new of one search; what MLflow refuses for good is told and passed over."""
        try:
            search = self.searches.get(search_id)
            one = self.known.get(search_id) or self._find(search)
            if one is None:
                return
            self.known[search_id] = one
            while events := self.searches.events(search_id, one.seq, limit=PAGE):
                self._send(search, one, events)
                one.seq = events[-1].seq
        except Exception as error:
            if _code(error) not in _REFUSED:
                raise
            log.error("MLflow refuses search %s: %s", search_id, str(error).splitlines()[0])
            self.known.pop(search_id, None)

    def _find(self, search: Search) -> Mirrored | None:
        """A search's run, which is made where there is none; None where it was deleted."""
        experiment = self._experiment(search.project)
        found = self._search_runs(experiment, f"tags.`yoso.search` = '{search.id}'")
        if not found:
            tags = {"yoso.search": search.id, "yoso.kind": search.kind}
            tags |= {"yoso.sweep": search.sweep_id} if search.sweep_id else {}
            run = self._api.create_run(experiment, _milliseconds(search.created_at), tags, search.name or search.id)
            found = [run]
        [run] = found[:1]
        if run.info.lifecycle_stage == "deleted":
            return None
        one = Mirrored(run.info.run_id, int(run.data.tags.get("yoso.event", 0)))
        if one.seq == 0:
            self._parameters(search, one)
        if search.kind == "finals":
            networks = self._search_runs(experiment, f"tags.`mlflow.parentRunId` = '{one.run_id}'")
            one.networks = {
                run.data.tags["yoso.network"]: run.info.run_id if run.info.lifecycle_stage == "active" else None
                for run in networks
            }
        return one

    def _parameters(self, search: Search, one: Mirrored) -> None:
        from mlflow.entities import Param

        asked = {name: value for name, value in search.request.items() if name not in ("name", "project")}
        asked |= {"budgets": search.spec["budgets"]} | (
            {"seed": search.spec["seed"]} if search.kind == "search" else {}
        )
        params = [Param(name, value[:LONGEST_VALUE]) for name, value in flat(asked)]
        for start in range(0, len(params), MOST_PARAMS):
            self._api.log_batch(one.run_id, params=params[start : start + MOST_PARAMS])

    def _send(self, search: Search, one: Mirrored, events: Sequence[Event]) -> None:
        """Send events, and then note that they are there."""
        from mlflow.entities import RunTag

        metrics: dict[str, list[Metric]] = defaultdict(list)
        ends: dict[str, tuple[str, float]] = {}
        status: tuple[Status, float] | None = None
        for event in events:
            if event.kind == "status":
                status = Status(event.data["status"]), event.time
                continue
            line = {"kind": event.kind} | event.data
            told, trial = metrics_of(line), "trial" in line
            run_id = self._network(search, one, line, event.time) if trial else one.run_id
            if run_id is None:
                continue
            if told is not None:
                metrics[run_id] += points(told, trial, event.time)
            if trial and event.kind in _TRIAL_ENDS:
                ends[run_id] = _TRIAL_ENDS[event.kind], event.time
        for run_id, some in metrics.items():
            for start in range(0, len(some), MOST_METRICS):
                self._api.log_batch(run_id, metrics=some[start : start + MOST_METRICS])
        for run_id, (state, at) in ends.items():
            self._api.set_terminated(run_id, state, _milliseconds(at))
        noted = {"yoso.event": str(events[-1].seq)}
        if status is not None:
            self._tell(search, one, *status)
            noted["yoso.status"] = status[0]
        self._api.log_batch(one.run_id, tags=[RunTag(name, value) for name, value in noted.items()])

    def _tell(self, search: Search, one: Mirrored, status: Status, at: float) -> None:
        """Tell how a search stands, and where it has ended, that its networks have too."""
        if status not in _ENDS:
            self._api.update_run(one.run_id, "SCHEDULED" if status == Status.QUEUED else "RUNNING")
            return
        if one.networks:
            within = self._experiment(search.project)
            for run in self._search_runs(within, f"tags.`mlflow.parentRunId` = '{one.run_id}'"):
                if run.info.status == "RUNNING" and run.info.lifecycle_stage == "active":
                    self._api.set_terminated(run.info.run_id, _ENDS[status], _milliseconds(at))
        self._api.set_terminated(one.run_id, _ENDS[status], _milliseconds(at))

    def _network(self, search: Search, one: Mirrored, line: Mapping[str, Any], at: float) -> str | None:
        """The run of a network of finals, which is made where there is none; None where it was deleted."""
        name = f"{line['budget']}-{line['trial']}-{line['origin']}"
        if name not in one.networks:
            tags = {"mlflow.parentRunId": one.run_id, "yoso.network": name, "yoso.finals": search.id}
            tags |= {f"yoso.{key}": str(line[key]) for key in ("budget", "origin", "seed")}
            run = self._api.create_run(self._experiment(search.project), _milliseconds(at), tags, name)
            one.networks[name] = run.info.run_id
        return one.networks[name]

    def _experiment(self, project: str) -> str:
        if project not in self.experiments:
            name = f"yoso/{project}"
            found = self._api.get_experiment_by_name(name)
            self.experiments[project] = found.experiment_id if found else self._api.create_experiment(name)
        return self.experiments[project]

    def _search_runs(self, experiment: str, which: str) -> "list[Run]":
        from mlflow.entities import ViewType

        return list(self._api.search_runs([experiment], which, ViewType.ALL, max_results=1000))

    @property
    def _api(self) -> "MlflowClient":
        """MLflow's client. Credentials it has from the environment, so that no message of its shows them in a URL."""
        if self.client is None:
            for name, value in SETTINGS.items():
                os.environ.setdefault(name, value)
            os.environ.update(self.credentials)
            spare_loopback()
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=self.uri)
        return self.client


def points(told: Metrics, trial: bool, at: float) -> "list[Metric]":
    """What a line measures, as MLflow's metrics at the time `at`; a `trial` has a run of its own."""
    from mlflow.entities import Metric

    prefix = told.group if trial or told.network is None else f"{told.group}/{told.network}"
    return [Metric(f"{prefix}/{name}", value, _milliseconds(at), told.step) for name, value in told.values.items()]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested mappings as texts, by names such as `space.share`; those that are empty are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value not in (None, "", []):
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _code(error: Exception) -> str | None:
    """MLflow's word for what is wrong, where it is MLflow that says it."""
    return getattr(error, "error_code", None)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
