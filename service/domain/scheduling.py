"""Who may start next: fair shares between projects, quotas, priorities, and what fits the cluster.

Ray knows neither priorities nor quotas nor shares between jobs, so all of it is decided here, and a search is only
launched when all of its workers fit, or the fewest that will do. No I/O: the store asks `admit` with what the database
holds.
"""

import heapq
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from nas_core.wording import number_of, resources

HALF_LIFE_SECONDS = 6 * 3600.0
"""After this long, half of what a project has used is forgotten."""

AGEING_SECONDS = 3600.0
"""Waiting this long is worth one step of priority."""

MOST_PASSED = 5000
"""How many searches that can never fit are passed in one look at the queues."""

CPUS_PER_ACCELERATOR = 8
"""How many CPUs count as much as one GPU."""


class RayUnavailable(RuntimeError):
    """Ray did not answer, or not as it should; what was asked may or may not have happened."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster; `accelerator_types` as Ray names what it has, such as A100.

    One that is `possible` is not there: its group, whose name it bears, may grow by it (`service.domain.node_groups`).
    """

    name: str
    cpus: float
    gpus: float
    accelerator_types: tuple[str, ...] = ()
    possible: bool = False


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

    @property
    def may_grow(self) -> bool:
        """Whether it counts nodes that are not there yet."""
        return any(node.possible for node in self.nodes or ())

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


@dataclass
class Space:
    """What is free on a node."""

    node: Node
    cpus: float
    gpus: float

    def takes(self, each: Ask) -> float:
        """How many workers of that size it takes, whole."""
        if each.accelerator_type is not None and each.accelerator_type not in self.node.accelerator_types:
            return 0
        return min(fit(self.cpus, each.cpus), fit(self.gpus, each.gpus))

    def take(self, cpus: float, gpus: float) -> tuple[float, float]:
        """Give away so much, or what there is; returns what is still missing."""
        cpus_here, gpus_here = min(cpus, self.cpus), min(gpus, self.gpus)
        self.cpus, self.gpus = self.cpus - cpus_here, self.gpus - gpus_here
        return cpus - cpus_here, gpus - gpus_here


class Room:
    """What is free and not set aside, node by node.

    Nobody tells on which nodes Ray has put what is held. Here it is spread as Ray tends to: large workers first, each
    on the emptiest node that takes it, and those without GPUs on nodes without, as far as there are any. So what has
    room here fits in all likelihood; where Ray did better, something waits a little longer than it had to.
    """

    def __init__(self, capacity: Capacity, held: Sequence[Ask]) -> None:
        # Of what types a cluster's nodes are that was not looked at is not known either: they may be of any.
        asked = {ask.accelerator_type for ask in held} - {None}
        unknown = Node("any", capacity.cpus, capacity.gpus, tuple(map(str, asked)))
        nodes = capacity.nodes if capacity.nodes is not None else (unknown,)
        self.known = capacity.nodes is not None
        self.spaces = [Space(node, node.cpus, node.gpus) for node in nodes]
        for ask in sorted(held, key=lambda one: (one.of(1).gpus, one.of(1).cpus), reverse=True):
            self.take(ask)

    def places(self, ask: Ask) -> float:
        """How many of its workers have a place."""
        return math.fsum(space.takes(self._each(ask)) for space in self.spaces)

    def free(self, ask: Ask) -> Capacity:
        """What is free on nodes of its type, together."""
        spaces = self._of_type(ask)
        return Capacity(math.fsum(space.cpus for space in spaces), math.fsum(space.gpus for space in spaces))

    def take(self, ask: Ask) -> None:
        """Give a search what it needs; of what finds no place whole, such as where a node was lost, what there is."""
        each = self._each(ask)
        for _ in range(ask.workers):
            able = [space for space in self.spaces if space.takes(each) >= 1]
            if able:
                max(able, key=lambda space: self._emptiness(space, each)).take(each.cpus, each.gpus)
                continue
            cpus, gpus = float(each.cpus), float(each.gpus)
            for space in [*self._of_type(ask), *self.spaces]:
                cpus, gpus = space.take(cpus, gpus)

    def set_aside(self, ask: Ask) -> None:
        """Keep for a search that finds no place what it needs, so that those behind it do not take that.

        Where there is enough of it in all and not on whole nodes, that is everything that is free of what it needs on
        nodes of its type: they empty until a worker fits.
        """
        free, spaces = self.free(ask), self._of_type(ask)
        enough = ask.cpus <= free.cpus and ask.gpus <= free.gpus
        cpus = (free.cpus if enough else float(ask.cpus)) if ask.cpus else 0.0
        gpus = (free.gpus if enough else float(ask.gpus)) if ask.gpus else 0.0
        for space in spaces:
            cpus, gpus = space.take(cpus, gpus)

    @property
    def left(self) -> bool:
        """Whether anything is left."""
        return any(space.cpus > 0 or space.gpus > 0 for space in self.spaces)

    def _each(self, ask: Ask) -> Ask:
        return ask.of(1) if self.known else replace(ask.of(1), accelerator_type=None)

    def _of_type(self, ask: Ask) -> list[Space]:
        kind = self._each(ask).accelerator_type
        return [space for space in self.spaces if kind is None or kind in space.node.accelerator_types]

    @staticmethod
    def _emptiness(space: Space, each: Ask) -> tuple[float, ...]:
        """What a worker goes by; a node that is there before one that would have to be added."""
        there = -float(space.node.possible)
        if each.gpus:
            return there, space.gpus, space.cpus
        return there, -math.copysign(1, space.node.gpus - 0.5), space.cpus


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
    held: Sequence[Ask],
    typical_seconds: float,
    limit: int,
) -> Verdict:
    """Choose at most `limit` searches to launch now, and how many workers each is granted.

    The project whose use and expected use are smallest for its weight goes first, with the first of its `queue`. Where
    the fewest workers that will do for that find no place, each whole on a node, what they need is set aside and nobody
    passes it but with what it has no need of: a large search waits for room, and is not starved by small ones. Where
    they do, it is granted as many more, up to the most that it wants, as find a place in what no search before it has
    need of. What could never fit is left waiting, sets nothing aside, and holds up nobody; a project that has reached a
    quota is held up itself. Of `typical_seconds` a launched search is expected to use its accelerators. `held` are the
    searches that hold something, with the workers that they were granted.
    """
    verdict = Verdict()
    room = Room(capacity, held)
    queues = {share.project: queue(share.project) for share in shares}
    order = [(share.score, share.project, share) for share in shares]
    heapq.heapify(order)
    passed = 0
    while order and len(verdict.admitted) < limit and room.left:
        _, project, share = heapq.heappop(order)
        ask = next(queues[project], None)
        if ask is None:
            continue
        least, nodes = ask.least, capacity.of_type(ask.accelerator_type)
        reason = over_quota(share, least)
        if reason is not None:
            verdict.waiting[ask.id] = reason
            continue
        if (reason := too_large(least, nodes)) is not None:
            if passed < MOST_PASSED:
                heapq.heappush(order, (share.score, project, share))
            passed += 1
            verdict.waiting[ask.id] = reason
            continue
        if room.places(least) >= least.workers:
            granted = grant(ask, share, room)
            verdict.admitted.append(granted)
            share.running += 1
            share.held += granted.accelerators
            share.ahead += granted.accelerators * typical_seconds
            heapq.heappush(order, (share.score, project, share))
            room.take(granted)
        else:
            verdict.waiting[ask.id] = no_room(least, nodes, room)
            room.set_aside(least)
    return verdict


