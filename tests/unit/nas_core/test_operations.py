"""Any operation: registered once, then costed, searched and built alike."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas_core import Architecture, Network, SearchSpace, Supernet
from nas_core.errors import InvalidValue
from nas_core.search.press import Press
from nas_core.search.prices import memory_access_weights
from nas_core.space import Block, Edge, cost
from nas_core.space.operations import (
    OPERATION_SETS,
    OPERATIONS,
    PAPER_OPERATIONS,
    Convolution,
    Layer,
    Normalise,
    Pool,
    SqueezeExcite,
    register,
)
from nas_core.supernet.layers import SqueezeExcitation, batch_norm, operation
from nas_core.supernet.supernet import Level, follow
from nas_core.train.steps import bn_scales, weight_optimizer
from tests.thoroughness import some
from tests.unit.nas_core.networks import architectures, layers, registered

# In narrower stages the gates' few ReLU may all be dead from the start.
ALL = SearchSpace.preset("digits", channels=8, blocks=(1, 1), levels=2, operations=tuple(OPERATIONS))


def test_a_space_has_the_papers_operations_unless_others_are_asked_for() -> None:
    assert PAPER_OPERATIONS == ("separable3", "separable5", "max_pool3", "average_pool3")
    assert tuple(OPERATIONS)[:4] == PAPER_OPERATIONS
    assert SearchSpace.preset("cifar10").operations == PAPER_OPERATIONS
    with registered({"plain3": (Convolution(3),)}):
        assert SearchSpace.preset("cifar10").operations == PAPER_OPERATIONS
        assert SearchSpace.preset("cifar10", operations=("plain3",)).operation(1) == "plain3"


def test_operations_may_be_asked_for_by_the_names_of_sets() -> None:
    paper, mobile = (SearchSpace.preset("digits", operations=name) for name in ("paper", "mobile"))
    assert paper == SearchSpace.preset("digits") and mobile.operations == OPERATION_SETS["mobile"]
    both = SearchSpace.preset("digits", operations=["paper", "identity"])
    assert both.operations == (*PAPER_OPERATIONS, "identity")
    assert SearchSpace.preset("digits", operations="identity").operations == ("identity",)


@pytest.mark.parametrize("names", ["mobil", "", ["paper", "separable3"], ["mobile", "mobil"], [["paper"]], [3], []])
def test_what_is_no_set_and_no_operation_is_refused_with_the_names_of_both(names: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        SearchSpace.preset("digits", operations=names)
    assert refused.value.field == "space.operations"
    assert all(name in refused.value.accepted for name in (*OPERATION_SETS, *OPERATIONS))


@pytest.mark.parametrize(
    ("name", "given_layers", "field"),
    [
        *[(name, (), "operation.name") for name in ("", "Conv", "3x3", "a-b", "a b", "a" * 41, "identity\n", 3)],
        ("identity", (), "operation.name"),
        ("mobile", (), "operation.name"),
        ("new", [Convolution(1)], "operation.layers"),
        ("new", (Convolution(1, multiple=2),), "operation.layers"),
        ("new", ("conv",), "operation.layers[0]"),
        ("new", (Normalise(), Convolution(2)), "operation.layers[1]"),
        ("new", (Convolution(0),), "operation.layers[0]"),
        ("new", (Convolution(3.0),), "operation.layers[0]"),  # type: ignore[arg-type]
        ("new", (Convolution(3, depthwise=1),), "operation.layers[0]"),  # type: ignore[arg-type]
        ("new", (Convolution(3, dilation=0),), "operation.layers[0]"),
        ("new", (Convolution(3, depthwise=True, multiple=2), Convolution(1)), "operation.layers[0]"),
        ("new", (Convolution(1, multiple=65), Convolution(1)), "operation.layers[0]"),
        ("new", (Pool("min"),), "operation.layers[0]"),  # type: ignore[arg-type]
        ("new", (SqueezeExcite(0),), "operation.layers[0]"),
    ],
)
def test_what_is_no_operation_is_not_registered(name: Any, given_layers: Any, field: str) -> None:
    before = dict(OPERATIONS)
    with pytest.raises(InvalidValue) as refused:
        register(name, given_layers)
    assert refused.value.field == field
    assert before == OPERATIONS


@settings(max_examples=some(50))
@given(st.lists(layers(), min_size=1, max_size=2), st.integers(1, 9), st.integers(1, 6))
def test_any_operation_costs_what_its_module_does(given_layers: list[tuple[Layer, ...]], width: int, size: int) -> None:
    with registered({f"any{index}": given for index, given in enumerate(given_layers)}):
        for name in (f"any{index}" for index in range(len(given_layers))):
            with torch.device("meta"):
                module = nn.Sequential(operation(name, width), batch_norm(width), nn.ReLU()).eval()
                images = torch.empty(1, width, size, size)
            with FlopCounterMode(display=False) as counter:
                assert module(images).shape == images.shape
            counted = cost.operation(name, width, size)
            assert counter.get_total_flops() == 2 * counted.multiply_adds
            assert sum(parameter.numel() for parameter in module.parameters()) == counted.parameters
            assert counted.memory_access >= 2 * width * size * size


def test_an_inverted_bottleneck_costs_what_it_does_by_hand() -> None:
    width, size = 10, 7
    inner, squeezed, pixels = 30, 7, 49
    expand, depthwise, project = width * inner, 9 * inner, inner * width
    counted = cost.operation("inverted_bottleneck3", width, size)
    gates = 2 * inner * squeezed
    assert counted.multiply_adds == pixels * (expand + depthwise + project) + gates
    biases, norms = inner + squeezed, 2 * (inner + inner + width)
    assert counted.parameters == expand + depthwise + project + gates + biases + norms
    # Expand, depthwise and project read and write; the gates read for the means and the product, and write it.
    moved = pixels * (width + inner + inner + inner + inner + width + 3 * inner)
    moved += (inner + inner) + (inner + squeezed) + (squeezed + inner)  # the means, the gates, and what is between
    assert counted.memory_access == moved + expand + depthwise + project + gates + biases


def test_memory_access_weighs_operations_as_published() -> None:
    space = SearchSpace.preset("cifar10")
    weights = memory_access_weights(space)
    assert len(weights) == 24
    edges = space.edges()
    place = space.stage_of_block.index(1)
    assert (space.widths[1], space.resolution(1)) == (96, 16)
    published = {"separable3": 0.986, "separable5": 1.0, "max_pool3": 0.447, "average_pool3": 0.447}
    for (_, target), weight in zip(edges, weights[place], strict=True):
        # For output edges the published code says 0.448, having written 96 ^ 2 (which is 98) for the square.
        expected = 0.531 if target == 17 else published[space.operation(target)]
        assert weight == pytest.approx(expected, abs=5e-4)


def test_shared_scaling_factors_weigh_the_memory_access_of_all_blocks() -> None:
    each = SearchSpace.preset("digits", operations=tuple(OPERATIONS))
    (shared,) = memory_access_weights(replace(each, share=True))
    apart = memory_access_weights(each)
    assert len(apart) == 4 and max(shared) == 1.0
    for index, weight in enumerate(shared):
        assert min(vector[index] for vector in apart) <= weight <= max(vector[index] for vector in apart)


@given(architectures())
def test_a_block_costs_the_press_what_it_costs(architecture: Architecture) -> None:
    space = architecture.space
    press = Press(replace(space, share=False))
    parts = {part.name: cost.of_part(part) for part in architecture.parts(space.widths)}
    empty = replace(architecture, blocks=(Block(()),) * len(architecture.blocks))
    bare = {part.name: cost.of_part(part) for part in empty.parts(space.widths)}
    for index, block in enumerate(architecture.blocks):
        name = f"block{index + 1}"
        pressed = press.group_cost(index, [edge[:2] for edge in block.edges])
        assert pressed == parts[name].multiply_adds - bare[name].multiply_adds


def supernet_of(architecture: Architecture) -> Supernet:
    """The supernet that holds just `architecture`, all of its λ 1."""
    torch.manual_seed(0)
    supernet = Supernet(architecture.space)
    supernet.prune(architecture)
    return supernet


def of_level(level: Level, node: int, tensor: Tensor) -> Tensor:
    """The part of a level's BN that belongs to operation `node`."""
    return tensor.view(-1, level.width)[level.nodes.index(node)]


