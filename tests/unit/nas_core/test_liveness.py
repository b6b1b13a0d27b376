"""Liveness, cost and the press as tensors against the same edge by edge."""

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_core import SearchSpace
from nas_core.search.liveness import Liveness, branches_above
from nas_core.search.press import Press, strongest_path
from nas_core.space import branches, live
from tests.thoroughness import some

SPACES = [
    SearchSpace.preset("digits", channels=4, blocks=(2, 1)),
    SearchSpace.preset("digits", channels=4, blocks=(2, 1), share=True),
    SearchSpace.preset("digits", channels=4, blocks=(3,), levels=1, operations=("separable3", "average_pool3")),
    SearchSpace.preset("digits", channels=4, blocks=(1, 1, 2), levels=3, operations=("separable3",)),
]


@st.composite
def scalings(draw: st.DrawFn) -> tuple[SearchSpace, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A space with λ, some of them dead and some equal, of blocks and reductions, and weights of them."""
    space = draw(st.sampled_from(SPACES))
    rows, columns = (1 if space.share else sum(space.blocks)), len(space.edges())
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scaling = torch.rand(rows, columns, generator=random)
    if draw(st.booleans()):
        scaling = (scaling * 4).round() / 4
    scaling *= torch.rand(rows, columns, generator=random) < draw(st.sampled_from([0.05, 0.3, 0.7, 1.0]))
    reductions = torch.rand(len(space.blocks) - 1, 2, generator=random).round(decimals=1)
    weights = torch.rand(rows, columns, generator=random) + 0.5 if draw(st.booleans()) else torch.ones(rows, columns)
    return space, scaling, reductions, weights


def pairs(space: SearchSpace, mask: torch.Tensor) -> list[tuple[int, int]]:
    return [edge for edge, there in zip(space.edges(), mask.tolist(), strict=True) if there]


@given(scalings())
def test_what_is_reached_is_what_is_live(drawn: Any) -> None:
    space, scaling, _, _ = drawn
    nodes, edges = Liveness(space, "cpu").reach(scaling > 0)
    for row, row_nodes, row_edges in zip(scaling, nodes, edges, strict=True):
        expected = live(pairs(space, row > 0), space.nodes + 1)
        assert pairs(space, row_edges) == expected
        assert {i for i, there in enumerate(row_nodes.tolist()) if there} == {source for source, _ in expected}


@given(scalings())
def test_shares_and_strongest_paths_are_those_of_every_edge_by_itself(drawn: Any) -> None:
    space, scaling, _, _ = drawn
    liveness, press = Liveness(space, "cpu"), Press(space)
    paths, weakest = liveness.strongest_paths(scaling)
    shares = liveness.alive_shares(scaling)
    for group, row in enumerate(scaling):
        strength = {edge: value for edge, value in zip(space.edges(), row.tolist(), strict=True) if value > 0}
        path = strongest_path(strength, space.nodes + 1)
        assert pairs(space, paths[group]) == sorted(path, key=space.edges().index)
        assert weakest[group] == min((strength[edge] for edge in path), default=float("-inf"))
        expected = press.alive_share(group, live(list(strength), space.nodes + 1))
        assert shares[group].item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=some(200))
@given(scalings(), st.floats(0, 1.1))
def test_the_press_is_that_of_every_level_by_itself(drawn: Any, share: float) -> None:
    space, scaling, reductions, weights = drawn
    smallest, largest = space.feasible_budgets()
    target = smallest * 0.9 + share * (largest - smallest)
    level, alive, spared = Press(space).solve(scaling.tolist(), reductions.tolist(), weights.tolist(), target)
    ours = Liveness(space, "cpu").press(scaling, reductions, weights, target)
    assert ours.level.item() == level
    assert [pairs(space, row) for row in ours.alive] == alive
    assert [set(pairs(space, row)) for row in ours.spared] == spared
    expected = [list(branches(pair, level)) for pair in reductions.tolist()]
    assert branches_above(reductions.double(), ours.level).tolist() == expected


@settings(max_examples=some(200))
@given(scalings(), st.floats(0, 0.6))
def test_the_strongest_path_that_fits_stays_so_that_the_cost_can_fall(drawn: Any, share: float) -> None:
    """Against every path by itself, each with the lightest live branches: whatever fits is not shut out."""
    space, scaling, reductions, weights = drawn
    reductions[reductions.sum(1) == 0] = 0.5
    liveness, press = Liveness(space, "cpu"), Press(space)
    smallest, largest = space.feasible_budgets()
    least = smallest * 0.9 + share**2 * (largest - smallest)
    steps = [
        [None, *range(1 + kind, 1 + kind + len(space.operations))]
        for kind in range(0, space.nodes, len(space.operations))
    ]
    fitting = []
    light = sum(
        min(cost for cost, there in zip(costs, pair, strict=True) if there > 0)
        for costs, pair in zip(press.of_branches, reductions.tolist(), strict=True)
    )
    for group, row in enumerate((scaling / weights).tolist()):
        strength = dict(zip(space.edges(), row, strict=True))
        for chosen in product(*steps):
            nodes = [0, *(node for node in chosen if node), space.nodes + 1]
            path = list(pairwise(nodes))
            if len(nodes) > 2 and all(strength[edge] > 0 for edge in path):
                fitting.append((min(strength[edge] for edge in path), press.group_cost(group, path)))
    favoured, branches = liveness.favour(scaling, reductions, weights, least)
    pressed = liveness.press(favoured, branches, weights, least)
    cost = liveness.cost(pressed.alive, branches, pressed.level)
    costs = [press.fixed + light + one for _, one in fitting]
    assert (cost <= least) == any(one <= least for one in costs) or not fitting
    assert ((favoured > 0) == (scaling > 0)).all() and ((branches > 0) == (reductions > 0)).all()
    # What is left for a path when the branches are chosen: no stronger one than the one that stays fits.
    with_branches = int(press._cost([[] for _ in scaling], branches.tolist(), float("inf")))
    strongest = max((found for found, one in fitting if with_branches + one <= least), default=None)
    if strongest is not None:
        times = torch.where(pressed.alive, scaling.double() / weights.double(), 0)
        assert liveness.strongest_paths(times)[1].max().item() == pytest.approx(strongest)
