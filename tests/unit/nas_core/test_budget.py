"""What brings a cost down to a budget, and keeps it there."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_core import Architecture, SearchSpace
from nas_core.job import SearchJob
from nas_core.search.baselines import matched_architecture, random_architecture
from nas_core.search.press import Edges, Press, strongest_path
from nas_core.search.spending import (
    LEAST_USED,
    divisor_of,
    effective_cost,
    fit_widths,
    heavier,
    lighter,
    narrowest,
    spend,
)
from nas_core.space import Block, Edge, Reduction, branches, live
from nas_core.spec import Limits
from tests.unit.nas_core.networks import architectures, spaces, tiny_data, tiny_spec


def strengths_of(architecture: Architecture) -> tuple[list[list[float]], list[list[float]]]:
    """λ as the supernet holds them: a vector for each group of blocks, a pair for each reduction."""
    space = architecture.space
    blocks = architecture.blocks[:1] if space.share else architecture.blocks
    vectors = []
    for block in blocks:
        alive = {(edge.source, edge.target): edge.strength for edge in block.edges}
        vectors.append([alive.get(edge, 0.0) for edge in space.edges()])
    return vectors, [list(reduction.strengths) for reduction in architecture.reductions]


def pressed(architecture: Architecture, target: float) -> Architecture:
    """What `Press` leaves alive."""
    space = architecture.space
    vectors, pairs = strengths_of(architecture)
    press = Press(space)
    level, alive, _ = press.solve(vectors, pairs, [[1.0] * len(space.edges())] * len(vectors), target)
    blocks = [Block(tuple(Edge(*edge, 1.0) for edge in edges)) for edges in alive]
    reductions = tuple(Reduction(*map(float, branches(pair, level))) for pair in pairs)
    whole = tuple(blocks * sum(space.blocks)) if space.share else tuple(blocks)
    return Architecture(space, space.widths, whole, reductions)


@given(architectures(searchable=True), st.floats(0, 1))
def test_a_press_keeps_the_cost_at_or_below_its_target(architecture: Architecture, share: float) -> None:
    target = share * architecture.multiply_adds
    left = pressed(architecture, target)
    if left.multiply_adds > target:
        nonempty = [block for block in left.blocks if block.edges]
        paths = nonempty[:1] if architecture.space.share else nonempty
        assert len(paths) <= 1 and all(len(block.outputs) == 1 for block in paths)
        assert all(min(reduction.strengths) == 0 for reduction in left.reductions)
    for before, after in zip(architecture.blocks, left.blocks, strict=True):
        assert {edge[:2] for edge in after.edges} <= {edge[:2] for edge in before.edges}


@given(architectures(searchable=True), st.floats(0, 1))
def test_a_press_is_no_harder_than_it_must_be(architecture: Architecture, share: float) -> None:
    space, target = architecture.space, share * architecture.multiply_adds
    vectors, pairs = strengths_of(architecture)
    press = Press(space)
    level, _, spared = press.solve(vectors, pairs, [[1.0] * len(space.edges())] * len(vectors), target)
    if level == 0:
        return
    gentler = max((s for values in [*vectors, *pairs] for s in values if 0 < s < level), default=0.0)
    left = []
    for vector, kept in zip(vectors, spared, strict=True):
        strong = [e for e, s in zip(space.edges(), vector, strict=True) if s > gentler or e in kept]
        left.append(live(strong, space.nodes + 1))
    assert press._cost(left, pairs, gentler) > target


@given(spaces())
def test_the_press_counts_what_the_architecture_costs(space: SearchSpace) -> None:
    complete = space.complete()
    _, pairs = strengths_of(complete)
    press = Press(space)
    edges = [space.edges()] * len(press.of_nodes)
    assert press._cost(edges, pairs, 0.0) == complete.multiply_adds
    assert [press.alive_share(group, edges[group]) for group in range(len(edges))] == [1.0] * len(edges)


@given(architectures(searchable=True), st.floats(0.5, 100), st.sampled_from([1, 2, 8, 12]))
def test_widths_use_the_budget_up_and_never_pass_it(architecture: Architecture, times: float, divisor: int) -> None:
    budget = round(architecture.multiply_adds * times)
    try:
        fitted = fit_widths(architecture, budget, divisor=divisor)
    except ValueError:
        first = 1 if len(architecture.space.stem) == 1 else 2
        assert replace(architecture, widths=(first, *[1] * (len(architecture.widths) - 1))).multiply_adds > budget
        return
    assert fitted.multiply_adds <= budget
    assert fitted.blocks == architecture.blocks
    if times >= 1:
        assert fitted.multiply_adds >= min(architecture.multiply_adds, 0.97 * budget)


@given(architectures(searchable=True), st.floats(1, 4))
def test_relatives_are_networks_of_the_space_nearest_first(architecture: Architecture, times: float) -> None:
    costs = [relative.multiply_adds for relative in lighter(architecture)]
    assert costs == sorted(costs, reverse=True) and all(one <= architecture.multiply_adds for one in costs)
    for relative in islice(lighter(architecture), 30):
        assert [bool(block.edges) for block in relative.blocks] == [bool(block.edges) for block in architecture.blocks]
    for relative in islice(heavier(architecture), 30):
        assert relative.live_edges > architecture.live_edges
        for before, after in zip(architecture.blocks, relative.blocks, strict=True):
            assert set(before.edges) <= set(after.edges)


def test_in_a_single_narrow_stage_relatives_use_more_than_widths_alone_can() -> None:
    """One channel is a fifth of such a network: no width fits some budgets, and a few no network of the space does."""
    space = SearchSpace.preset("digits", channels=9, blocks=[1], levels=3)
    smallest, largest = space.feasible_budgets()
    complete, by_widths, by_relatives = space.complete(), [], []
    for step in range(1, 12):
        budget = round(smallest * (largest / smallest) ** (step / 12))
        by_widths.append(fit_widths(complete, budget).multiply_adds / budget)
        by_relatives.append(spend(complete, budget).multiply_adds / budget)
    assert max(by_relatives) <= 1 and all(a >= b for a, b in zip(by_relatives, by_widths, strict=True))
    assert sum(used >= LEAST_USED for used in by_relatives) > sum(used >= LEAST_USED for used in by_widths)


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet"])
@pytest.mark.parametrize("share", [False, True])
def test_every_feasible_budget_of_a_preset_is_used_to_97_percent(preset: str, share: bool) -> None:
    space = SearchSpace.preset(preset, share=share)
    smallest, largest = space.feasible_budgets()
    assert smallest == space.cheapest().multiply_adds
    for part in (0.0, 0.01, 0.05, 0.3, 1.0):
        budget = round(smallest + part * (largest - smallest))
        assert 0.97 * budget <= fit_widths(space.cheapest(), budget).multiply_adds <= budget


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet"])
def test_widths_from_32_on_are_multiples_of_8_where_such_use_the_budget_up(preset: str) -> None:
    complete, rounded = SearchSpace.preset(preset).complete(), 0
    for part in (0.1, 0.35, 1.0, 4.0):
        budget = round(part * complete.multiply_adds)
        finest, fitted = fit_widths(complete, budget), fit_widths(complete, budget, divisor=8)
        assert 0.97 * budget <= fitted.multiply_adds <= budget
        moved = [one / other for one, other in zip(fitted.widths, finest.widths, strict=True)]
        assert min(moved) >= 0.9 and max(moved) <= 1 / 0.9
        rounded += divisor_of(fitted.widths, 8) == 8
    assert rounded >= 3


def test_a_smaller_divisor_is_taken_where_the_budget_asks_for_it_and_told_in_the_journal() -> None:
    wide = SearchSpace.preset("digits", blocks=(1,)).complete()
    for width, divisor in ((40, 8), (44, 4), (38, 2), (35, 1), (31, 8)):
        budget = replace(wide, widths=(width,)).multiply_adds
        fitted = fit_widths(wide, budget, divisor=8)
        assert fitted.widths == (width,) and divisor_of(fitted.widths, 8) == divisor

    spec = tiny_spec()
    job, budget = SearchJob(spec, tiny_data(), "cpu"), spec.budgets[0]
    for widths, told in (((20, 40), False), ((20, 44), True)):
        job.search.architectures[budget] = replace(spec.space.cheapest(), widths=widths)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job.search, "advance", lambda: [{"kind": "architecture", "budget": budget}])
            lines = job._search_step()
        assert [line["kind"] for line in lines] == ["architecture", *["warning"] * told]
    assert "20, 44 channels: multiples of 4 from 32 on" in lines[-1]["message"]


def test_a_network_that_costs_too_much_at_any_width_is_refused() -> None:
    with pytest.raises(ValueError, match="over the budget"):
        fit_widths(SearchSpace.preset("digits").complete(), 1000)


@st.composite
def limits_of(draw: st.DrawFn, architecture: Architecture, least: float, most: float) -> Limits:
    """Limits at `least` to `most` times what a network takes; its latency is said to be its live edges."""
    share = st.none() | st.floats(least, most)
    parameters, activations, latency = draw(share), draw(share), draw(share)
    return Limits(
        None if parameters is None else max(1, round(parameters * architecture.parameters)),
        None if activations is None else max(1, round(activations * architecture.peak_activations)),
        None if latency is None else 1 + latency * architecture.live_edges,
    )


def edges_of(architecture: Architecture) -> float:
    return float(architecture.live_edges)


@given(st.data(), architectures(searchable=True), st.floats(0, 1))
def test_a_press_with_limits_keeps_every_one(data: st.DataObject, architecture: Architecture, share: float) -> None:
    limits, budget = data.draw(limits_of(architecture, 0.1, 1.0)), 1 + round(share * architecture.multiply_adds)
    space, press = architecture.space, Press(architecture.space)
    vectors, pairs = strengths_of(architecture)

    def cost_of(alive: Sequence[Edges], reductions: Sequence[Sequence[float]], level: float) -> Any:
        return effective_cost(press.architecture(alive, reductions, level), budget, limits, edges_of)

    weights = [[1.0] * len(space.edges())] * len(vectors)
    level, alive, _ = press.solve(vectors, pairs, weights, budget, cost_of)
    left = press.architecture(alive, pairs, level)
    kept = (
        left.multiply_adds <= budget
        and (limits.parameters is None or left.parameters <= limits.parameters)
        and (limits.activations is None or left.peak_activations <= limits.activations)
        and (limits.latency_ms is None or left.live_edges <= limits.latency_ms)
    )
    assert kept == (effective_cost(left, budget, limits, edges_of) <= budget)
    if not kept:
        paths = [edges for edges in alive if edges]
        assert len(paths) <= 1 and all(len({target for _, target in edges}) == len(edges) for edges in paths)
        assert all(min(reduction.strengths) == 0 for reduction in left.reductions)


def test_a_peak_empties_the_blocks_that_have_it_and_no_others() -> None:
    space = SearchSpace.preset("digits", blocks=(1, 2), levels=1)
    press = Press(space)
    # The first block is the strongest, and the only one whose activations are over the limit.
    vectors = [[strength] * len(press.edges) for strength in (3.0, 2.0, 1.0)]
    pairs, weights = [[1.0, 1.0]], [[1.0] * len(press.edges)] * 3
    path = [(0, 1), (1, space.nodes + 1)]
    limit = press.architecture([[], path, path], pairs, 5.0).peak_activations
    assert press.architecture([path, [], []], pairs, 5.0).peak_activations > limit
    budget = space.complete().multiply_adds

    def cost_of(alive: Sequence[Edges], reductions: Sequence[Sequence[float]], level: float) -> Any:
        return effective_cost(press.architecture(alive, reductions, level), budget, Limits(activations=limit))

    _, alive, _ = press.solve(vectors, pairs, weights, budget, cost_of)
    assert [bool(edges) for edges in alive] == [False, True, True]


@given(st.data(), architectures(searchable=True), st.floats(0.5, 4))
def test_widths_use_the_tightest_of_budget_and_limits_up_as_far_as_whole_channels_can(
    data: st.DataObject, architecture: Architecture, times: float
) -> None:
    limits = replace(data.draw(limits_of(architecture, 0.5, 4.0)), latency_ms=None)
    budget = round(architecture.multiply_adds * times)
    try:
        fitted = fit_widths(architecture, budget, limits)
    except ValueError:
        assert effective_cost(narrowest(architecture), budget, limits) > budget
        return
    assert fitted.multiply_adds <= budget
    assert limits.parameters is None or fitted.parameters <= limits.parameters
    assert limits.activations is None or fitted.peak_activations <= limits.activations
    if effective_cost(fitted, budget, limits) < 0.97 * budget:
        # With so few channels, one more everywhere is more than 3 %.
        wider = replace(fitted, widths=tuple(width + 1 for width in fitted.widths))
        assert effective_cost(wider, budget, limits) > budget


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet"])
def test_a_limit_on_parameters_is_used_to_97_percent_and_one_on_activations_but_for_a_channel(preset: str) -> None:
    complete = SearchSpace.preset(preset).complete()
    for part in (0.3, 0.8):
        limit = round(part * complete.parameters)
        fitted = fit_widths(complete, complete.multiply_adds, Limits(parameters=limit))
        assert 0.97 * limit <= fitted.parameters <= limit
        limit = round(part * complete.peak_activations)
        fitted = fit_widths(complete, complete.multiply_adds, Limits(activations=limit))
        # The peak lies in the first stage or in the stem, which has half of its channels.
        assert (1 - 2 / fitted.widths[0]) * limit <= fitted.peak_activations <= limit


EDGES = SearchSpace.preset("digits", levels=2).edges()


@given(st.dictionaries(st.sampled_from(EDGES), st.floats(0.01, 1), max_size=25))
def test_the_strongest_path_has_the_strongest_weakest_edge(strength: dict[tuple[int, int], float]) -> None:
    output = 9
    path = strongest_path(strength, output)

    def connected(level: float) -> bool:
        reached = {0}
        for source, target in sorted(strength, key=lambda edge: edge[1]):
            if source in reached and strength[source, target] >= level:
                reached.add(target)
        return output in reached

    if path:
        weakest = min(strength[edge] for edge in path)
        assert path[0][0] == 0 and path[-1][1] == output
        assert all(a[1] == b[0] for a, b in pairwise(path))
        assert not any(connected(level) for level in strength.values() if level > weakest)
    else:
        assert not connected(0.0)


@pytest.mark.parametrize("share", [False, True])
def test_a_matched_random_network_differs_in_its_connections_alone(share: bool) -> None:
    space = SearchSpace.preset("digits", channels=8, blocks=(1, 1, 1), levels=2, share=share)
    budget = space.complete().multiply_adds // 3
    like = random_architecture(space, budget, 1)
    other = matched_architecture(like, budget, 1)
    assert [branches(one.strengths, 0.0) for one in other.reductions] == [
        branches(one.strengths, 0.0) for one in like.reductions
    ]
    assert other.live_edges == like.live_edges and other.blocks != like.blocks
    assert 0.97 * budget <= other.multiply_adds <= budget
    assert all(0.5 <= one / own <= 2 for one, own in zip(other.widths, like.widths, strict=True))
    assert other == matched_architecture(like, budget, 1)


def test_no_random_network_can_be_matched_to_what_no_budget_holds() -> None:
    like = SearchSpace.preset("digits", channels=4, blocks=(1, 1), levels=1).complete()
    with pytest.raises(ValueError, match="keeps the budget of 10"):
        matched_architecture(like, 10, 0)