@torch.no_grad()
def network_of(supernet: Supernet, architecture: Architecture) -> Network:
    """The network of `architecture` with the supernet's weights."""
    network = Network(architecture)
    space = architecture.space
    for name in ("stem", "head"):
        network.get_submodule(name).load_state_dict(supernet.get_submodule(name).state_dict())
    for index, (wide, block) in enumerate(zip(supernet.blocks, architecture.blocks, strict=True), start=1):
        narrow = network.get_submodule(f"body.block{index}")
        if hasattr(narrow, "shortcut"):
            narrow.shortcut.load_state_dict(wide.shortcut.state_dict(), strict=False)
        for node in block.operations:
            level = wide.levels[space.level(node) - 1]
            body, bn, _ = narrow.operations[str(node)]
            body.load_state_dict(level.bodies[str(node)].state_dict(), strict=False)
            if node in level.mixed:
                body[-1].weight.copy_(level.pointwise[level.mixed.index(node)])
            for name in ("bias", "running_mean", "running_var"):
                getattr(bn, name).copy_(of_level(level, node, getattr(level.bn, name)))
        if block.outputs:
            narrow.output.weight.copy_(torch.cat([wide.output[wide.outputs.index(n)] for n in block.outputs], 1))
            narrow.output_bn.load_state_dict(wide.output_bn.state_dict())
    for index, reduction in enumerate(supernet.reductions, start=1):
        branches = network.get_submodule(f"body.reduction{index}").branches
        for mine, theirs in zip(branches, reduction.branches.values(), strict=True):
            mine.load_state_dict(theirs.state_dict(), strict=False)
    return network