def yielding(
    ask_id: str, candidates: Sequence[str], admitted: Callable[[Collection[str]], Collection[str]]
) -> list[str]:
    """Who makes room for a search: as few of `candidates` as that takes, the first of them before others.

    `admitted` are those whom `admit` would launch if some were gone. Nobody makes room in vain: where all of them do
    not suffice, none does, as where the search is admitted without.
    """
    chosen: list[str] = []
    if ask_id in admitted(chosen):
        return []
    for candidate in candidates:
        chosen.append(candidate)
        if ask_id in admitted(chosen):
            break
    else:
        return []
    for one in chosen[:-1]:  # the last was needed
        if ask_id in admitted(fewer := [other for other in chosen if other != one]):
            chosen = fewer
    return chosen


def grant(ask: Ask, share: Share, room: Room) -> Ask:
    """The search with as many workers as find a place, and as its project's quota allows.

    That the fewest that will do can be granted is known.
    """
    least = ask.least
    workers = int(min(ask.workers, room.places(ask)))
    while workers > least.workers and over_quota(share, ask.of(workers)) is not None:
        workers -= 1
    return ask.of(max(workers, least.workers))


def over_quota(share: Share, ask: Ask) -> str | None:
    """Why the project may not start this one now, if it may not."""
    if share.max_running is not None and share.running >= share.max_running:
        runs = number_of(share.running, "search")
        return f"project {share.project} runs {runs}, and may run {share.max_running} at once"
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
        f"needs {number_of(ask.workers, 'worker')} of {resources(each_cpus, each_gpus)}{of_type(ask)}, and the "
        f"cluster's nodes{' and those that may be added' if nodes.may_grow else ''} have room for "
        f"{number_of(places, 'such worker')} even when nothing else runs"
    )


def no_room(ask: Ask, nodes: Capacity, room: Room) -> str:
    """Why it waits, when what it needs of the nodes of its type is taken or set aside for others."""
    free = room.free(ask)
    told = (
        f"needs {resources(ask.cpus, ask.gpus)}{of_type(ask)}; the cluster "
        f"{'may grow to' if nodes.may_grow else 'has'} {nodes.cpus:g} and {nodes.gpus:g}, "
        f"of which {free.cpus:g} and {free.gpus:g} are free for it"
    )
    if ask.cpus > free.cpus or ask.gpus > free.gpus:
        return told
    return f"{told}, where {room.places(ask):g} of {number_of(ask.workers, 'worker')} fit whole on a node"


def of_type(ask: Ask) -> str:
    """What to say of the type of accelerator, where it matters."""
    return f" of nodes with {ask.accelerator_type}" if ask.accelerator_type is not None else ""
