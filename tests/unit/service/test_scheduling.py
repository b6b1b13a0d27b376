"""Who may start next: shares, quotas, priorities, room."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.scheduling import (
    AGEING_SECONDS,
    HALF_LIFE_SECONDS,
    Ask,
    Capacity,
    Node,
    Room,
    Share,
    admit,
    decayed,
    rank,
    usage,
)
from tests.thoroughness import some

SHORT = 10.0


def asks(*needs: tuple[int, int], prefix: str = "") -> list[Ask]:
    """Searches of one worker each that need so many CPUs and GPUs."""
    return [Ask(f"{prefix}{number}", 1, cpus, gpus) for number, (cpus, gpus) in enumerate(needs)]


def holding(cpus: int, gpus: int, kind: str | None = None) -> list[Ask]:
    """Searches that hold so much, in workers of a CPU or a GPU."""
    return [Ask("held", 1, 1, 0, None, kind)] * cpus + [Ask("held", 1, 0, 1, None, kind)] * gpus


def decide(
    queues: dict[str, list[Ask]], capacity: Capacity, held: tuple[int, int] = (0, 0), **shares: Share
) -> tuple[list[str], dict[str, str]]:
    """Whom `admit` launches, and why the others wait."""
    contenders = [shares.get(name, Share(name)) for name in queues]
    verdict = admit(contenders, lambda name: iter(queues[name]), capacity, holding(*held), SHORT, 100)
    return [ask.id for ask in verdict.admitted], verdict.waiting


def test_projects_with_equal_weights_take_turns() -> None:
    queues = {name: asks(*[(1, 0)] * 4, prefix=name) for name in "ab"}
    launched, _ = decide(queues, Capacity.of([Node("n", 6, 0)]))
    assert sorted(one[0] for one in launched) == ["a", "a", "a", "b", "b", "b"]


def test_a_project_that_has_used_more_goes_later() -> None:
    queues = {name: asks((1, 0), prefix=name) for name in "ab"}
    launched, waiting = decide(queues, Capacity.of([Node("n", 1, 0)]), a=Share("a", used=100), b=Share("b", used=99))
    assert launched == ["b0"] and waiting == {}


def test_a_large_search_waits_for_room_and_is_not_starved_by_small_ones() -> None:
    queues = {"a": asks((8, 0), prefix="a"), "b": asks(*[(1, 0)] * 4, prefix="b")}
    node = Capacity.of([Node("n", 8, 0)])
    launched, waiting = decide(queues, node, (5, 0), b=Share("b", used=1))
    assert launched == []
    assert waiting["a0"] == "needs 8 CPUs and 0 GPUs; the cluster has 8 and 0, of which 3 and 0 are free for it"


def test_what_a_waiting_search_has_no_need_of_goes_to_others() -> None:
    queues = {"a": asks((1, 4), prefix="a"), "b": asks((2, 0), (2, 1), prefix="b")}
    launched, waiting = decide(queues, Capacity.of([Node("n", 8, 4)]), (0, 1), b=Share("b", used=1))
    assert launched == ["b0"]
    assert set(waiting) == {"a0", "b1"}, "the GPUs that are free are set aside"


def test_what_never_fits_holds_up_nobody() -> None:
    queues = {"a": [Ask("a0", 2, 8, 0), *asks((1, 0), prefix="later")], "b": asks((3, 0), prefix="b")}
    nodes = Capacity.of([Node("one", 4, 0), Node("two", 3, 0)])
    launched, waiting = decide(queues, nodes)
    assert sorted(launched) == ["b0", "later0"]
    assert waiting["a0"] == (
        "needs 2 workers of 4 CPUs and 0 GPUs, and the cluster's nodes have room for 1 such worker even when nothing "
        "else runs"
    )


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        (Share("a", max_running=2, running=2), "project a runs 2 searches, and may run 2 at once"),
        (
            Share("a", max_accelerators=2, held=1.5),
            "project a holds 1.5 accelerators, and this needs 1; it may hold 2 at once",
        ),
    ],
)
def test_a_quota_holds_up_its_project_alone(share: Share, reason: str) -> None:
    queues = {"a": asks((1, 1), prefix="a"), "b": asks((1, 1), prefix="b")}
    launched, waiting = decide(queues, Capacity.of([Node("n", 8, 8)]), a=share)
    assert launched == ["b0"] and waiting == {"a0": reason}


def test_a_quota_counts_what_this_very_turn_launches() -> None:
    queues = {"a": asks(*[(1, 0)] * 5)}
    launched, _ = decide(queues, Capacity.of([Node("n", 8, 0)]), a=Share("a", max_running=3, running=1))
    assert launched == ["0", "1"]


@given(
    queues=st.dictionaries(
        st.sampled_from("abcd"),
        st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5), st.integers(0, 2)).filter(lambda t: t[1] + t[2] > 0)),
    ),
    nodes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=4),
    held=st.tuples(st.integers(0, 6), st.integers(0, 4)),
    weights=st.dictionaries(st.sampled_from("abcd"), st.floats(0.1, 10)),
    limit=st.integers(0, 20),
)
def test_never_is_more_launched_than_there_is_room_for_and_each_queue_keeps_its_order(
    queues: dict[str, list[tuple[int, int, int]]],
    nodes: list[tuple[int, int]],
    held: tuple[int, int],
    weights: dict[str, float],
    limit: int,
) -> None:
    waiting = {
        name: [Ask(f"{name}{i}", w, w * c, w * g) for i, (w, c, g) in enumerate(needs)]
        for name, needs in queues.items()
    }
    capacity = Capacity.of([Node(str(i), cpus, gpus) for i, (cpus, gpus) in enumerate(nodes)])
    shares = [Share(name, weights.get(name, 1.0)) for name in waiting]
    verdict = admit(shares, lambda name: iter(waiting[name]), capacity, holding(*held), SHORT, limit)
    launched = verdict.admitted
    assert len(launched) <= limit
    if launched:
        assert held[0] + sum(ask.cpus for ask in launched) <= capacity.cpus or all(ask.cpus == 0 for ask in launched)
        assert held[1] + sum(ask.gpus for ask in launched) <= capacity.gpus or all(ask.gpus == 0 for ask in launched)
    for name, queue in waiting.items():
        own = [ask for ask in launched if ask.id[0] == name]
        able = [ask for ask in queue if capacity.places(ask.of(1).cpus, ask.of(1).gpus) >= ask.workers]
        assert own == able[: len(own)]
    assert not {ask.id for ask in launched} & set(verdict.waiting)


TYPES = (None, "A100", "T4")
ELASTIC = st.builds(
    lambda most, least, cpus, gpus, kind: Ask("", most, most * cpus, most * gpus, min(least, most), kind),
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.sampled_from(TYPES),
)  # fmt: skip
NODES = st.lists(
    st.builds(
        lambda cpus, gpus, kind: Node("n", cpus, gpus, () if kind is None else (kind,)),
        st.integers(0, 8), st.integers(0, 4), st.sampled_from(TYPES),
    ),
    min_size=1, max_size=5,
)  # fmt: skip
QUEUES = st.dictionaries(st.sampled_from("abcd"), st.lists(ELASTIC, max_size=6), min_size=1)
HELD = st.dictionaries(st.sampled_from(TYPES), st.tuples(st.integers(0, 6), st.integers(0, 3)))


def numbered(queues: dict[str, list[Ask]]) -> dict[str, list[Ask]]:
    """The queues with an id for each search: its project's letter and its place."""
    return {
        name: [replace(ask, id=f"{name}{number}") for number, ask in enumerate(queue)] for name, queue in queues.items()
    }


