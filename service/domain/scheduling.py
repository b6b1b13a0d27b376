"""Who may start next: fair shares between projects, quotas, priorities, and what fits the cluster.

Ray knows neither priorities nor quotas nor shares between jobs, so all of it is decided here, and a search is only
launched when all of its workers fit, or the fewest that will do. No I/O: the store asks `admit` with what the database
holds.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

HALF_LIFE_SECONDS = 6 * 3600.0
"""After this long, half of what a project has used is forgotten."""

AGEING_SECONDS = 3600.0
"""Waiting this long is worth one step of priority."""

CPUS_PER_ACCELERATOR = 8
"""How many CPUs count as much as one GPU."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that is alive; `accelerator_types` as Ray names what it has, such as A100."""

    name: str
    cpus: float
    gpus: float
    accelerator_types: tuple[str, ...] = ()


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

    def plus(self, cpus: float, gpus: float) -> "Capacity":
        """So much more, of no node in particular."""
        return Capacity(self.cpus + cpus, self.gpus + gpus)

    def less(self, cpus: float, gpus: float) -> "Capacity":
        """So much less, of no node in particular: more may be held than there is, where a node was lost."""
        return Capacity(max(0.0, self.cpus - cpus), max(0.0, self.gpus - gpus))

    @property
    def accelerator_types(self) -> list[str]:
        """The types that its nodes have, sorted."""
        return sorted({name for node in self.nodes or () for name in node.accelerator_types})

    def of_type(self, accelerator_type: str | None) -> "Capacity":
        """The part of it that has a type; None is all of it."""
        if accelerator_type is None or self.nodes is None:
            return self
        return Capacity.of([node for node in self.nodes if accelerator_type in node.accelerator_types])

    def places(self, cpus_per_worker: float, gpus_per_worker: float) -> float:
        """How many workers of that size the empty cluster takes; a worker is never spread over nodes."""
        nodes = self.nodes if self.nodes is not None else (Node("any", self.cpus, self.gpus),)
        return math.fsum(min(fit(node.cpus, cpus_per_worker), fit(node.gpus, gpus_per_worker)) for node in nodes)


def fit(has: float, need: float) -> float:
    """How many times `need` goes into `has`, whole."""
    return math.inf if need <= 0 or has == math.inf else math.floor(has / need)


@dataclass(frozen=True)
class Ask:
    """A queued search and what it needs: `workers` workers, `cpus` and `gpus` in all, on nodes of `accelerator_type`.

    These are the most that it wants, and `min_workers` the fewest that will do (None: it takes all or none).
    """

    id: str
    workers: int
    cpus: int
    gpus: int
    min_workers: int | None = None
    accelerator_type: str | None = None

    def of(self, workers: int) -> "Ask":
        """The same search with so many workers."""
        cpus, gpus = self.cpus // self.workers, self.gpus // self.workers
        return replace(self, workers=workers, cpus=workers * cpus, gpus=workers * gpus)

    @property
    def least(self) -> "Ask":
        """The same search with the fewest workers that will do."""
        return self if self.min_workers is None else self.of(self.min_workers)

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
    """Each with as many workers as it is granted."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Reasons by the search's id."""


