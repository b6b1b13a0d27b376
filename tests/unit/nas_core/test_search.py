"""The supernet shrinks without changing what it computes; a search keeps its budgets and can be cut anywhere."""

import io
import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_core import ApgNag, Architecture, Search, SearchSpace, Supernet
from nas_core.errors import InvalidValue
from nas_core.job import SearchJob
from nas_core.search import latency
from nas_core.search.latency import Latency, LatencyTable, StageTimes
from nas_core.search.liveness import branches_above
from nas_core.search.prices import memory_access_weights
from nas_core.search.spending import spend
from nas_core.space import Block, Edge, Reduction, branches
from nas_core.spec import Limits, SearchSpec
from nas_core.supernet.network import Network
from nas_core.supernet.supernet import follow
from nas_core.train.steps import weight_optimizer
from tests.thoroughness import some
from tests.unit.nas_core.networks import architectures, tiny_data, tiny_spec


def with_strengths(architecture: Architecture) -> Supernet:
    """A supernet whose λ are the architecture's strengths, and 0 elsewhere."""
    space = architecture.space
    torch.manual_seed(0)
    supernet = Supernet(space)
    with torch.no_grad():
        for index, block in enumerate(architecture.blocks):
            alive = {edge[:2]: edge.strength for edge in block.edges}
            row = supernet.block_scaling[supernet.row_of_block(index)]
            row.copy_(torch.tensor([alive.get(edge, 0.0) for edge in space.edges()]))
        for parameter, reduction in zip(supernet.reduction_scaling, architecture.reductions, strict=True):
            parameter.copy_(torch.tensor(reduction.strengths))
    return supernet


@settings(max_examples=some(40))
@given(architectures(searchable=True), st.booleans())
def test_removing_what_is_dead_changes_nothing_that_is_computed(architecture: Architecture, training: bool) -> None:
    supernet = with_strengths(architecture).train(training)
    space = architecture.space
    images = torch.randn(3, space.channels_in, space.image_size, space.image_size)
    before = supernet(images)
    found = supernet.architecture()
    assert [[e[:2] for e in b.edges] for b in found.blocks] == [[e[:2] for e in b.edges] for b in architecture.blocks]
    supernet.prune(found)
    torch.testing.assert_close(supernet(images), before, atol=1e-5, rtol=1e-4)


def test_the_optimiser_follows_what_is_removed() -> None:
    space = SearchSpace.preset("digits", channels=4, blocks=(1, 1), levels=2)
    torch.manual_seed(0)
    supernet = Supernet(space)
    optimizer = weight_optimizer(supernet.weights(), 0.1, 0.9, 1e-4)
    for parameter in supernet.weights():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    path = Block((Edge(0, 2, 1.0), Edge(2, 5, 1.0), Edge(5, 9, 1.0)))
    complete = space.complete()
    kept = Architecture(space, complete.widths, (path, path), complete.reductions)
    before = supernet.blocks[0].levels[0]
    second = before.nodes.index(2)
    momentum = optimizer.state[before.pointwise]["momentum_buffer"][second].clone()
    follow(optimizer, supernet.prune(kept))
    after = supernet.blocks[0].levels[0]
    assert torch.equal(optimizer.state[after.pointwise]["momentum_buffer"], momentum[None])
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in supernet.weights()} and set(map(id, optimizer.state)) <= held


def test_a_dead_edge_stays_dead() -> None:
    supernet = with_strengths(SearchSpace.preset("digits", channels=4, blocks=(1,), levels=2).complete())
    factors = supernet.scaling_factors()
    optimizer = ApgNag(factors, lr=0.1)
    factors[0].grad = torch.full_like(factors[0], -1.0)
    optimizer.step()
    space = supernet.space
    path = Block((Edge(0, 2, 1.0), Edge(2, 5, 1.0), Edge(5, 9, 1.0)))
    follow(optimizer, supernet.prune(Architecture(space, space.widths, (path,), ())))
    alive = factors[0] > 0
    factors[0].grad = torch.zeros_like(factors[0])
    optimizer.step()
    assert torch.equal(factors[0] > 0, alive) and alive.sum() == 3


def finish(job: SearchJob) -> list[dict[str, Any]]:
    """Every line of the rest of a job, without what depends on the clock."""
    lines = []
    while not job.done:
        lines += [{k: v for k, v in line.items() if k != "seconds"} for line in job.advance()]
    return lines


