"""A dispatcher in a thread of its own, with the Ray that it brings up where it is the service's own."""

import logging
import os
import threading
import time
from pathlib import Path

from nas_core.errors import InvalidValue
from service.dispatch.dispatcher import Dispatcher, submission_id
from service.dispatch.executors.kuberay import KubeRay
from service.dispatch.executors.port import Executor
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.dispatch.follower import Follower
from service.dispatch.local_ray import LocalRay
from service.dispatch.mlflow import Mirror
from service.dispatch.traces import Tracer
from service.dispatch.webhooks import Sender
from service.folders.runs import Runs
from service.settings import Settings
from service.store.models import Search
from service.store.searches import Searches

log = logging.getLogger(__name__)
DRAIN_SECONDS = 6.0
MIRROR_SECONDS = 1.0
"""How long what is being sent to MLflow, a collector or webhooks may still take when the dispatcher has ended."""
STUCK_SECONDS = 120.0
"""Longer than any turn that gets anywhere: bringing up a Ray may take 100 s."""


class Dispatching:
    """What `yoso serve` and `yoso dispatch` have in common."""

    def __init__(self, settings: Settings, searches: Searches, runs: Runs) -> None:
        own = settings.ray_address is None and settings.rayjob is None
        self.local_ray = LocalRay(settings.ray_folder) if own else None
        self.jobs = RayJobs(self.local_ray.endpoint) if self.local_ray else elsewhere(settings)
        ensure = self.local_ray.ensure if self.local_ray else None
        self.dispatcher = Dispatcher(
            searches,
            runs,
            self.jobs,
            settings.roots_of,
            ensure_ray=ensure,
            retention=settings.retention,
            waiting_seconds=settings.waiting_seconds,
            node_groups=settings.node_groups,
        )
        # A daemon, so that a turn that hangs in the storage cannot keep the process.
        self.thread = threading.Thread(target=self.dispatcher.run, name="dispatcher", daemon=True)
        self.followers: list[Follower] = []
        if settings.mlflow_uri:
            self.followers.append(Mirror(searches, settings.mlflow_uri))
        if settings.otlp_url:
            self.followers.append(Tracer(searches, settings.otlp_url))
        # Daemons too: what does not reach a server now is sent by whoever follows next.
        self.following = [
            threading.Thread(target=one.run, name=type(one).__name__.lower(), daemon=True) for one in self.followers
        ]
        self.sender = Sender(searches.engine, settings.webhook_networks, settings.public_url, settings.notify_schemes)
        self.sending = threading.Thread(target=self.sender.run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin to take turns, to tell webhooks, and to pass on what happens to MLflow and OTLP where that is asked."""
        self.thread.start()
        self.sending.start()
        for thread in self.following:
            thread.start()

    @property
    def stuck(self) -> bool:
        """Whether the dispatcher has stopped taking turns, or has not taken one for a long time."""
        return not self.thread.is_alive() or time.monotonic() - self.dispatcher.last_turn > STUCK_SECONDS

    def wake(self) -> None:
        """Let the dispatcher look at once."""
        self.dispatcher.wake.set()

    def printed(self, search: Search) -> bytes:
        """What the driver of a search's newest attempt has printed so far. Raises `RayUnavailable`."""
        return self.jobs.logs(submission_id(search)).encode()

    def drain(self, seconds: float = DRAIN_SECONDS) -> bool:
        """Claim nothing more and hand the leases back; False where a turn takes longer than `seconds`.

        The leases then run out by themselves. Only the first call waits.
        """
        if not self.dispatcher.stopping.is_set():
            for follower in self.followers:
                follower.stop()
            self.sender.stop()
            self.dispatcher.stop()
            self.thread.join(seconds)
            self.sending.join(MIRROR_SECONDS)
            for thread in self.following:
                thread.join(MIRROR_SECONDS)
            if self.thread.is_alive():
                log.warning("the dispatcher's last turn takes too long; its leases run out by themselves")
        return not self.thread.is_alive()

    def close(self) -> None:
        """Stop the Ray of the service's own, with what runs on it, and close the connections to Ray."""
        if self.local_ray is not None:
            self.local_ray.stop()
        self.jobs.close()


def elsewhere(settings: Settings) -> Executor:
    """What runs searches on other machines: the Ray cluster of the settings, or KubeRay.

    Raises `InvalidValue` where that is Kubernetes, and this is no pod of it.
    """
    if settings.rayjob is None:
        return RayJobs(lambda: remote(settings))
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        accepted = "a pod with a service account's token; Kubernetes sets KUBERNETES_SERVICE_HOST in it"
        raise InvalidValue("YOSO_EXECUTOR", "rayjob", "this process does not run in a pod", accepted)
    host = f"[{host}]" if ":" in host else host
    return KubeRay(settings.rayjob, f"https://{host}:{port}", ray_token=ray_token)


def remote(settings: Settings) -> Endpoint:
    """The Ray cluster that the settings name, with the token from the environment where one is set."""
    return Endpoint(settings.ray_address or "", ray_token())


def ray_token() -> str | None:
    """The token of a Ray elsewhere, from the environment; None where none is set."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    if token is None and (path := os.environ.get("RAY_AUTH_TOKEN_PATH")):
        token = Path(path).read_text().strip()
    return token
