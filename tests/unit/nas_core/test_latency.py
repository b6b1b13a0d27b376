"""What a network takes in time: the table's sum is that of the network's parts, and measuring leaves no trace."""

from pathlib import Path

import pytest
import torch
from hypothesis import given

from nas_core import Architecture, Network, SearchSpace
from nas_core.search import latency
from nas_core.search.latency import LatencyTable, StageTimes, measure_latency, measure_table
from tests.unit.nas_core.networks import architectures


@given(architectures())
def test_an_estimate_counts_the_parts_of_the_network(architecture: Architecture) -> None:
    space = architecture.space
    names = list(space.operations)
    # Every part is a digit of its own.
    stage = StageTimes({name: 1.0 if name == names[0] else 1e3 for name in names}, 1e6, 1e9, 1e12)
    table = LatencyTable((stage,) * len(space.blocks), ((0.25, 0.5),) * len(architecture.reductions), 0.125)
    total = 0.125
    for block in architecture.blocks:
        total += sum(1.0 if space.operation(node) == names[0] else 1e3 for node in block.operations)
        total += 1e6 * sum(len(block.inputs(node)) - 1 for node in block.operations)
        total += 1e9 * len(block.outputs) + 1e12 * bool(block.outputs)
    for reduction in architecture.reductions:
        total += 0.25 * (reduction.conv1 > 0) + 0.5 * (reduction.conv3 > 0)
    assert table.estimate(architecture) == pytest.approx(total, rel=1e-12)


def test_a_measured_table_knows_every_part_and_gives_the_complete_network_its_own_time() -> None:
    space = SearchSpace.preset("digits", channels=4, blocks=(1, 1), levels=2)
    before = torch.get_rng_state().tolist(), torch.get_num_threads()
    table = measure_table(space, "cpu", threads=1)
    assert before == (torch.get_rng_state().tolist(), torch.get_num_threads())
    assert all(set(stage.operations) == set(space.operations) for stage in table.stages)
    assert all(ms > 0 for stage in table.stages for ms in stage.operations.values())
    assert len(table.reductions) == 1 and min(table.reductions[0]) > 0 and table.scale > 0
    assert LatencyTable.from_dict(table.to_dict()) == table


def test_the_scale_makes_the_estimate_of_the_complete_network_what_it_was_measured_to_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latency, "milliseconds", lambda *_, **__: [2.0, 3.0, 7.0])
    space = SearchSpace.preset("digits", channels=4, blocks=(1, 2), levels=1)
    assert measure_table(space, "cpu", 1).estimate(space.complete()) == pytest.approx(3.0)


def test_a_penalty_weighs_an_edge_by_the_time_of_its_target_over_the_largest() -> None:
    space = SearchSpace.preset("digits", blocks=(1, 1), levels=1, operations=["separable3", "max_pool3"])
    stages = tuple(StageTimes({"separable3": 4.0 * k, "max_pool3": 1.0 * k}, 9.0, 2.0 * k, 9.0) for k in (2, 1))
    table = LatencyTable(stages, ((9.0, 9.0),), 9.0, 5.0)
    assert space.edges() == [(0, 1), (0, 2), (1, 3), (2, 3)]
    assert table.penalty_weights(space) == [[1.0, 0.625, 0.75, 0.75], [0.75, 0.5625, 0.625, 0.625]]
    shared = SearchSpace.preset("digits", blocks=(1, 1), levels=1, operations=["separable3", "max_pool3"], share=True)
    assert table.penalty_weights(shared) == [[1.0, 0.625, 0.75, 0.75]]


def test_a_latency_says_where_it_was_measured() -> None:
    measured = measure_latency(Network(SearchSpace.preset("digits").cheapest()), threads=2, runs=3, warm_up=1)
    assert 0 < measured.low <= measured.median <= measured.high
    assert "CPU" in measured.where and measured.where.endswith("threads: 2")
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    assert measured.where.startswith(model.partition(":")[2].strip())
    assert measured._replace(device="cuda:0", model="NVIDIA H100 80GB HBM3").where.startswith("NVIDIA H100 80GB HBM3,")