def job(spec: SearchSpec) -> SearchJob:
    return SearchJob(spec, tiny_data(), "cpu")


@pytest.mark.parametrize("share", [False, True])
def test_what_comes_out_keeps_its_budget_and_uses_it(share: bool) -> None:
    done = job(tiny_spec(share=share))
    lines = finish(done)
    for budget, architecture in done.architectures.items():
        assert 0.9 * budget <= architecture.multiply_adds <= budget
        assert any(block.edges for block in architecture.blocks)
    assert [result["budget"] for result in done.results] == list(done.spec.budgets)
    costs = [line["multiply_adds"] for line in lines if line["kind"] == "epoch" and line["phase"] == "search"]
    assert costs == sorted(costs, reverse=True) and costs[-1] <= done.spec.budgets[0]
    progress = [line["progress"] for line in lines if line["kind"] == "epoch"]
    assert progress == sorted(progress) and progress[-1] == 1.0


def test_a_job_counts_the_forward_passes_of_search_and_training() -> None:
    counted = job(tiny_spec(settings={"pretrain_epochs": 1, "ratio": 1}))
    search, complete = counted.search, counted.spec.space.complete().multiply_adds
    while not search.searching:
        counted.advance()
    assert counted.compute == {"search": complete * 16 * search.step, "training": 0}
    live, before = search.live.multiply_adds, search.compute or 0
    counted.advance()
    assert search.compute == before + 2 * 16 * live, "a step of W and one of λ"
    finish(counted)
    steps = [len(counted.data.training) // 16 * one["epochs"] for one in counted.results]
    trained = [16 * count * one["multiply_adds"] for count, one in zip(steps, counted.results, strict=True)]
    assert counted.compute == {"search": search.compute, "training": sum(trained)}
    assert [one["compute"] for one in counted.results] == [{"search": search.compute, "training": t} for t in trained]


@pytest.mark.parametrize("form", ["press", "cut", "paper"])
def test_no_gradient_can_break_a_block_or_a_reduction(form: str) -> None:
    """With a γ that zeroes every λ at once, each block keeps a path and each reduction the branch that it had."""
    done = Search(tiny_spec(settings={"form": form, "gamma": 100.0}), tiny_data(), "cpu")
    while not done.done:
        done.advance()
        assert all(block.edges for block in done.live.blocks) or done.step > done.steps - 3
        assert all(len(reduction.branches) > 0 for reduction in done.supernet.reductions)
    for budget, architecture in done.architectures.items():
        assert architecture.multiply_adds <= budget and any(block.edges for block in architecture.blocks)


@pytest.mark.parametrize("channels", [2, 4])
def test_where_nothing_learned_keeps_the_budget_the_journal_says_so(channels: int) -> None:
    """A γ that leaves one path, over the budget: it is narrowed, and where it has no channel to spare, replaced."""
    space = SearchSpace.preset("digits", stem=(1, 1), channels=channels, blocks=(2,), levels=2, classes=3)
    budget, _ = space.feasible_budgets()
    done = job(tiny_spec(space=space, budgets=(budget,), settings={"form": "paper", "gamma": 100.0}))
    lines = finish(done)
    found, replaced = done.architectures[budget], channels == 2
    assert done.search.live.multiply_adds > budget >= found.multiply_adds
    warnings = [line["message"] for line in lines if line["kind"] == "warning"]
    assert [f"{budget}" in message and "lightest" in message for message in warnings] == [True] * replaced
    assert (found == done.search.fitting.lightest(budget)) == replaced == (budget not in done.search.candidates)
    if not replaced:
        # So narrow, it may take a further operation to use the budget up.
        for kept, learned in zip(found.blocks, done.search.live.blocks, strict=True):
            assert {edge[:2] for edge in learned.edges} <= {edge[:2] for edge in kept.edges}
        assert found.widths < space.widths


def test_the_smallest_feasible_budget_is_kept_too() -> None:
    spec = tiny_spec()
    smallest = spec.space.feasible_budgets()[0]
    done = job(tiny_spec(budgets=(smallest,)))
    finish(done)
    assert done.architectures[smallest].multiply_adds == smallest


def test_the_same_seed_finds_the_same_and_another_does_not() -> None:
    first, again, other = (job(tiny_spec(seed=seed)) for seed in (1, 1, 2))
    assert finish(first) == finish(again) != finish(other)
    assert first.architectures == again.architectures
    assert first.architectures != other.architectures


def test_a_reduction_keeps_its_last_branch_whatever_presses_on_it() -> None:
    done = job(tiny_spec(settings={"form": "paper", "pretrain_epochs": 0, "gamma": 100.0}))
    supernet = done.search.supernet
    supernet.reduction_scaling[0].data.copy_(torch.tensor([1.0, 0.0]))
    supernet.prune(supernet.architecture())
    finish(done)
    for architecture in done.architectures.values():
        assert [strength > 0 for strength in architecture.reductions[0].strengths] == [True, False]


def test_of_equal_branches_that_go_together_the_wider_stays_whoever_is_asked() -> None:
    search = Search(tiny_spec(settings={"form": "paper", "gamma": 100.0}), tiny_data(), "cpu")
    reductions = search.supernet.reduction_scaling
    assert reductions.tolist() == [[1.0, 1.0]] and branches([1.0, 1.0], 1.0) == (False, True)
    for factor in search.supernet.scaling_factors():
        factor.grad = torch.zeros_like(factor)
    search._move_scaling_factors()
    assert (reductions > 0).tolist() == branches_above(reductions, math.inf).tolist() == [[False, True]]
    reductions.data.zero_()
    assert search.supernet.architecture().reductions == (Reduction(0.0, 1.0),)


def test_a_candidate_has_the_factors_with_which_its_budget_was_passed_and_the_smallest_those_of_the_end() -> None:
    search = Search(tiny_spec(), tiny_data(), "cpu")
    images = torch.randn(4, 1, 8, 8)
    factors: dict[int, list[torch.Tensor]] = {}
    logits: dict[int, torch.Tensor] = {}
    press_to, candidate = search._press_to, search._candidate

    def watched(target: float) -> None:
        """One step may pass several budgets, and go on behind the last: so every press is looked at."""
        press_to(target)
        smallest = search.spec.budgets[0]
        for budget in set(search.spec.budgets) - (set(factors) - {smallest}):
            if search.supernet.architecture().multiply_adds <= budget:
                factors[budget] = [factor.detach().clone() for factor in search.supernet.scaling_factors()]

    def read(number: int) -> Any:
        """The weights are those of the step at which that is read."""
        supernet = deepcopy(search.supernet)
        budget = search.spec.budgets[number]
        with torch.no_grad():
            for factor, then in zip(supernet.scaling_factors(), factors[budget], strict=True):
                factor.copy_(then)
            # By the batch's own statistics: the running ones are estimated anew when an epoch ends.
            logits[budget] = supernet(images)
        return candidate(number)

    search._press_to, search._candidate = watched, read
    while not search.done:
        search.advance()
    assert set(logits) == set(search.spec.budgets)
    for budget, expected in logits.items():
        found = search.candidates[budget]
        assert spend(found.live, budget) == search.architectures[budget]
        for ours, then in zip(found.supernet().scaling_factors(), factors[budget], strict=True):
            assert torch.equal(ours, then)
        torch.testing.assert_close(found.supernet()(images), expected, atol=1e-5, rtol=1e-4)


CUTS = (1, 3, 4, 9, 15, 16, 19, 30)
"""The first pretraining step, its last, the middle of the search, its last step, and both retrainings."""
RESUMED = tiny_spec(settings={"retrain_start": "supernet"})


@pytest.fixture(scope="module")
def whole() -> tuple[SearchJob, list[dict[str, Any]]]:
    """A job that is never cut and no copy is taken of, and its lines."""
    job_ = job(RESUMED)
    return job_, finish(job_)


@pytest.fixture(scope="module")
def cuts() -> dict[int, tuple[int, bytes]]:
    """How many lines a job had told after each cut, and its state, as a file."""
    begun, lines, found = job(RESUMED), 0, {}
    for step in range(1, max(CUTS) + 1):
        lines += len(begun.advance())
        if step in CUTS:
            kept = io.BytesIO()
            torch.save(begun.state_dict(), kept)
            found[step] = lines, kept.getvalue()
    return found


@pytest.mark.parametrize("cut", CUTS)
def test_a_job_that_is_cut_and_resumed_gives_bit_for_bit_the_same(
    cut: int, whole: tuple[SearchJob, list[dict[str, Any]]], cuts: dict[int, tuple[int, bytes]]
) -> None:
    alone, lines = whole
    told, kept = cuts[cut]
    resumed = job(RESUMED)
    resumed.load_state_dict(torch.load(io.BytesIO(kept), weights_only=True))
    assert finish(resumed) == lines[told:]
    assert resumed.architectures == alone.architectures
    for budget, weights in alone.weights.items():
        assert all(torch.equal(tensor, resumed.weights[budget][name]) for name, tensor in weights.items())


def test_a_checkpoint_of_another_search_is_refused_with_what_differs() -> None:
    spec = tiny_spec(seed=5, settings={"gamma": 0.5})
    ours, theirs = job(tiny_spec()), job(replace(spec, space=replace(spec.space, name="other")))
    with pytest.raises(InvalidValue, match=r"other values of seed, settings\.gamma, space\.name") as refused:
        ours.load_state_dict(theirs.state_dict())
    assert refused.value.field == "checkpoint"
    assert refused.value.value == {"seed": 5, "settings.gamma": 0.5, "space.name": "other"}


def test_a_checkpoint_of_an_older_version_is_refused() -> None:
    state = job(tiny_spec()).state_dict()
    del state["version"]
    with pytest.raises(InvalidValue, match="of an incompatible version of Yoso") as refused:
        job(tiny_spec()).load_state_dict(state)
    assert refused.value.field == "checkpoint"


def test_a_checkpoint_may_be_taken_up_by_other_workers() -> None:
    ours = job(tiny_spec(workers=3, min_workers=1, cpus_per_worker=3, gpus_per_worker=1, accelerator_type="A100"))
    theirs = job(tiny_spec())
    theirs.advance()
    ours.load_state_dict(theirs.state_dict())
    assert ours.search.step == 1


def test_a_checkpoint_from_before_a_field_was_there_is_taken_up() -> None:
    ours, theirs = job(tiny_spec()), job(tiny_spec())
    theirs.advance()
    state = theirs.state_dict()
    for field in ("export", "data", "engine"):
        del state["spec"][field]
    del state["spec"]["settings"]["choose_by"]
    ours.load_state_dict(state)
    assert ours.search.step == 1


def searched(spec: SearchSpec) -> SearchJob:
    """A job whose search is done."""
    done = job(spec)
    while not done.search.done:
        done.advance()
    return done


@pytest.mark.parametrize("form", ["press", "paper"])
def test_a_limit_on_parameters_alone_is_kept_and_used(form: str) -> None:
    complete = tiny_spec().space.complete()
    limit = complete.parameters // 3
    spec = tiny_spec(budgets=(complete.multiply_adds,), limits=Limits(parameters=limit), settings={"form": form})
    [found] = searched(spec).architectures.values()
    assert 0.95 * limit <= found.parameters <= limit and found.live_edges < complete.live_edges


def test_activations_and_multiply_adds_are_kept_together() -> None:
    spec = tiny_spec(limits=Limits(activations=900))
    assert spec.space.complete().peak_activations > 2 * 900
    done = searched(spec)
    assert sorted(done.architectures) == list(spec.budgets)
    for budget, found in done.architectures.items():
        assert found.multiply_adds <= budget and found.peak_activations <= 900
        # With four channels, one more is a quarter of them.
        wider = replace(found, widths=tuple(width + 1 for width in found.widths))
        assert wider.multiply_adds > budget or wider.peak_activations > 900


def test_limits_are_reached_gradually_and_not_with_the_largest_budget_at_one_blow() -> None:
    complete = tiny_spec().space.complete()
    budgets = complete.multiply_adds // 6, complete.multiply_adds * 9 // 10
    limit = complete.parameters // 3
    steps = job(tiny_spec(budgets=budgets, limits=Limits(parameters=limit), settings={"search_epochs": 8}))
    before = after = complete.parameters
    while budgets[-1] not in steps.architectures:
        steps.advance()
        before, after = after, steps.search.live.parameters
    assert after <= limit < before < 1.5 * limit


def test_without_limits_a_search_never_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "measure_table", None)
    monkeypatch.setattr(latency, "measure_latency", None)
    searched(tiny_spec(settings={"penalty": "memory"}))