@settings(max_examples=some(40))
@given(architectures(searchable=True), st.booleans())
def test_a_supernet_computes_what_the_network_does(architecture: Architecture, training: bool) -> None:
    space = architecture.space
    supernet = supernet_of(architecture)
    with torch.no_grad():
        for module in supernet.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_()
                module.running_mean.normal_()
            if isinstance(module, SqueezeExcitation):
                module.squeeze.bias.normal_()
                module.excite.bias.normal_()
    network = network_of(supernet, architecture)
    images = torch.randn(3, space.channels_in, space.image_size, space.image_size)
    computed = supernet.train(training)(images)
    torch.testing.assert_close(computed, network.train(training)(images), atol=1e-5, rtol=1e-4)


def test_all_operations_learn_in_the_supernet_and_in_the_network() -> None:
    torch.manual_seed(0)
    for module in (Supernet(ALL), Network(ALL.complete())):
        module(torch.randn(4, 1, 8, 8)).logsumexp(1).sum().backward()
        learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
        assert all(torch.isfinite(parameter.grad).all() for parameter in learned)
        assert all(parameter.grad.any() for parameter in learned if parameter.dim() > 1)


def test_scales_within_operations_are_learned_only_once_the_scaling_factors_are_gone() -> None:
    def inner_scales(module: nn.Module) -> list[bool]:
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        return [norm.weight.requires_grad for norm in norms]

    supernet = Supernet(ALL)
    in_supernet = [scale for block in supernet.blocks for scale in inner_scales(block.levels)]
    in_network = inner_scales(Network(ALL.complete()).body)
    within = sum(isinstance(layer, Normalise) for layers in OPERATIONS.values() for layer in layers)
    levels = 2 * 2
    assert within and len(in_supernet) == levels * (1 + within) and not any(in_supernet)
    assert len(in_network) > len(in_supernet) and all(in_network)


def test_scales_that_stay_one_are_not_trained_and_go_with_their_operations() -> None:
    supernet = Supernet(ALL)
    scales = [part.weight for part in supernet.modules() if isinstance(part, nn.BatchNorm2d)]
    fixed = [scale for scale in scales if not scale.requires_grad]
    held = {id(parameter) for parameter in (*supernet.weights(), *bn_scales(supernet))}
    assert fixed and not held & set(map(id, fixed))
    first = Block((Edge(0, 1, 1.0), Edge(1, ALL.nodes + 1, 1.0)))
    supernet.prune(replace(ALL.complete(), blocks=(first, first)))
    bn = supernet.blocks[0].levels[0].bn
    assert bn.num_features == 8 and bn.weight.tolist() == [1.0] * 8 and not bn.weight.requires_grad
    assert bn.bias.requires_grad and len(bn.running_mean) == len(bn.running_var) == len(bn.bias) == 8


def test_operations_with_a_state_are_removed_with_it() -> None:
    torch.manual_seed(0)
    supernet = Supernet(ALL)
    optimizer = weight_optimizer(supernet.weights(), 0.1, 0.9, 1e-4)
    for parameter in supernet.weights():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    supernet(torch.randn(4, 1, 8, 8))
    first, second = (1 + level * len(OPERATIONS) + list(OPERATIONS).index("inverted_bottleneck3") for level in (0, 1))
    output = ALL.nodes + 1
    kept, gone = Block((Edge(0, first, 1.0), Edge(first, output, 1.0))), Block((Edge(0, 5, 1.0), Edge(5, output, 1.0)))
    assert ALL.operation(5) == "identity" and ALL.operation(second) == "inverted_bottleneck3"
    body = supernet.blocks[0].levels[0].bodies[str(first)]
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    momentum = {p: optimizer.state[p]["momentum_buffer"].clone() for p in body.parameters() if p.requires_grad}
    architecture = replace(ALL.complete(), blocks=(kept, gone))
    follow(optimizer, supernet.prune(architecture))
    assert all(torch.equal(tensor, before[name]) for name, tensor in body.state_dict().items())
    assert any("running_mean" in name and tensor.any() for name, tensor in before.items())
    assert all(torch.equal(optimizer.state[p]["momentum_buffer"], value) for p, value in momentum.items())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in supernet.weights()} and set(map(id, optimizer.state)) <= held
    assert [len(level.bodies) for block in supernet.blocks for level in block.levels] == [1, 0, 1, 0]
    again = Supernet(ALL)
    again.prune(architecture)
    again.load_state_dict(supernet.state_dict())
