"""Who may start next: shares, quotas, priorities, room."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.scheduling import (
    AGEING_SECONDS,
    HALF_LIFE_SECONDS,
    Ask,
    Capacity,
    Node,
    Share,
    admit,
    decayed,
    rank,
    usage,
)

SHORT = 10.0


def asks(*needs: tuple[int, int], prefix: str = "") -> list[Ask]:
    """Searches of one worker each that need so many CPUs and GPUs."""
    return [Ask(f"{prefix}{number}", 1, cpus, gpus) for number, (cpus, gpus) in enumerate(needs)]


def decide(
    queues: dict[str, list[Ask]], capacity: Capacity, held: Capacity | None = None, **shares: Share
) -> tuple[list[str], dict[str, str]]:
    """Whom `admit` launches, and why the others wait."""
    contenders = [shares.get(name, Share(name)) for name in queues]
    verdict = admit(contenders, lambda name: iter(queues[name]), capacity, held or Capacity(0, 0), SHORT, 100)
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
    launched, waiting = decide(queues, node, Capacity(5, 0), b=Share("b", used=1))
    assert launched == []
    assert waiting["a0"] == "needs 8 CPUs and 0 GPUs; the cluster has 8 and 0, of which 3 and 0 are free for it"


def test_what_a_waiting_search_has_no_need_of_goes_to_others() -> None:
    queues = {"a": asks((1, 4), prefix="a"), "b": asks((2, 0), (2, 1), prefix="b")}
    launched, waiting = decide(queues, Capacity.of([Node("n", 8, 4)]), Capacity(0, 1), b=Share("b", used=1))
    assert launched == ["b0"]
    assert set(waiting) == {"a0", "b1"}, "the GPUs that are free are set aside"


def test_what_never_fits_holds_up_nobody_but_its_project() -> None:
    queues = {"a": [Ask("a0", 2, 8, 0), *asks((1, 0), prefix="later")], "b": asks((4, 0), prefix="b")}
    nodes = Capacity.of([Node("one", 4, 0), Node("two", 3, 0)])
    launched, waiting = decide(queues, nodes)
    assert launched == ["b0"]
    assert waiting["a0"] == (
        "needs 2 workers of 4 CPUs and 0 GPUs, and the cluster's nodes have room for 1 such workers even when nothing "
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
    verdict = admit(shares, lambda name: iter(waiting[name]), capacity, Capacity(*held), SHORT, limit)
    launched = verdict.admitted
    assert len(launched) <= limit
    if launched:
        assert held[0] + sum(ask.cpus for ask in launched) <= capacity.cpus or all(ask.cpus == 0 for ask in launched)
        assert held[1] + sum(ask.gpus for ask in launched) <= capacity.gpus or all(ask.gpus == 0 for ask in launched)
    for name, queue in waiting.items():
        own = [ask for ask in launched if ask.id[0] == name]
        assert own == queue[: len(own)]
    assert not {ask.id for ask in launched} & set(verdict.waiting)


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
        for ask in admit(shares, queues.__getitem__, node, Capacity(0, len(running)), 120.0, 100).admitted:
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
