"""The dispatcher: claims searches, launches them on Ray, follows their folders, and finishes them.

What it promises is at-least-once launches, fenced, with results committed once. A search is worked on by whoever
holds its lease; every write names the lease's token; a launch names the search and the attempt, and Ray refuses an
id that it has seen. Whether a search has succeeded is decided by `result.json` in its folder and by nothing else.

Nothing here holds a transaction open while it talks to Ray or to the storage.
"""

import logging
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from service.dispatch.executors.ray_jobs import RayJobs, RayUnavailable
from service.dispatch.runs import Runs
from service.domain.lifecycle import MAX_ATTEMPTS, IllegalTransition, Status, backoff
from service.domain.request import Capacity
from service.store.models import Search, now
from service.store.searches import LEASE_SECONDS, LostLease, Searches

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
CAPACITY_SECONDS = 10.0
STOP_AGAIN_SECONDS = 60.0
"""Longer than a job takes to stop: a driver that is told twice gives up its orderly end."""

JOB_ENVIRONMENT = {
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Dispatcher:
    """Moves searches along; `run` in a thread, or `turn` by turn.

    `python` is the interpreter that the jobs run with; `ensure_ray` brings Ray up where it is the service's own.
    """

    def __init__(
        self,
        searches: Searches,
        runs: Runs,
        jobs: RayJobs,
        data_roots: tuple[str, ...] = (),
        python: str = sys.executable,
        ensure_ray: Callable[[], object] | None = None,
    ) -> None:
        self.searches, self.runs, self.jobs = searches, runs, jobs
        self.data_roots, self.python, self.ensure_ray = data_roots, python, ensure_ray
        self.owner = f"{socket.gethostname()}-{os.getpid()}"
        self.held: dict[str, Search] = {}
        self.capacity: Capacity | None = None
        self.ray_error: str | None = None
        self.wake = threading.Event()
        self.stopping = threading.Event()
        self._renewed = self._measured = float("-inf")
        self._stopped: dict[str, float] = {}

    def run(self) -> None:
        """Take turns until `stop` is called; then give the leases back."""
        while not self.stopping.is_set():
            try:
                self.turn()
            except Exception:
                log.exception("a turn of the dispatcher failed; going on")
            self.wake.wait(POLL_SECONDS)
            self.wake.clear()
        self.searches.hand_back(self._tokens())

    def stop(self) -> None:
        """Make `run` return after the current turn."""
        self.stopping.set()
        self.wake.set()

    def turn(self) -> None:
        """Renew the leases, claim what can be claimed, and take one step with each search that is held."""
        if self.held and time.monotonic() - self._renewed > LEASE_SECONDS / 3:
            still = self.searches.renew(self._tokens())
            self.held = {search_id: search for search_id, search in self.held.items() if search_id in still}
            self._renewed = time.monotonic()
        self._measure()
        for search in self.searches.claim(self.owner, self.capacity or Capacity(0, 0)):
            log.info("claimed search %s, %s", search.id, search.status)
            self.held[search.id] = search
        if not self.held:
            self._renewed = time.monotonic()
        for search_id in list(self.held):
            try:
                # The state may have been changed by a user since: cancelling.
                self._step(self.searches.get(search_id))
            except LostLease:
                log.warning("lost the lease of search %s", search_id)
                del self.held[search_id]
            except IllegalTransition as error:
                log.info("search %s was overtaken: %s", search_id, error)
            except RayUnavailable as error:
                log.warning("search %s: %s", search_id, error)
                self._measured = float("-inf")
            except OSError as error:
                log.warning("search %s: its folder cannot be reached: %s", search_id, error)

    def _tokens(self) -> dict[str, str]:
        return {search_id: search.lease_token or "" for search_id, search in self.held.items()}

    def _measure(self) -> None:
        """Learn what the cluster has, now and then, and bring Ray back where it is gone."""
        if time.monotonic() - self._measured < CAPACITY_SECONDS:
            return
        try:
            if self.ensure_ray is not None:
                self.ensure_ray()
            capacity = self.jobs.capacity()
            self.ray_error = None
            if capacity.cpus > 0:  # a Ray that has just started does not know its own node yet
                self.capacity = capacity
                self._measured = time.monotonic()
        except (RayUnavailable, RuntimeError) as error:
            self.ray_error = str(error)
            log.warning("%s", error)

    def _step(self, search: Search) -> None:
        """Take the one step that a search's state asks for."""
        token = self.held[search.id].lease_token or ""
        if search.lease_token != token:
            raise LostLease(search.id)
        match Status(search.status):
            case Status.QUEUED:
                self._launch(search, token)
            case Status.LAUNCHING:
                self._submit(search)
                self._follow(search, token)
            case Status.WAITING | Status.RUNNING:
                self._follow(search, token)
            case Status.FINISHING:
                self._finish(search, token)
            case Status.CANCELLING:
                self._cancel(search, token)
            case Status.SUCCEEDED | Status.FAILED | Status.CANCELLED:
                del self.held[search.id]

    def _launch(self, search: Search, token: str) -> None:
        """Note the attempt, then hand it to Ray: a crash between the two is repaired by submitting again."""
        search = self.searches.move(search.id, token, Status.LAUNCHING, attempt=search.attempt + 1, reason=None)
        self._submit(search)

    def _submit(self, search: Search) -> None:
        self.runs.write_spec(search.id, search.spec, self.data_roots)
        entrypoint = shlex.join([self.python, "-m", "worker.job", self.runs.url(search.id)])
        environment = JOB_ENVIRONMENT | {"YOSO_ATTEMPT": str(search.attempt)}
        self.jobs.submit(submission_id(search), entrypoint, environment)

    def _follow(self, search: Search, token: str) -> None:
        """Read what is new in the folder, and compare it with what Ray says of the job."""
        # Asked before the folder is read: what a job did before it ended is then in what is read.
        job = self.jobs.job(submission_id(search))
        for name, lines in self.runs.chunks(search.id, search.journal_cursor):
            search = self.searches.follow(search.id, token, name, lines)
            started = any(line["kind"] == "started" and line["attempt"] == search.attempt for line in lines)
            if started and search.status != Status.RUNNING:
                search = self.searches.move(search.id, token, Status.RUNNING, reason=None)
        if self.runs.read_json(search.id, "result.json") is not None:
            self._finish(self.searches.move(search.id, token, Status.FINISHING, reason=None), token)
        elif job is None and search.status != Status.LAUNCHING:
            self._failed(search, token, {"kind": "vanished", "message": "Ray knows the job no more", "retryable": True})
        elif job is not None and job.status.ended:
            error = self.runs.read_json(search.id, "error.json")
            if error is None or error.get("attempt") != search.attempt:
                error = {"kind": "job", "message": job.message or f"the job ended: {job.status}", "retryable": True}
            self._failed(search, token, error)
        elif job is not None and search.status == Status.LAUNCHING:
            reason = "waiting for the cluster to start the workers"
            self.searches.move(search.id, token, Status.WAITING, reason=reason)

    def _finish(self, search: Search, token: str) -> None:
        result = self.runs.read_json(search.id, "result.json")
        if result is None:
            error = {"kind": "storage", "message": "the result is gone from the run's folder", "retryable": False}
            self._failed(search, token, error)
            return
        self.searches.succeed(search.id, token, result)
        log.info("search %s has succeeded", search.id)
        del self.held[search.id]
        self._forget(search)

    def _failed(self, search: Search, token: str, error: dict[str, Any]) -> None:
        """Try again what may be tried again, from the last checkpoint; otherwise the search has failed."""
        told = {key: error[key] for key in ("kind", "message", "traceback") if error.get(key)}
        told |= {"attempt": search.attempt}
        if error.get("retryable") and search.attempt < MAX_ATTEMPTS:
            seconds = backoff(search.attempt)
            log.warning("search %s, attempt %d failed: %s", search.id, search.attempt, told["message"])
            self.searches.move(
                search.id,
                token,
                Status.QUEUED,
                error=told,
                not_before=now() + seconds,
                reason=f"attempt {search.attempt} failed and is tried again in {seconds:g} s: {told['message']}",
            )
        else:
            log.warning("search %s has failed: %s", search.id, told["message"])
            self.searches.move(search.id, token, Status.FAILED, error=told, reason=None)
        del self.held[search.id]
        self._forget(search)

    def _cancel(self, search: Search, token: str) -> None:
        """Stop the job, and end the search when it is gone."""
        job = self.jobs.job(submission_id(search))
        if job is not None and not job.status.ended:
            if time.monotonic() - self._stopped.get(search.id, float("-inf")) > STOP_AGAIN_SECONDS:
                self._stopped[search.id] = time.monotonic()
                self.jobs.stop(submission_id(search))
            return
        self._stopped.pop(search.id, None)
        self.searches.move(search.id, token, Status.CANCELLED, reason=None)
        del self.held[search.id]
        self._forget(search)

    def _forget(self, search: Search) -> None:
        """Make Ray forget the job, whose truth is in its folder; that it may be unreachable does no harm."""
        try:
            job = self.jobs.job(submission_id(search))
            if job is not None and job.status.ended:
                self.jobs.delete(submission_id(search))
        except RayUnavailable as error:
            log.info("job of search %s stays with Ray: %s", search.id, error)


def submission_id(search: Search) -> str:
    """The id under which an attempt is known to Ray."""
    return f"yoso-{search.id}-{search.attempt}"