def all_held(held: dict[str | None, tuple[int, int]]) -> list[Ask]:
    """The searches that hold something of each type."""
    return [ask for kind, (cpus, gpus) in held.items() for ask in holding(cpus, gpus, kind)]


def fits(nodes: list[Node], asks: list[Ask]) -> bool:
    """Whether there is a way to put all workers of all searches on nodes, each whole: by trying all."""
    workers = [ask.of(1) for ask in sorted(asks, key=lambda ask: (ask.cpus, ask.gpus)) for _ in range(ask.workers)]

    @functools.cache
    def place(number: int, free: tuple[tuple[int, int], ...]) -> bool:
        if number == len(workers):
            return True
        each = workers[number]
        return any(
            place(number + 1, (*free[:i], (cpus - each.cpus, gpus - each.gpus), *free[i + 1 :]))
            for i, (cpus, gpus) in enumerate(free)
            if cpus >= each.cpus and gpus >= each.gpus
            if each.accelerator_type is None or each.accelerator_type in nodes[i].accelerator_types
        )

    return place(0, tuple((int(node.cpus), int(node.gpus)) for node in nodes))


@settings(max_examples=some(400))
@given(QUEUES, NODES, HELD, st.none() | st.integers(0, 4))
def test_never_is_more_granted_than_is_free_nor_less_than_will_do(
    queues: dict[str, list[Ask]], nodes: list[Node], held: dict[str | None, tuple[int, int]], quota: int | None
) -> None:
    waiting, capacity = numbered(queues), Capacity.of(nodes)
    shares = [Share(name, max_accelerators=quota, held=0.5) for name in waiting]
    verdict = admit(shares, lambda name: iter(waiting[name]), capacity, all_held(held), SHORT, 100)
    asked = {ask.id: ask for queue in waiting.values() for ask in queue}
    for granted in verdict.admitted:
        ask = asked[granted.id]
        assert ask.least.workers <= granted.workers <= ask.workers and granted == ask.of(granted.workers)
        assert granted.workers <= capacity.of_type(ask.accelerator_type).places(ask.of(1).cpus, ask.of(1).gpus)
    for kind in TYPES:
        own = [one for one in verdict.admitted if kind is None or one.accelerator_type == kind]
        cpus, gpus = sum(one.cpus for one in own), sum(one.gpus for one in own)
        taken = [one for one in all_held(held) if kind is None or one.accelerator_type == kind]
        has = capacity.of_type(kind)
        assert cpus == 0 or sum(one.cpus for one in taken) + cpus <= has.cpus
        assert gpus == 0 or sum(one.gpus for one in taken) + gpus <= has.gpus
    if not held:
        assert fits(nodes, verdict.admitted)
    for name, queue in waiting.items():
        own = [one for one in verdict.admitted if one.id[0] == name]
        able = [ask.id for ask in queue if possible(ask, capacity)]
        assert [one.id for one in own] == able[: len(own)]
        assert quota is None or not own or 0.5 + sum(one.accelerators for one in own) <= quota


