"""The dispatcher: claims searches, launches them on Ray, follows their folders, and finishes them.

What it promises is at-least-once launches, fenced, with results committed once. A search is worked on by whoever
holds its lease; every write names the lease's token. A launch names the search and the attempt: the driver claims the
attempt in the run's folder, and refuses one that is claimed or closed, so that a launch by a dispatcher that was asleep
does nothing. Whether a search has succeeded is decided by `result.json` of the attempt and by nothing else. A slot is
free when job, actors and placement groups of the attempt are proved gone.

Nothing here holds a transaction open while it talks to Ray or to the storage.
"""

import logging
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from nas_core.spec import FinalsOptions
from nas_core.wording import number_of, resources
from service.dispatch.executors.port import Executor, Job, Refused
from service.domain.lifecycle import LONGEST_BACKOFF, WAITING_SECONDS, IllegalTransition, Status, backoff
from service.domain.node_groups import NodeGroup, grown
from service.domain.retention import BY_DEFAULT, Part, Retention
from service.domain.scheduling import Capacity, Node, RayUnavailable
from service.folders import model as folder_model
from service.folders.model import Asked, BadFolder
from service.folders.runs import Runs, TornFile, driver_log
from service.logs import SEARCH
from service.store.changes import UnknownSearch
from service.store.claims import LEASE_SECONDS, ask_of
from service.store.cluster import ClusterStore
from service.store.deadlines import deadline_of, end_overdue
from service.store.models import Search
from service.store.preemption import make_room
from service.store.searches import NotEnded, Searches
from service.store.webhooks import WebhookStore
from service.store.work import LostLease, Work

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
CAPACITY_SECONDS = 10.0
SWEEP_SECONDS = 60.0
RELEASE_SECONDS = 2.0
HEARTBEAT_SECONDS = LEASE_SECONDS / 3
STALLED_SECONDS = 120.0
"""A dispatcher that has not got on for so long lets its leases run out: its beating heart proves nothing."""

STOP_AGAIN_SECONDS = 60.0
"""Longer than a job takes to stop: a driver that is told twice gives up its orderly end."""

LOOK_SECONDS, LONGEST_LOOK_SECONDS, RESULT_SECONDS = 10.0, 40.0, 120.0
"""In an object store: between two looks into a journal, the same while nothing is new, and between two looks for a
result while the job runs. In a local folder all of that is done in every turn."""

LEAVE_SECONDS = 30.0
"""How long a driver may take to leave by itself once its result is there."""

FOLLOW_SECONDS = 2.0
"""How long one turn reads the journal of one search, so that a flood of lines holds up no other."""

MOST_EVENTS = 1_000_000
"""Events that a search may have: what it tells besides is dropped, and counted."""

LONGEST_WAIT_SECONDS = 60.0
"""Between two tries of what does not work."""

CLEAR_SECONDS = 10.0
CLEARED_AT_ONCE = 20
"""Searches that are deleted, and folders that are removed or measured, at a time."""

FORGOTTEN_AT_ONCE = 10_000
"""Entries of the audit log, and messages to webhooks, that are deleted at a time."""

SETTLE_SECONDS = 60.0
"""How long the folder of a deleted search is left alone: who has just ended it may still write its log there."""

GROUP_LABEL = "ray.io/node-group"
"""The label by which Ray's nodes tell the autoscaler's group that they are of; KubeRay sets it."""

MOST_AHEAD = 100
"""Attempts by which a folder may be ahead of a database that was restored."""

MOST_ODD = 5
"""How often a step may fail without a known cause until the search has failed."""

THREADS = 8
"""How many searches are followed at once, so that a slow answer holds up few others."""