class Room:
    """What is free and not set aside: CPUs and GPUs, of all nodes and of those that have a type.

    Searches of no type may sit anywhere, so one of a type has room for no more than is free in all, and for no more
    than its nodes have beside what searches of that type hold.
    """

    def __init__(self, capacity: Capacity, held: Capacity, held_by_type: Mapping[str, Capacity]) -> None:
        self.capacity, self.held_by_type = capacity, held_by_type
        self.free: dict[str | None, Capacity] = {None: capacity.less(held.cpus, held.gpus)}

    def of(self, accelerator_type: str | None) -> Capacity:
        """What a search of that type could have."""
        every = self.free[None]
        if accelerator_type is None:
            return every
        if accelerator_type not in self.free:
            held = self.held_by_type.get(accelerator_type, Capacity(0, 0))
            self.free[accelerator_type] = self.capacity.of_type(accelerator_type).less(held.cpus, held.gpus)
        own = self.free[accelerator_type]
        return Capacity(min(own.cpus, every.cpus), min(own.gpus, every.gpus))

    def take(self, ask: Ask) -> None:
        """Give a search what it needs, or set aside as much of that as there is."""
        room = self.of(ask.accelerator_type)
        cpus, gpus = min(ask.cpus, room.cpus), min(ask.gpus, room.gpus)
        for name in {None, ask.accelerator_type}:
            self.free[name] = self.free[name].less(cpus, gpus)

    @property
    def left(self) -> bool:
        """Whether anything is left."""
        return self.free[None].cpus > 0 or self.free[None].gpus > 0


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
    held_by_type: Mapping[str, Capacity] | None = None,
) -> Verdict:
    """Choose at most `limit` searches to launch now, and how many workers each is granted.

    The project whose use and expected use are smallest for its weight goes first, with the first of its `queue`. Where
    the fewest workers that will do for that do not fit, what they need is set aside and nobody passes it but with what
    it has no need of: a large search waits for room, and is not starved by small ones. Where they fit, it is granted as
    many more, up to the most that it wants, as fit into what no search before it has need of. What could never fit is
    left waiting, and sets nothing aside; so does a project that has reached a quota. Of `typical_seconds` a launched
    search is expected to use its accelerators. `held` is by all searches, `held_by_type` by those of a type.
    """
    verdict = Verdict()
    room = Room(capacity, held, held_by_type or {})
    queues = {share.project: queue(share.project) for share in shares}
    order = [(share.score, share.project, share) for share in shares]
    heapq.heapify(order)
    while order and len(verdict.admitted) < limit and room.left:
        _, project, share = heapq.heappop(order)
        ask = next(queues[project], None)
        if ask is None:
            continue
        least, nodes = ask.least, capacity.of_type(ask.accelerator_type)
        reason = over_quota(share, least) or too_large(least, nodes)
        if reason is not None:
            verdict.waiting[ask.id] = reason
            continue
        free = room.of(ask.accelerator_type)
        if least.cpus <= free.cpus and least.gpus <= free.gpus:
            granted = grant(ask, share, nodes, free)
            verdict.admitted.append(granted)
            share.running += 1
            share.held += granted.accelerators
            share.ahead += granted.accelerators * typical_seconds
            heapq.heappush(order, (share.score, project, share))
            room.take(granted)
        else:
            verdict.waiting[ask.id] = no_room(least, nodes, free)
            room.take(least)
    return verdict


def grant(ask: Ask, share: Share, nodes: Capacity, free: Capacity) -> Ask:
    """The search with as many workers as `nodes` have places for, as are `free`, and as its project's quota allows.

    That the fewest that will do can be granted is known.
    """
    least, each = ask.least, ask.of(1)
    places = min(nodes.places(each.cpus, each.gpus), fit(free.cpus, each.cpus), fit(free.gpus, each.gpus))
    workers = int(min(ask.workers, places))
    while workers > least.workers and over_quota(share, ask.of(workers)) is not None:
        workers -= 1
    return ask.of(max(workers, least.workers))


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


def too_large(ask: Ask, nodes: Capacity) -> str | None:
    """Why the nodes of its type, as they are now, could not run this even if they were empty, if they could not."""
    each_cpus, each_gpus = ask.cpus / ask.workers, ask.gpus / ask.workers
    places = nodes.places(each_cpus, each_gpus)
    if places >= ask.workers:
        return None
    return (
        f"needs {ask.workers} workers of {each_cpus:g} CPUs and {each_gpus:g} GPUs{of_type(ask)}, and the cluster's "
        f"nodes have room for {places:g} such workers even when nothing else runs"
    )


def no_room(ask: Ask, nodes: Capacity, free: Capacity) -> str:
    """Why it waits, when what it needs of the nodes of its type is taken or set aside for others."""
    return (
        f"needs {ask.cpus} CPUs and {ask.gpus} GPUs{of_type(ask)}; the cluster has {nodes.cpus:g} and {nodes.gpus:g}, "
        f"of which {free.cpus:g} and {free.gpus:g} are free for it"
    )


def of_type(ask: Ask) -> str:
    """What to say of the type of accelerator, where it matters."""
    return f" of nodes with {ask.accelerator_type}" if ask.accelerator_type is not None else ""