@given(QUEUES, NODES, st.none() | st.just(1))
def test_one_more_worker_is_refused_only_where_it_does_not_fit(
    queues: dict[str, list[Ask]], nodes: list[Node], busy: int | None
) -> None:
    """The first of all, whom nobody is before, gets as many workers as there are places, and all that it can have."""
    waiting, capacity = numbered(queues), Capacity.of(nodes)
    held = [] if busy is None else holding(1, 0)
    first = next((ask for name in sorted(waiting) for ask in waiting[name][:1] if possible(ask, capacity)), None)
    admitted = admit([Share(name) for name in waiting], lambda name: iter(waiting[name]), capacity, held, SHORT, 100)
    granted = next((one for one in admitted.admitted if first is not None and one.id == first.id), None)
    if first is None or granted is None or admitted.admitted[0] != granted or granted.workers == first.workers:
        return
    room = Room(capacity, held)
    assert room.places(first) < granted.workers + 1


def possible(ask: Ask, capacity: Capacity) -> bool:
    """Whether the fewest workers that will do fit the empty cluster."""
    each = ask.of(1)
    return capacity.of_type(ask.accelerator_type).places(each.cpus, each.gpus) >= ask.least.workers


def test_two_halves_of_two_nodes_are_no_room_for_a_worker() -> None:
    """It would wait in Ray, and hold what it was given for nothing."""
    nodes = Capacity.of([Node("one", 4, 0), Node("two", 4, 0)])
    held = [Ask("x", 1, 2, 0), Ask("y", 1, 2, 0)]
    queues = {"a": [Ask("large", 1, 4, 0)], "b": asks((1, 0), prefix="b")}
    verdict = admit([Share("a"), Share("b", used=1)], lambda n: iter(queues[n]), nodes, held, SHORT, 100)
    assert verdict.admitted == []
    assert verdict.waiting["large"] == (
        "needs 4 CPUs and 0 GPUs; the cluster has 8 and 0, of which 4 and 0 are free for it, where 0 of 1 worker "
        "fit whole on a node"
    )
    verdict = admit([Share("a"), Share("b", used=1)], lambda n: iter(queues[n]), nodes, held[:1], SHORT, 100)
    assert [one.id for one in verdict.admitted] == ["large", "b0"], "and what is besides goes to others"


