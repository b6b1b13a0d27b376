"""Who may start next: fair shares between projects, quotas, priorities, and what fits the cluster.

Ray knows neither priorities nor quotas nor shares between jobs, so all of it is decided here, and a search is only
launched when all of its workers fit. No I/O: the store asks `admit` with what the database holds.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

HALF_LIFE_SECONDS = 6 * 3600.0
"""After this long, half of what a project has used is forgotten."""

AGEING_SECONDS = 3600.0
"""Waiting this long is worth one step of priority."""

CPUS_PER_ACCELERATOR = 8
"""How many CPUs count as much as one GPU."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that is alive."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Capacity:
    """What a cluster has in all; what is not known yet is no limit."""

    cpus: float = math.inf
    gpus: float = math.inf
    nodes: tuple[Node, ...] | None = None

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> "Capacity":
        """What `nodes` have together."""
        return cls(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes), tuple(nodes))

    def places(self, cpus_per_worker: float, gpus_per_worker: float) -> float:
        """How many workers of that size the empty cluster takes; a worker is never spread over nodes."""
        nodes = self.nodes if self.nodes is not None else (Node("any", self.cpus, self.gpus),)
        return math.fsum(min(fit(node.cpus, cpus_per_worker), fit(node.gpus, gpus_per_worker)) for node in nodes)


def fit(has: float, need: float) -> float:
    """How many times `need` goes into `has`, whole."""
    return math.inf if need <= 0 or has == math.inf else math.floor(has / need)


@dataclass(frozen=True)
class Ask:
    """A queued search and what it needs: `workers` workers, `cpus` and `gpus` in all."""

    id: str
    workers: int
    cpus: int
    gpus: int

    @property
    def accelerators(self) -> float:
        """What it counts as in shares and quotas."""
        return accelerators(self.cpus, self.gpus)


@dataclass
class Share:
    """A project's standing: what it may have, what it has used, and what it holds.

    `used` is in accelerator-seconds, decayed to now; `ahead` what its running searches are still expected to use.
    """

    project: str
    weight: float = 1.0
    max_running: int | None = None
    max_accelerators: float | None = None
    used: float = 0.0
    ahead: float = 0.0
    running: int = 0
    held: float = 0.0

    @property
    def score(self) -> float:
        """The project with the smallest is next."""
        return (self.used + self.ahead) / self.weight


@dataclass
class Verdict:
    """What `admit` decided: whom to launch, in this order, and why the first of every other project waits."""

    admitted: list[Ask] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    """Reasons by the search's id."""


def accelerators(cpus: float, gpus: float) -> float:
    """How many accelerators a search counts as: its GPUs, or the CPUs that are worth more."""
    return max(float(gpus), cpus / CPUS_PER_ACCELERATOR)


def rank(created_at: float, priority: int) -> float:
    """The place in a project's queue, smallest first: by creation, and a step of priority is an hour's wait ahead.

    It never changes while a search waits, so ageing costs nothing: a lower priority is overtaken only by searches
    that come within its hours.
    """
    return created_at - priority * AGEING_SECONDS


def decayed(used: float, seconds: float) -> float:
    """What is left of `used` accelerator-seconds after `seconds`."""
    return used * math.exp2(-max(0.0, seconds) / HALF_LIFE_SECONDS)


def usage(amount: float, seconds: float) -> float:
    """Accelerator-seconds that `amount` accelerators have used in the last `seconds`, decayed as it was used."""
    rate = math.log(2) / HALF_LIFE_SECONDS
    return amount * -math.expm1(-rate * max(0.0, seconds)) / rate


def admit(
    shares: Sequence[Share],
    queue: Callable[[str], Iterator[Ask]],
    capacity: Capacity,
    held: Capacity,
    typical_seconds: float,
    limit: int,
) -> Verdict:
    """Choose at most `limit` searches to launch now.

    The project whose use and expected use are smallest for its weight goes first, with the first of its `queue`. Where
    that does not fit, what it needs is set aside and nobody passes it but with what it has no need of: a large search
    waits for room, and is not starved by small ones. What could never fit is left waiting, and sets nothing aside; so
    does a project that has reached a quota. Of `typical_seconds` a launched search is expected to use its accelerators.
    """
    verdict = Verdict()
    # More may be held than there is, where a node was lost.
    cpus, gpus = max(0.0, capacity.cpus - held.cpus), max(0.0, capacity.gpus - held.gpus)
    queues = {share.project: queue(share.project) for share in shares}
    order = [(share.score, share.project, share) for share in shares]
    heapq.heapify(order)
    while order and len(verdict.admitted) < limit and (cpus > 0 or gpus > 0):
        _, project, share = heapq.heappop(order)
        ask = next(queues[project], None)
        if ask is None:
            continue
        reason = over_quota(share, ask) or too_large(ask, capacity)
        if reason is not None:
            verdict.waiting[ask.id] = reason
            continue
        fits = ask.cpus <= cpus and ask.gpus <= gpus
        if fits:
            verdict.admitted.append(ask)
            share.running += 1
            share.held += ask.accelerators
            share.ahead += ask.accelerators * typical_seconds
            heapq.heappush(order, (share.score, project, share))
        else:
            verdict.waiting[ask.id] = no_room(ask, capacity, cpus, gpus)
        cpus, gpus = max(0.0, cpus - ask.cpus), max(0.0, gpus - ask.gpus)
    return verdict


def over_quota(share: Share, ask: Ask) -> str | None:
    """Why the project may not start this one now, if it may not."""
    if share.max_running is not None and share.running >= share.max_running:
        return f"project {share.project} runs {share.running} searches, and may run {share.max_running} at once"
    if share.max_accelerators is not None and share.held + ask.accelerators > share.max_accelerators:
        return (
            f"project {share.project} holds {share.held:g} accelerators, and this needs {ask.accelerators:g}; it may "
            f"hold {share.max_accelerators:g} at once"
        )
    return None


def too_large(ask: Ask, capacity: Capacity) -> str | None:
    """Why the cluster as it is now could not run this even if it were empty, if it could not."""
    each_cpus, each_gpus = ask.cpus / ask.workers, ask.gpus / ask.workers
    places = capacity.places(each_cpus, each_gpus)
    if places >= ask.workers:
        return None
    return (
        f"needs {ask.workers} workers of {each_cpus:g} CPUs and {each_gpus:g} GPUs, and the cluster's nodes have room "
        f"for {places:g} such workers even when nothing else runs"
    )


def no_room(ask: Ask, capacity: Capacity, cpus: float, gpus: float) -> str:
    """Why it waits, when what it needs is taken or set aside for others."""
    return (
        f"needs {ask.cpus} CPUs and {ask.gpus} GPUs; the cluster has {capacity.cpus:g} and {capacity.gpus:g}, of which "
        f"{cpus:g} and {gpus:g} are free for it"
    )