JOB_ENVIRONMENT = {
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

NOT_WAITED, PREEMPTED = "waiting", "preempted"
"""The kinds of error of an attempt that is queued again: Ray did not start its workers, or another needs it."""
GAVE_BACK = {NOT_WAITED: (LONGEST_BACKOFF, "was returned to the queue"), PREEMPTED: (0.0, "was returned to the queue")}
"""For how many seconds it is not launched again, and what it did; in the queue it is behind whom it made room for."""

Spread = Callable[[Callable[[str], None], Iterable[str]], Iterable[None]]
"""How the steps of one turn are taken: one after the other (`map`), or several at once (a pool's `map`)."""


@dataclass
class Trouble:
    """What keeps a search from getting on: how often it has, of these how often for no known cause, and until when it
    is left alone.
    """

    times: int = 0
    odd: int = 0
    until: float = 0.0
    reason: str = ""


@dataclass
class Look:
    """What a dispatcher knows of an attempt's folder in an object store, and when it looks again, by the clock."""

    listed: bool = False
    """Whether the whole journal was listed, after which chunks follow number by number."""
    again: float = 0.0
    pause: float = LOOK_SECONDS
    """How long after the last look that is."""
    result: float = 0.0
    """When it asks for a result again."""
    closed: bool = False
    """Whether it has closed the folder, this one or a local one."""


class Dispatcher:
    """Moves searches along; `run` in a thread, or `turn` by turn.

    `python` is the interpreter that the jobs run with; `ensure_ray` brings Ray up where it is the service's own.
    """

    def __init__(
        self,
        searches: Searches,
        runs: Runs,
        jobs: Executor,
        roots_of: Callable[[str], tuple[str, ...]] = lambda project: (),
        python: str = sys.executable,
        ensure_ray: Callable[[], object] | None = None,
        retention: Retention = BY_DEFAULT,
        waiting_seconds: float = WAITING_SECONDS,
        node_groups: Sequence[NodeGroup] = (),
    ) -> None:
        self.searches, self.runs, self.jobs = searches, runs, jobs
        self.work, self.cluster = Work(searches.engine), ClusterStore(searches.engine)
        self.webhooks = WebhookStore(searches.engine)
        self.roots_of, self.python, self.ensure_ray = roots_of, python, ensure_ray
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self.held: dict[str, str] = {}
        """The tokens of the leases that it holds, by the searches' ids."""
        self.retention = retention
        self.waiting_seconds = waiting_seconds
        """How long a search may wait in Ray for its workers until it is returned to the queue."""
        self.node_groups = node_groups
        self.capacity: Capacity | None = None
        self.ray_error: str | None = None
        self.wake = threading.Event()
        self.stopping = threading.Event()
        self.last_turn = time.monotonic()
        self._measured = self._swept = self._released = self._cleared = self._preempted = float("-inf")
        self._stopped: dict[str, float] = {}
        self._leaving: dict[str, float] = {}
        self._waiting: dict[str, float] = {}
        """Since when attempts have been seen to wait in Ray for their workers, by the jobs' names."""
        self._late: dict[str, dict[str, Any]] = {}
        """Why attempts give their places back, as the error with which they end, by the jobs' names."""
        self._looks: dict[str, Look] = {}
        """By the jobs' names."""
        self._troubles: dict[str, Trouble] = {}
        self._events: dict[str, int] = {}
        """How many events there are of a search that is held, as far as that was asked for."""

    def run(self) -> None:
        """Take turns until `stop` is called; then give the leases back."""
        heart = threading.Thread(target=self._beat, name="heartbeat")
        heart.start()
        with ThreadPoolExecutor(THREADS, "follow") as pool:
            while not self.stopping.is_set():
                try:
                    self.turn(pool.map)
                except Exception as error:
                    log.error("a turn of the dispatcher failed; going on: %s", error, exc_info=not _is_away(error))
                self.wake.wait(POLL_SECONDS)
                self.wake.clear()
        heart.join()
        try:
            self.work.hand_back(self.held.values())
        except SQLAlchemyError as error:
            log.warning("the leases could not be handed back and will run out: %s", error)

    def stop(self) -> None:
        """Make `run` return after the current turn."""
        self.stopping.set()
        self.wake.set()

    def turn(self, spread: Spread = map) -> None:
        """Claim what can be claimed, and take one step with each search that is held."""
        self.last_turn = time.monotonic()
        self._measure()
        try:
            self._claim()
        except SQLAlchemyError as error:
            # What is held gets on in any case.
            log.warning("nothing could be claimed: %s: %s", type(error).__name__, error)
        for _ in spread(self._safely_step, list(self.held)):
            self.last_turn = time.monotonic()
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            self._sweep()
        if time.monotonic() - self._cleared > CLEAR_SECONDS:
            self._cleared = time.monotonic()
            self._clear()

    def _claim(self) -> None:
        """Take over what nobody follows, and what is next in the queue."""
        if time.monotonic() - self._released > RELEASE_SECONDS:
            self._released = time.monotonic()
            self.work.release_finals()
            for search in end_overdue(self.searches.engine, self.capacity, self.ray_error):
                log.warning("search %s: %s", search.id, search.error and search.error["message"])
        if self.ray_error is None:
            self._hold(self.work.take_over(self.owner))
            self._hold(self.work.claim(self.owner, self.capacity or Capacity(0, 0)))
            if time.monotonic() - self._preempted > RELEASE_SECONDS:
                self._preempted = time.monotonic()
                for search in make_room(self.searches.engine, self.capacity or Capacity(0, 0)):
                    log.info("search %s makes room for %s", search.id, search.yields_to)

    def _hold(self, searches: Iterable[Search]) -> None:
        for search in searches:
            log.info("claimed search %s, %s, attempt %d", search.id, search.status, search.attempt)
            self.held[search.id] = search.lease_token or ""
            self._forget_wait(submission_id(search))  # from when it was held before

    def renew(self) -> None:
        """Prolong the leases, and let go of those that have gone to others."""
        held = dict(self.held)
        if held:
            still = self.work.renew(held.values())
            for search_id, token in held.items():
                if token not in still and self.held.get(search_id) == token:
                    log.warning("lost the lease of search %s", search_id)
                    self.held.pop(search_id, None)

    def _beat(self) -> None:
        """Renew the leases while the turns get on, however long one takes."""
        while not self.stopping.wait(HEARTBEAT_SECONDS):
            if time.monotonic() - self.last_turn > STALLED_SECONDS:
                log.error("no search has got on for %.0f s: the leases are left to others", STALLED_SECONDS)
                continue
            try:
                self.renew()
            except SQLAlchemyError as error:
                log.warning("the leases could not be renewed: %s", error)

    def _measure(self) -> None:
        """Learn what the cluster has, now and then, tell the database, and bring Ray back where it is gone."""
        if time.monotonic() - self._measured < CAPACITY_SECONDS:
            return
        nodes: list[Node] | None = None
        before = self.ray_error
        try:
            if self.ensure_ray is not None:
                self.ensure_ray()
            alive = [
                (node.labels.get(GROUP_LABEL), Node(node.name, node.cpus, node.gpus, node.accelerator_types))
                for node in self.jobs.nodes()
                if node.alive
            ]
            nodes = grown(alive, self.node_groups) if alive or self.jobs.makes_clusters else []
            self.ray_error = None if nodes else "the cluster has no node yet"
        except (RayUnavailable, RuntimeError) as error:
            self.ray_error = str(error)
        if self.ray_error is None and nodes:
            self.capacity = Capacity.of(nodes)
            self._measured = time.monotonic()
        elif self.ray_error != before:
            log.warning("%s", self.ray_error)
        self.cluster.report(self.owner, nodes or None, self.ray_error)

    def _sweep(self) -> None:
        """Stop jobs of attempts that are over: what a dispatcher launched that had lost its lease without knowing."""
        try:
            mine = {job_id: parsed for job_id in self.jobs.running() if (parsed := parse_submission_id(job_id))}
            current = self.work.current_attempts(search_id for search_id, _ in mine.values())
            for job_id, (search_id, attempt) in mine.items():
                # A search that is not in this database belongs to another service on the same cluster.
                if search_id in current and current[search_id] != attempt:
                    log.warning("stopping job %s, which nobody waits for", job_id)
                    self.jobs.stop(job_id)
            self.work.forget_old_keys()
            if self.retention.audit_days is not None:
                self.work.forget_old_audit(self.retention.audit_days, FORGOTTEN_AT_ONCE)
            if self.retention.delivery_days is not None:
                self.webhooks.forget_old(self.retention.delivery_days, FORGOTTEN_AT_ONCE)
        except RayUnavailable as error:
            log.info("the jobs could not be looked through: %s", error)

    def _clear(self) -> None:
        """Delete what is older than it is kept, remove files of what was deleted, and measure what others hold: some of
        each.

        A folder is removed before that is noted: who dies in between leaves it to another, who finds nothing to remove.
        """
        kept = self.retention.searches
        if not kept.forever:
            count, after = 0, (0.0, "")
            while count < CLEARED_AT_ONCE and (some := self.work.old(kept, after, CLEARED_AT_ONCE)):
                after = some[-1]
                for _, search_id in some:
                    with suppress(NotEnded, UnknownSearch):
                        self.searches.delete(search_id)
                        count += 1
                        log.info("deleted search %s, which ended longer ago than searches are kept", search_id)
        for part, kept in self.retention.parts.items():
            for _ in range(0 if kept.forever else CLEARED_AT_ONCE):
                if (pruned := self.work.prune(part, kept)) is None:
                    break
                log.info("search %s ended longer ago than %s are kept", pruned, *part.words)
        for search_id in self.work.deleted(SETTLE_SECONDS, CLEARED_AT_ONCE):
            try:
                self.runs.remove(search_id)
            except OSError as error:
                log.warning("the folder of search %s, which was deleted, cannot be removed yet: %s", search_id, error)
            else:
                self.work.forget(search_id)
        for search in self.work.unmeasured(CLEARED_AT_ONCE):
            try:
                if search.pruned:
                    # Of the searches of sweeps the journal stays: finals for more budgets look into it.
                    self.runs.prune(search.id, Part(search.pruned), journal=search.sweep_id is None)
                size = self.runs.size(search.id)
            except OSError as error:
                log.warning("what search %s holds in the storage cannot be measured yet: %s", search.id, error)
                break
            except BadFolder:
                size = 0  # a worker has put something else in a folder's place
            self.work.measured(search, size)

    def _safely_step(self, search_id: str) -> None:
        """One step with one search; what goes wrong with it is told and does not hold up the others."""
        token = self.held.get(search_id)
        trouble = self._troubles.get(search_id)
        if token is None or (trouble is not None and time.monotonic() < trouble.until):
            return
        named = SEARCH.set(search_id)
        try:
            if self.ray_error is None:
                # The state may have been changed by a user since: cancelling.
                self._step(self.searches.get(search_id), token)
                if trouble is not None and trouble.odd < MOST_ODD:
                    self._troubles.pop(search_id, None)
        except (LostLease, UnknownSearch):
            log.warning("lost the lease of search %s", search_id)
            self.held.pop(search_id, None)
        except IllegalTransition as error:
            log.info("search %s was overtaken: %s", search_id, error)
        except Refused as error:
            self._later(search_id, token, f"it cannot be launched; it will be tried again: {error}")
        except RayUnavailable as error:
            log.warning("search %s: %s", search_id, error)
            self._measured = float("-inf")
        except OSError as error:
            told = f"its folder cannot be used; it will be tried again: {error.strerror or error}"
            self._later(search_id, token, told)
        except SQLAlchemyError as error:
            log.warning("search %s: the database does not answer: %s", search_id, type(error).__name__)
        except Exception as error:
            log.exception("a step with search %s failed", search_id)
            told = folder_model.clean(f"{type(error).__name__}: {error}", 500)
            self._later(search_id, token, f"the service failed on it; it will be tried again: {told}", odd=True)
        finally:
            SEARCH.reset(named)

    def _later(self, search_id: str, token: str, reason: str, odd: bool = False) -> None:
        """Say what keeps a search from getting on, and try it again after a while: at once, in 1 s, 2 s, 4 s, ….

        What is `odd` counts: nobody knows whether it will ever go away.
        """
        trouble = self._troubles.setdefault(search_id, Trouble())
        seconds = min(LONGEST_WAIT_SECONDS, 2.0 ** (trouble.times - 1)) if trouble.times else 0.0
        trouble.times, trouble.odd = trouble.times + 1, trouble.odd + odd
        trouble.until, trouble.reason = time.monotonic() + seconds, reason
        log.warning("search %s: %s", search_id, reason)
        self._explain(search_id, token, reason)

    def _explain(self, search_id: str, token: str, reason: str) -> None:
        try:
            if self.searches.get(search_id).reason != reason:
                self.work.explain(search_id, token, reason)
        except (LostLease, SQLAlchemyError) as error:
            log.info("search %s: its reason could not be noted: %s", search_id, error)

    def _step(self, search: Search, token: str) -> None:
        """Take the one step that a search's state asks for; what is the fault of its folder ends it."""
        if search.lease_token != token:
            raise LostLease(search.id)
        trouble = self._troubles.get(search.id)
        if trouble is not None and trouble.odd >= MOST_ODD and search.status != Status.CANCELLING:
            self._failed(search, token, {"kind": "internal", "message": trouble.reason, "retryable": False})
            return
        try:
            self._one_step(search, token)
        except (BadFolder, DataError, IntegrityError) as error:
            if search.status == Status.CANCELLING:
                raise
            told = str(error) if isinstance(error, BadFolder) else f"the database refuses what it tells: {error.orig}"
            message = f"the run's folder holds what cannot be used: {folder_model.clean(told, 1000)}"
            self._failed(search, token, {"kind": "folder", "message": message, "retryable": False})

    def _one_step(self, search: Search, token: str) -> None:
        match Status(search.status):
            case Status.LAUNCHING:
                self._launch(search, token)
            case Status.WAITING | Status.RUNNING:
                self._follow(search, token)
            case Status.FINISHING:
                self._finish(search, token)
            case Status.CANCELLING:
                self._cancel(search, token)
            case Status.QUEUED | Status.SUCCEEDED | Status.FAILED | Status.CANCELLED:
                self.held.pop(search.id, None)

    def _launch(self, search: Search, token: str) -> None:
        """Hand the attempt to Ray, unless an earlier one has left its result after all.

        The attempt was noted when the search was claimed: a crash after that is repaired by submitting again.
        """
        if self._result(search) is not None:
            if self._read(search, token, over=True):  # of an attempt that nobody has followed to its end
                self._finish(self.work.move(search.id, token, Status.FINISHING, reason=None), token)
            return
        if (newest := self._newest(search)) > search.attempt:
            self._catch_up(search, token, newest)
            return
        told = {"attempt": search.attempt, "workers": search.workers, "min_workers": search.min_workers}
        spec = search.spec | told
        if search.kind == "finals":
            finalists = self._earlier_finalists(search) or self.runs.finalists(search.spec)
            if not finalists:
                error = {"kind": "finalists", "message": "none of its searches found a network", "retryable": False}
                self._failed(search, token, error)
                return
            self.runs.bring_manifest(search.id, search.spec)
            trial = search.spec["finals"]["workers"]
            spec |= {"workers": trial, "min_workers": None}
            spec |= {"finalists": finalists, "at_once": search.workers // trial}
        if not self.runs.write_spec(search.id, spec, self.roots_of(search.project)):
            self._catch_up(search, token, search.attempt)  # of the same number, and launched with fewer workers perhaps
            return
        entrypoint = shlex.join([self.python, "-m", "worker.job", self.runs.url(search.id)])
        environment = JOB_ENVIRONMENT | {"YOSO_ATTEMPT": str(search.attempt)}
        self.jobs.submit(submission_id(search), entrypoint, environment, ask_of(search))
        each = resources(search.cpus / search.workers, search.gpus / search.workers)
        on = f" on nodes with {search.accelerator_type}" if search.accelerator_type else ""
        capacity = self.capacity or Capacity(0, 0)
        reason = (
            f"waiting for Ray to start {number_of(search.workers, 'worker')} of {each}{on}; the cluster "
            f"{'may grow to' if capacity.may_grow else 'has'} {resources(capacity.cpus, capacity.gpus)} in all"
        )
        self.work.move(search.id, token, Status.WAITING, reason=reason)

    def _earlier_finalists(self, search: Search) -> list[dict[str, Any]] | None:
        """The finalists that an earlier attempt was told: trials go by their numbers."""
        try:
            told = (self.runs.read_json(search.id, "spec.json") or {}).get("finalists")
        except TornFile:
            return None
        return folder_model.finalists("spec.json", told) if told else None

    def _newest(self, search: Search) -> int:
        """The newest attempt of which the folder tells, which may be later than any that the database knows."""
        newest = max(self.runs.attempts(search.id), default=0)
        if newest > search.attempt + MOST_AHEAD:
            raise BadFolder("attempts", "the newest", newest, f"at most {MOST_AHEAD} behind the {search.attempt} known")
        return newest

    def _catch_up(self, search: Search, token: str, newest: int) -> None:
        """Go on behind the attempts of which the folder tells and the database does not.

        The database was restored from an earlier day. A dispatcher that has lost its lease sees the same, and learns
        of that before it does anything.
        """
        if not self.work.renew([token]):
            raise LostLease(search.id)
        for number in range(search.attempt, newest + 1):
            self.runs.close(search.id, number)
        if all(self._gone(search, token, number) for number in range(search.attempt, newest + 1)):
            log.warning("search %s: the folder is at attempt %d, the database at %d", search.id, newest, search.attempt)
            reason = f"its folder is at attempt {newest}, and the database knew of {search.attempt}: it goes on behind"
            self.work.catch_up(search.id, token, newest, reason)
            self.held.pop(search.id, None)

    def _follow(self, search: Search, token: str) -> None:
        """Read what is new in the folder, and compare it with what Ray says of the job."""
        # Asked before the folder is read: what a job did before it ended is then in what is read.
        job = self.jobs.job(submission_id(search))
        over = job is None or job.status.ended or submission_id(search) in self._late
        read = self._read(search, token, over)
        if read is None:
            return
        search = read
        if self._may_have_ended(search, over) and self._result(search) is not None:
            self._finish(self.work.move(search.id, token, Status.FINISHING, reason=None), token)
        elif over and (newest := self._newest(search)) > search.attempt:
            self._catch_up(search, token, newest)
        elif (late := self._late.get(submission_id(search))) is not None:
            self._failed(search, token, late)
        elif job is None:
            self._failed(search, token, {"kind": "vanished", "message": "Ray no longer has the job", "retryable": True})
        elif job.status.ended:
            self._failed(search, token, self._error(search, job))
        elif search.yields_to is not None:
            self._give_back(search, token, PREEMPTED, f"it makes room for search {search.yields_to}")
        elif search.status == Status.WAITING:
            self._wait(search, token)

    def _read(self, search: Search, token: str, over: bool) -> Search | None:
        """Have what is new in the journal among the events; None where that takes longer than one turn may."""
        begin = time.monotonic()
        for name, lines in self._chunks(search, over):
            if int(name[:4]) > search.attempt:
                break  # the database was restored: it is the later attempt's to tell
            search = self.work.follow(search.id, token, name, self._at_most(search.id, name, lines))
            if time.monotonic() - begin > FOLLOW_SECONDS:
                return None  # what follows is read in the next turn, when others have had theirs
        return search

    def _look(self, search: Search) -> Look:
        return self._looks.setdefault(submission_id(search), Look())

    def _chunks(self, search: Search, over: bool) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """What is new in the journal; in an object store, where asking costs, when it is time, or the job is `over`."""
        if not self.runs.remote:
            yield from self.runs.chunks(search.id, search.journal_cursor, asked(search))
            return
        look, now = self._look(search), time.monotonic()
        if now < look.again and not over:
            return
        if look.listed and not over:
            found = self.runs.next_chunks(search.id, search.journal_cursor, search.attempt, asked(search))
        else:
            found = self.runs.chunks(search.id, search.journal_cursor, asked(search))
        begun = search.status != Status.WAITING  # until then somebody waits to see it begin
        look.pause = min(2 * look.pause, LONGEST_LOOK_SECONDS) if begun else LOOK_SECONDS
        for chunk in found:
            look.pause = LOOK_SECONDS
            yield chunk
        look.listed, look.again = True, now + look.pause

    def _may_have_ended(self, search: Search, over: bool) -> bool:
        """Whether to ask for the result: a job leaves soon after it is written, but for one that hangs."""
        if not self.runs.remote or over:
            return True
        look, now = self._look(search), time.monotonic()
        due = now >= look.result
        if due:
            look.result = now + RESULT_SECONDS
        return due

    def _wait(self, search: Search, token: str) -> None:
        """Let an attempt whose workers Ray does not start in time give its place back."""
        name = submission_id(search)
        if time.monotonic() - self._waiting.setdefault(name, time.monotonic()) > self.waiting_seconds:
            workers = number_of(search.workers, "worker")
            told = (
                f"Ray did not start its {workers} within {self.waiting_seconds:g} s; others than Yoso's searches may "
                "hold the nodes"
            )
            self._give_back(search, token, NOT_WAITED, told)

    def _give_back(self, search: Search, token: str, kind: str, told: str) -> None:
        """Let an attempt give its place back, from the next turn on.

        It counts as none of the search's attempts, which is noted before its job is stopped: whoever takes over in
        between finds no more than a job that was stopped.
        """
        log.warning("search %s is returned to the queue: %s", search.id, told)
        self.work.excuse(search.id, token, f"it is returned to the queue: {told}")
        self._late[submission_id(search)] = {"kind": kind, "message": told, "retryable": True}

    def _forget_wait(self, name: str) -> None:
        self._looks.pop(name, None)
        self._waiting.pop(name, None)
        self._late.pop(name, None)

    def _at_most(self, search_id: str, name: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The lines of a chunk, or of too many those that there is room for, and one that says how many there were."""
        if search_id not in self._events:
            self._events[search_id] = self.searches.count_events(search_id)
        known = self._events[search_id]
        room = max(0, MOST_EVENTS - known)
        if len(lines) > room:
            kept = lines[:room] + [line for line in lines[room:] if line["kind"] == "started"][:1]
            dropped = folder_model.dropped_lines(name, len(lines) - len(kept), lines[-1]["time"])
            lines = [*kept, dropped] if len(lines) > len(kept) else kept
        self._events[search_id] = known + len(lines)
        return lines

    def _result(self, search: Search) -> dict[str, Any] | None:
        """The result, where it is there and whole: a torn one is no result, and the attempt's end decides."""
        try:
            return self.runs.result(search.id, search.attempt, asked(search))
        except TornFile as error:
            log.warning("search %s: %s", search.id, error)
            return None

    def _error(self, search: Search, job: Job) -> dict[str, Any]:
        """Why an attempt failed: what its driver wrote, or else what Ray says."""
        with suppress(TornFile):
            if (error := self.runs.error(search.id, search.attempt)) is not None:
                return error
        message = folder_model.clean(job.message) or f"the job ended: {job.status}"
        return {"kind": "job", "message": message, "retryable": True}

    def _finish(self, search: Search, token: str) -> None:
        """Take the result over, which ends the search; one that is gone or unusable ends the attempt.

        Not before the attempt has left the cluster: the slot is free with the search's end.
        """
        if self._look(search).closed and not self._left(search, token):
            return
        result = self._result(search)
        if result is None:
            self._failed(
                search, token, {"kind": "storage", "message": "the result is missing or incomplete", "retryable": True}
            )
            return
        self._close(search)
        if not self._left(search, token):
            return
        self.work.succeed(search.id, token, result)
        log.info("search %s has succeeded", search.id)
        self._done(search)

    def _failed(self, search: Search, token: str, error: dict[str, Any]) -> None:
        """Try again what may be tried again, from the last checkpoint; otherwise the search has failed.

        Not before the attempt is proved gone: what Ray calls failed may be alive, and two must not write one folder.
        """
        if not self._ended(search, token):
            return
        told = {key: error[key] for key in ("kind", "message", "traceback") if error.get(key)}
        told |= {"attempt": search.attempt}
        if error.get("retryable") and search.attempt < search.last_attempt:
            # Who has waited in vain lets others try for a while what room there is.
            seconds, how = GAVE_BACK.get(error["kind"], (backoff(search.attempt), "failed"))
            log.warning("search %s, attempt %d %s: %s", search.id, search.attempt, how, told["message"])
            reason = f"attempt {search.attempt} {how} and is tried again in {seconds:g} s: {told['message']}"
            self.work.try_again(search.id, token, seconds, error=told, reason=reason)
        else:
            log.warning("search %s has failed: %s", search.id, told["message"])
            self.work.move(search.id, token, Status.FAILED, error=told, reason=None)
        self._done(search)

    def _cancel(self, search: Search, token: str) -> None:
        """End the search when its attempt is proved gone: as its user, or a deadline, has asked for."""
        if self._ended(search, token):
            try:
                late = self._result(search) is not None
            except BadFolder:
                late = False
            if deadline_of(search) is not None:
                reason = "its result was written in the meantime; a retry uses it" if late else None
                self.work.move(search.id, token, Status.FAILED, reason=reason, error=search.error)
            else:
                reason = "cancelled; a result that was written in the meantime is not used" if late else None
                self.work.move(search.id, token, Status.CANCELLED, reason=reason)
            self._done(search)

    def _ended(self, search: Search, token: str) -> bool:
        """Whether the attempt is over for good: closed, so that a job of it that comes late does nothing, and gone.

        In this order: what has begun before it was closed is among Ray's jobs.
        """
        with _unless_bad(search):
            self._close(search)
        return self._gone(search, token)

    def _close(self, search: Search) -> None:
        """Close the attempt's folder, unless this dispatcher has before."""
        if not self._look(search).closed:
            self.runs.close(search.id, search.attempt)
            self._look(search).closed = True

    def _left(self, search: Search, token: str) -> bool:
        """Whether the attempt's job and all that it started are gone; if they do not go by themselves, stop them.

        A cluster of its own does not.
        """
        name = submission_id(search)
        job = self.jobs.job(name)
        if job is not None and job.status.ended and self.jobs.makes_clusters:
            return self._gone(search, token)
        if not self._remains(name):
            self._leaving.pop(name, None)
            return True
        since = self._leaving.setdefault(name, time.monotonic())
        return time.monotonic() - since > LEAVE_SECONDS and self._gone(search, token)

    def _remains(self, name: str) -> list[str]:
        """What is left in the cluster of an attempt's job, in words."""
        job = self.jobs.job(name)
        alive = job is not None and not job.status.ended
        return [f"job {name}"] if alive else self.jobs.remains(name)

    def _gone(self, search: Search, token: str, attempt: int | None = None) -> bool:
        """Stop an attempt's job, and tell whether it and all that it started are gone; else note what is left.

        It is the search's newest attempt, or the one that is named.
        """
        name = submission_id(search, attempt)
        remains = self._remains(name)
        if not remains:
            self._stopped.pop(name, None)
            return True
        since = self._stopped.get(name, float("-inf"))
        if time.monotonic() - since > STOP_AGAIN_SECONDS:
            if since > float("-inf"):
                told = f"told to stop, but still running after {STOP_AGAIN_SECONDS:g} s: {', '.join(remains[:5])}"
                log.warning("search %s: %s", search.id, told)
                self._explain(search.id, token, told)
            elif self.jobs.makes_clusters and attempt is None:
                with suppress(RayUnavailable, OSError):
                    self._keep_log(search)  # which goes with the cluster
            self.jobs.stop(name)
            self._stopped[name] = time.monotonic()
        return False

    def _done(self, search: Search) -> None:
        """Let go of a search that has ended, or waits for another attempt.

        Its driver's output is kept in its folder, and Ray forgets the job. That Ray or the storage may be away does no
        harm: the job stays until the cluster ends.
        """
        for known in (self.held, self._troubles, self._events):
            known.pop(search.id, None)
        name = submission_id(search)
        self._forget_wait(name)
        try:
            job = self.jobs.job(name)
            if job is not None and job.status.ended:
                self._keep_log(search)
                self.jobs.delete(name)
        except (RayUnavailable, OSError) as error:
            log.info("job %s stays with Ray: %s", name, error)

    def _keep_log(self, search: Search) -> None:
        """Write what the driver of the newest attempt has printed into the run's folder."""
        with _unless_bad(search):
            content = self.jobs.logs(submission_id(search)).encode(errors="backslashreplace")
            self.runs.write(search.id, driver_log(search.attempt), content)


@contextmanager
def _unless_bad(search: Search) -> Iterator[None]:
    """Note that a worker has put something in the way of a file that the service writes, and go on."""
    try:
        yield
    except BadFolder as error:
        log.warning("search %s: %s", search.id, error)


def asked(search: Search) -> Asked:
    """What the search was asked for, which its folder answers."""
    finals = search.kind == "finals"
    own = {} if finals else search.spec.get("finals", {})
    return Asked(tuple(search.spec["budgets"]), finals, FinalsOptions.parse(own).competing)


def submission_id(search: Search, attempt: int | None = None) -> str:
    """The id under which an attempt, the newest one unless another is named, is known to Ray."""
    return f"yoso-{search.id}-{search.attempt if attempt is None else attempt}"


def parse_submission_id(text: str) -> tuple[str, int] | None:
    """The search and the attempt that an id was made of; None where Yoso did not make it."""
    prefix, _, rest = text.partition("-")
    search_id, _, attempt = rest.rpartition("-")
    return (search_id, int(attempt)) if prefix == "yoso" and search_id and attempt.isdigit() else None


def _is_away(error: Exception) -> bool:
    """Whether it is no more than a database that does not answer, of which a traceback tells nothing."""
    return isinstance(error, SQLAlchemyError)
