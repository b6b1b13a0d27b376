"""What a network inherits from its supernet makes it compute the same wherever that is possible."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas_core import Architecture, Retraining, SearchSpace, Supernet
from nas_core.job import SearchJob
from nas_core.seeds import generator
from nas_core.space import Block, Edge, Reduction, live
from nas_core.supernet.inherit import inherited
from nas_core.supernet.network import Network
from tests.thoroughness import some
from tests.unit.nas_core.networks import architectures, tiny_data, tiny_spec


def drawn(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def trained(architecture: Architecture) -> Supernet:
    """The supernet that `architecture` is what lives of, with its strengths as λ and any weights and statistics."""
    torch.manual_seed(0)
    supernet = Supernet(architecture.space)
    with torch.no_grad():
        for index, block in enumerate(architecture.blocks):
            alive = {edge[:2]: edge.strength for edge in block.edges}
            row = supernet.block_scaling[supernet.row_of_block(index)]
            row.copy_(torch.tensor([alive.get(edge, 0.0) for edge in architecture.space.edges()]))
        for parameter, reduction in zip(supernet.reduction_scaling, architecture.reductions, strict=True):
            parameter.copy_(torch.tensor(reduction.strengths))
        for norm in (part for part in supernet.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.bias.normal_(std=0.3)
            norm.get_buffer("running_mean").normal_(std=0.3)
            norm.get_buffer("running_var").uniform_(0.5, 2)
            if norm.weight.requires_grad:
                norm.weight.uniform_(0.5, 2)
        supernet.head.classifier.weight.normal_()
    supernet.prune(architecture)
    return supernet.eval()


def network(architecture: Architecture, state: dict[str, Tensor]) -> Network:
    made = Network(architecture)
    made.load_state_dict(state)
    return made.eval()


def with_strengths(architecture: Architecture, strength: Any) -> Architecture:
    """The architecture with a `strength` for each (source, target) of an edge."""
    blocks = ([edge._replace(strength=strength(*edge[:2])) for edge in block.edges] for block in architecture.blocks)
    return replace(architecture, blocks=tuple(Block(tuple(edges)) for edges in blocks))


def images_of(architecture: Architecture) -> Tensor:
    return drawn(1, 3, *architecture.input_shape)


def same(answer: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(answer, wanted, atol=1e-5 * float(wanted.detach().abs().max().clamp(min=1)), rtol=1e-5)


@settings(max_examples=some(15))
@given(architectures(searchable=True), st.data())
def test_where_each_operation_is_read_once_the_network_answers_as_the_supernet_does(
    architecture: Architecture, data: st.DataObject
) -> None:
    output = architecture.space.nodes + 1

    def read_once(block: Block) -> Block:
        kept = {edge.source: edge for edge in block.edges if edge.source}
        left = [edge for edge in block.edges if edge in kept.values() or not edge.source]
        alive = set(live([edge[:2] for edge in left], output))
        return Block(tuple(edge for edge in left if edge[:2] in alive))

    architecture = replace(architecture, blocks=tuple(map(read_once, architecture.blocks)))
    wider = replace(
        architecture, widths=tuple(data.draw(st.integers(width, 3 * width)) for width in architecture.space.widths)
    )
    supernet, images = trained(architecture), images_of(architecture)
    with torch.no_grad():
        wanted = supernet(images)
        for one in (architecture, wider):
            same(network(one, inherited(one, supernet, generator("test")))(images), wanted)


@settings(max_examples=some(15))
@given(architectures(searchable=True), st.lists(st.floats(0.3, 2), min_size=30, max_size=30))
def test_factors_that_are_products_are_folded_away_whoever_reads_what(
    architecture: Architecture, factors: list[float]
) -> None:
    output = architecture.space.nodes + 1
    given, taken = factors[:15], factors[15:]

    def strength(source: int, target: int) -> float:
        return given[source] * taken[target % 15] if source and target != output else taken[(source + target) % 15]

    architecture = with_strengths(architecture, strength)
    supernet, images = trained(architecture), images_of(architecture)
    with torch.no_grad():
        state = inherited(architecture, supernet, generator("test"))
        same(network(architecture, state)(images), supernet(images))


@settings(max_examples=some(15))
@given(architectures(searchable=True), st.data())
def test_any_widths_can_be_had_and_what_is_kept_reads_what_it_read(
    architecture: Architecture, data: st.DataObject
) -> None:
    space = architecture.space
    widths = tuple(
        data.draw(st.integers(least, 2 * width)) for least, width in zip(architecture.fewest, space.widths, strict=True)
    )
    state = inherited(replace(architecture, widths=widths), trained(architecture), generator("test"))
    with torch.no_grad():
        answer = network(replace(architecture, widths=widths), state)(images_of(architecture))
    assert answer.isfinite().all() and answer.shape == (3, space.classes)


def chain(channels: int) -> Architecture:
    """Two separable convolutions one after the other, in each of two stages."""
    space = SearchSpace.preset("digits", channels=channels, blocks=(1, 1), levels=2, operations=("separable3",))
    block = Block((Edge(0, 1, 0.5), Edge(1, 2, 0.7), Edge(2, 3, 1.1)))
    return Architecture(space, space.widths, (block, block), (Reduction(0.0, 0.3),))


def test_channels_that_nothing_is_computed_from_go_first_and_nothing_changes() -> None:
    architecture = chain(6)
    supernet, images = trained(architecture), images_of(architecture)
    dead = torch.tensor([0, 3])
    with torch.no_grad():
        block = supernet.blocks[0]
        for reader in (block.shortcut[0].weight, block.output[0], *(level.pointwise[0] for level in block.levels)):
            reader[:, dead] = 0
        supernet.reductions[0].branches["3"][0].weight[:, dead] = 0
        wanted = supernet(images)
        narrower = replace(architecture, widths=(4, 12))
        same(network(narrower, inherited(narrower, supernet, generator("test")))(images), wanted)
        narrower = replace(architecture, widths=(3, 12))
        answer = network(narrower, inherited(narrower, supernet, generator("test")))(images)
    assert not torch.allclose(answer, wanted, atol=1e-3), "a channel that is read has gone"


def test_copies_of_a_channel_learn_different_things() -> None:
    architecture = replace(chain(4), widths=(8, 16))
    learner = network(architecture, inherited(architecture, trained(chain(4)), generator("test"))).train()
    torch.nn.functional.cross_entropy(learner(images_of(architecture)), torch.tensor([0, 1, 2])).backward()
    directions = torch.nn.functional.normalize(learner.stem[0][0].weight.grad.flatten(1))
    alike = directions @ directions.T - torch.eye(8)
    assert alike.max() < 0.999


def test_operations_that_the_supernet_has_no_more_begin_afresh_and_the_rest_inherits() -> None:
    architecture = chain(4)
    more = tuple(sorted((*architecture.blocks[0].edges, Edge(1, 3, 0.001)), key=lambda edge: edge.target))
    bare = replace(architecture, blocks=(Block((Edge(0, 1, 0.5), Edge(1, 3, 0.7))), architecture.blocks[1]))
    richer = replace(architecture, blocks=(Block(more), architecture.blocks[1]))
    state = inherited(richer, trained(bare), generator("test"))
    theirs = trained(bare)
    assert torch.equal(state["body.block1.operations.1.0.1.weight"], theirs.blocks[0].levels[0].pointwise[0])
    assert torch.equal(state["head.classifier.weight"], theirs.head.classifier.weight)
    assert state["body.block1.operations.2.0.1.weight"].abs().sum() > 0


def test_a_supernet_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match="its own space"):
        inherited(chain(6), trained(chain(4)), generator("test"))


def test_a_job_retrains_from_the_supernet_where_it_is_to_and_says_so() -> None:
    spec = tiny_spec(settings={"retrain_start": "supernet"})
    job = SearchJob(spec, tiny_data(), "cpu")
    while not job.search.done:
        job.advance()
    smallest, largest = spec.budgets
    del job.search.candidates[largest]  # as where its network is not cut from the supernet
    while job.race is None:
        job.advance()
    candidate, architecture = job.search.candidates[smallest], job.architectures[smallest]
    state = inherited(architecture, candidate.supernet(), generator(spec.seed, "start", smallest))
    begun = Retraining(spec, architecture, job.data, "cpu", state)
    for name, tensor in begun.network.state_dict().items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert not torch.equal(tensor, state[name]), "statistics are estimated anew"
        else:
            assert torch.equal(tensor, state[name])
    begun.advance()
    ours = job.race.contenders[0].retraining.network.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in begun.network.state_dict().items())
    while not job.done:
        job.advance()
    assert [one["start"] for one in job.results] == ["supernet", "scratch"]