@settings(max_examples=some(400))
@given(ELASTIC, NODES, st.lists(ELASTIC, min_size=1, max_size=4), st.integers(2, 4))
def test_nobody_is_starved_by_those_that_come_again_and_again(
    wanted: Ask, nodes: list[Node], others: list[Ask], seconds: int
) -> None:
    """Others come for ever and run for some turns each; whoever is first gets its room within the longest of these."""
    capacity, large = Capacity.of(nodes), replace(wanted, id="large")
    if capacity.of_type(large.accelerator_type).places(large.of(1).cpus, large.of(1).gpus) < large.least.workers:
        return
    small = (replace(others[number % len(others)], id=f"b{number}") for number in itertools.count())
    running: list[tuple[int, Ask]] = []
    for turn in range(3 * seconds + 1):
        running = [(until, ask) for until, ask in running if until > turn]
        held = [ask for _, ask in running]
        ours = [large] if turn >= 2 * seconds else []  # the others were there before
        queues = {"a": iter(ours), "b": itertools.islice(small, 20)}
        verdict = admit([Share("a"), Share("b", used=1e-9)], queues.__getitem__, capacity, held, SHORT, 100)
        if any(one.id == "large" for one in verdict.admitted):
            return
        running += [(turn + 1 + int(ask.id[1:]) % seconds, ask) for ask in verdict.admitted]
    raise AssertionError("it never had its turn")


def test_more_workers_than_will_do_are_granted_with_room_that_nobody_before_needs() -> None:
    node = Capacity.of([Node("n", 8, 0)])
    wide = Ask("wide", 8, 8, 0, 2)
    queues = {"a": iter(asks((3, 0))), "b": iter([wide])}
    verdict = admit([Share("a"), Share("b", used=1)], queues.__getitem__, node, holding(1, 0), SHORT, 100)
    assert [(one.id, one.workers, one.cpus) for one in verdict.admitted] == [("0", 1, 3), ("wide", 4, 4)]
    tight = admit([Share("b", max_accelerators=0.375)], lambda _: iter([wide]), node, [], SHORT, 100)
    assert [(one.workers, one.cpus) for one in tight.admitted] == [(3, 3)], "its quota allows three"
    none = admit([Share("b")], lambda _: iter([wide]), node, holding(7, 0), SHORT, 100)
    assert none.admitted == [] and none.waiting["wide"].startswith("needs 2 CPUs and 0 GPUs; ")