def table_of(space: SearchSpace) -> LatencyTable:
    """A table in which an operation takes 0.1 ms times its place in the space, in the second stage twice that."""
    times = {name: 0.1 * (place + 1) for place, name in enumerate(space.operations)}
    stages = (
        StageTimes(times, addition=0.01, output=0.05, closing=0.02),
        StageTimes({name: 2 * ms for name, ms in times.items()}, addition=0.01, output=0.05, closing=0.02),
    )
    return LatencyTable(stages, reductions=((0.1, 0.3),), rest=0.2)


class Stopwatch:
    """Stands in for a device on which a network takes what the table says at the supernet's widths, and in proportion
    to its multiply-adds at others.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, off: float = 1.0) -> None:
        self.off, self.measured = off, 0
        monkeypatch.setattr(latency, "measure_table", lambda space, device, threads: self.table(space))
        monkeypatch.setattr(latency, "measure_latency", lambda network, *_, **__: self.time(network))

    def table(self, space: SearchSpace) -> LatencyTable:
        self.measured += 1
        return table_of(space)

    def time(self, network: Network) -> Latency:
        found = network.architecture
        same = replace(found, widths=found.space.widths)
        ms = table_of(found.space).estimate(found) * found.multiply_adds / same.multiply_adds
        ms *= self.off if found.live_edges > 2 else 1.0
        return Latency(ms, ms, ms, 1)


@pytest.mark.parametrize("off", [0.8, 1.0, 1.25])
def test_a_network_keeps_the_latency_that_is_measured_and_not_only_estimated(
    off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Stopwatch(monkeypatch, off)
    complete = tiny_spec().space.complete()
    limit = table_of(complete.space).estimate(complete) / 2
    done = searched(tiny_spec(budgets=(complete.multiply_adds,), limits=Limits(latency_ms=limit)))
    [found], [measured] = done.architectures.values(), done.search.fitting.latencies.values()
    assert measured == watch.time(Network(found)) and 0.85 * limit <= measured.median <= limit
    assert found.live_edges < complete.live_edges


def test_a_resumed_search_does_not_measure_the_parts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(monkeypatch)
    spec = tiny_spec(limits=Limits(latency_ms=4), settings={"penalty": "latency"})
    whole = job(spec)
    for _ in range(9):
        whole.advance()
    kept = io.BytesIO()
    torch.save(whole.state_dict(), kept)
    kept.seek(0)
    resumed = job(spec)
    resumed.load_state_dict(torch.load(kept, weights_only=True))
    assert finish(resumed) == finish(whole)
    assert (
        resumed.architectures == whole.architectures
        and resumed.search.fitting.latencies == whole.search.fitting.latencies
    )
    assert watch.measured == 1


def test_a_latency_that_no_network_has_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    Stopwatch(monkeypatch)
    refused = job(tiny_spec(limits=Limits(latency_ms=0.1)))
    with pytest.raises(InvalidValue, match="no network of this search space is that fast") as told:
        refused.advance()
    assert told.value.field == "limits.latency_ms" and refused.search.step == 0


def test_a_latency_that_what_was_found_cannot_keep_is_told_with_what_it_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Stopwatch(monkeypatch, off=1000.0)
    with pytest.raises(InvalidValue, match="even with the fewest channels") as told:
        searched(tiny_spec(limits=Limits(latency_ms=4)))
    assert told.value.field == "limits.latency_ms" and float(told.value.accepted.split()[0]) > 4


@pytest.mark.parametrize("share", [False, True])
def test_the_l1_weight_of_an_edge_follows_the_penalty(share: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    Stopwatch(monkeypatch)
    spec = tiny_spec(share=share)
    wanted = {
        "uniform": [[1.0] * len(spec.space.edges())] * (1 if share else 2),
        "memory": memory_access_weights(spec.space),
        "latency": table_of(spec.space).penalty_weights(spec.space),
    }
    for penalty, weights in wanted.items():
        search = job(
            tiny_spec(share=share, settings={"penalty": penalty, "gamma": 0.5, "scaling_lr": 0.5, "momentum": 0.0})
        ).search
        while not search.searching:
            search.advance()
        # Without a gradient or momentum, one step takes lr·γ·weight off each λ.
        monkeypatch.setattr("nas_core.search.search.backward", silence)
        search._scaling_step(0)
        monkeypatch.undo()
        Stopwatch(monkeypatch)
        for parameter, vector in zip(search.supernet.block_scaling, weights, strict=True):
            torch.testing.assert_close(parameter.data, 1 - 0.25 * torch.tensor(vector))


def silence(loss: torch.Tensor, size: int, parameters: list[torch.Tensor]) -> torch.Tensor:
    """In place of `backward`: no gradient at all."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    return loss