def test_a_type_is_found_only_on_nodes_that_have_it() -> None:
    nodes = Capacity.of([Node("a", 4, 2, ("A100",)), Node("t", 8, 4, ("T4",)), Node("plain", 8, 0)])
    typed, plain = Ask("typed", 2, 2, 2, 1, "A100"), Ask("plain", 4, 4, 4)

    def decided(held: list[Ask], *queue: Ask) -> list[tuple[str, int]]:
        queues = {ask.id: iter([ask]) for ask in queue}
        shares = [Share(ask.id, used=number) for number, ask in enumerate(queue)]
        admitted = admit(shares, queues.__getitem__, nodes, held, SHORT, 100).admitted
        return [(one.id, one.workers) for one in admitted]

    one = Ask("held", 1, 1, 1, None, "A100")
    assert decided([], typed, plain) == [("typed", 2), ("plain", 4)]
    assert decided([one], typed, plain) == [("typed", 1), ("plain", 4)]
    assert decided([replace(one, accelerator_type="T4")], typed) == [("typed", 2)], "another type's are no loss"
    assert decided([one, one], typed, plain) == [("plain", 4)], "what it waits for is not what others need"
    second = replace(typed, id="second")
    assert decided([], typed, second, plain) == [("typed", 2), ("plain", 4)], "the first has taken them"
    anywhere = replace(one, accelerator_type=None)
    assert decided([anywhere] * 5, typed) == [("typed", 1)], "searches of no type may sit on its nodes"
    unknown = replace(typed, accelerator_type="H100")
    verdict = admit([Share("a")], lambda _: iter([unknown]), nodes, [], SHORT, 100)
    assert verdict.waiting["typed"] == (
        "needs 1 worker of 1 CPU and 1 GPU of nodes with H100, and the cluster's nodes have room for 0 such workers "
        "even when nothing else runs"
    )


def test_shares_of_a_thousand_searches_follow_the_weights() -> None:
    weights = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 4.0}
    spent = run(weights, searches=250, seconds=lambda n: 60.0 + 30.0 * (n % 5), slots=6)
    total = sum(spent.values())
    for name, weight in weights.items():
        assert spent[name] / total == pytest.approx(weight / 8, rel=0.05), spent


def run(weights: dict[str, float], searches: int, seconds: Callable[[int], float], slots: int) -> dict[str, float]:
    """Accelerator-seconds by project while all have work; a search takes one GPU for as long as `seconds` says."""

    queues: dict[str, Iterator[Ask]] = {name: iter(asks(*[(0, 1)] * searches, prefix=name)) for name in weights}
    numbers = {name: itertools.count() for name in weights}
    running: list[tuple[float, float, str]] = []
    used, spent, now = dict.fromkeys(weights, (0.0, 0.0)), dict.fromkeys(weights, 0.0), 0.0
    started = dict.fromkeys(weights, 0)
    while max(started.values()) < searches:
        shares = []
        for name, weight in weights.items():
            own = [one for one in running if one[2] == name]
            so_far = decayed(used[name][0], now - used[name][1]) + sum(usage(1, now - begin) for _, begin, _ in own)
            ahead = sum(max(0.0, 120.0 - (now - begin)) for _, begin, _ in own)
            shares.append(Share(name, weight, used=so_far, ahead=ahead, running=len(own), held=len(own)))
        node = Capacity.of([Node("n", 0, slots)])
        for ask in admit(shares, queues.__getitem__, node, holding(0, len(running)), 120.0, 100).admitted:
            name = ask.id[0]
            started[name] += 1
            running.append((now + seconds(next(numbers[name])), now, name))
        running.sort()
        now, begin, name = running.pop(0)
        spent[name] += now - begin
        used[name] = decayed(used[name][0], now - used[name][1]) + usage(1, now - begin), now
    return spent


def test_a_step_of_priority_is_worth_an_hour_of_waiting() -> None:
    assert rank(1000.0, 1) < rank(1000.0, 0) < rank(1000.0, -1)
    assert rank(1000.0, 0) < rank(1000.0 + AGEING_SECONDS + 1, 1), "an older one is not overtaken for ever"


def test_use_decays_as_it_is_made() -> None:
    assert decayed(8.0, HALF_LIFE_SECONDS) == 4.0
    assert usage(2.0, 1.0) == pytest.approx(2.0, rel=1e-4)
    assert usage(1.0, math.inf) == pytest.approx(HALF_LIFE_SECONDS / math.log(2))
    # What was used in two parts is what was used in one.
    assert decayed(usage(3.0, 500.0), 700.0) + usage(3.0, 700.0) == pytest.approx(usage(3.0, 1200.0))
