"""What a network takes over from the supernet that it was cut from, so that its training need not begin anew.

First λ are folded away at the supernet's own widths. An edge to a block's output goes into the output convolution, and
a branch of a reduction into its BN, both exactly. Other edges go as λ ≈ α of the operation that is read times c of the
one that reads: α > 0 scales and shifts the former's closing BN, since α · ReLU(y) = ReLU(α · y), and c goes into the
running statistics of the BN that follows in the latter. Where no cycle joins these edges, such as where each operation
is read by one other, or reads one, that is exact; elsewhere it is the nearest by least squares.

Then widths are changed. All that a stage adds up keeps the same channels: the ones from which most is computed, by the
norms of the weights that read them. Where there are to be more, channels are copied, and who reads them shares its
weights out among the copies at random, so that the network computes what it did, and the copies learn different things
(Net2Net, Chen et al., arXiv 1511.05641).
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from nas_core.space import Architecture, Block
from nas_core.space.topology import ConvBnAct
from nas_core.supernet.layers import SqueezeExcitation
from nas_core.supernet.network import Network, NetworkBlock, NetworkReduction
from nas_core.supernet.supernet import Level, Supernet, SupernetBlock

LEAST_PART, MOST_PART = 0.5, 1.5
"""What copies of a channel get of the weights that read it is drawn from this range, before it is made to add up."""


@torch.no_grad()
def inherited(architecture: Architecture, supernet: Supernet, random: torch.Generator) -> dict[str, Tensor]:
    """The state of `Network(architecture)` with the weights that `supernet` has for it, on the CPU.

    Operations and branches that are not alive in the supernet begin afresh. BN's running statistics are right where
    nothing is fresh or approximate; estimate them anew before the network is judged. Raises `ValueError` where the
    supernet is one of another space.
    """
    if architecture.space != supernet.space:
        raise ValueError("a network inherits from a supernet of its own space")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.initial_seed())
        wide = Network(replace(architecture, widths=supernet.space.widths))
        network = Network(architecture)
    _fold(supernet, wide)
    _resize(wide, network, random)
    return network.state_dict()


def _fold(supernet: Supernet, network: Network) -> None:
    """Give `network`, which is as wide, the weights of `supernet`, with the strengths of its own edges as λ."""
    network.stem.load_state_dict(supernet.stem.state_dict())
    network.head.load_state_dict(supernet.head.state_dict())
    architecture = network.architecture
    for number, (theirs, block) in enumerate(zip(supernet.blocks, architecture.blocks, strict=True), start=1):
        own = network.body.get_submodule(f"block{number}")
        assert isinstance(theirs, SupernetBlock) and isinstance(own, NetworkBlock)
        if hasattr(own, "shortcut"):
            own.shortcut.load_state_dict(theirs.shortcut.state_dict())
        if block.edges:
            _fold_block(theirs, own, block)
    for number, (reduction, ended) in enumerate(
        zip(supernet.reductions, architecture.reductions, strict=True), start=1
    ):
        ending = network.body.get_submodule(f"reduction{number}")
        assert isinstance(ending, NetworkReduction)
        strengths = dict(zip((1, 3), ended.strengths, strict=True))
        alive = dict(reduction.get_submodule("branches").named_children())
        for step, branch in zip(ending.part.steps, ending.branches, strict=True):
            assert isinstance(step, ConvBnAct)
            if str(step.kernel) in alive:
                branch.load_state_dict(alive[str(step.kernel)].state_dict())
            _scale(branch.get_submodule("1"), strengths[step.kernel])


def _fold_block(theirs: SupernetBlock, own: NetworkBlock, block: Block) -> None:
    output = max(edge.target for edge in block.edges)
    given, taken = _factors(block, output)
    levels = [level for level in theirs.levels if isinstance(level, Level)]
    for level in levels:
        for place, node in enumerate(level.nodes):
            if node not in given:
                continue
            operation = own.operations[str(node)]
            layers, closing, _ = operation.children()
            for layer, body in zip(layers.children(), level.bodies[str(node)].children(), strict=False):
                layer.load_state_dict(body.state_dict())
            if place < len(level.mixed):
                _mixing(layers)[-1].weight.copy_(level.pointwise[place])
            width = slice(place * level.width, (place + 1) * level.width)
            for name, tensor in level.bn.state_dict().items():
                closing.state_dict()[name].copy_(tensor[width] if tensor.dim() else tensor)
            _take(operation, taken[node])
            _scale(closing, given[node])
    strengths = {edge.source: edge.strength for edge in block.edges if edge.target == output}
    slices = own.output.weight.split(own.part.channels, 1)
    for node, weight in zip(block.outputs, slices, strict=True):
        if node in theirs.outputs:
            weight.copy_(theirs.output[theirs.outputs.index(node)])
        weight.mul_(strengths[node] / given[node])
    own.output_bn.load_state_dict(theirs.output_bn.state_dict())


def _factors(block: Block, output: int) -> tuple[dict[int, float], dict[int, float]]:
    """α of every node that is read and c of every operation that reads, such that λ ≈ α · c on the edges between them.

    They minimise Σ λ² (log α + log c − log λ)². The block's input, whose shortcut takes no part, has an α of 1.
    """
    edges = [edge for edge in block.edges if edge.target != output]
    place = {node: index for index, node in enumerate(block.operations)}
    equations = torch.zeros(len(edges), 2 * len(place), dtype=torch.double)
    strengths = torch.tensor([edge.strength for edge in edges], dtype=torch.double)
    for row, edge in zip(equations, edges, strict=True):
        row[len(place) + place[edge.target]] = 1
        if edge.source:
            row[place[edge.source]] = 1
    wanted = (strengths * strengths.log())[:, None]
    found = torch.linalg.lstsq(equations * strengths[:, None], wanted, driver="gelsd").solution.exp().flatten().tolist()
    alpha, c = found[: len(place)], found[len(place) :]
    return dict(zip(place, alpha, strict=True)), dict(zip(place, c, strict=True))


def _scale(bn: nn.Module, factor: float) -> None:
    """Have `bn` give out `factor` times as much."""
    bn.get_parameter("weight").mul_(factor)
    bn.get_parameter("bias").mul_(factor)


def _take(operation: nn.Module, factor: float) -> None:
    """Have `operation`, which closes with BN, take what enters it for `factor` times as much."""
    for layer in _layers(operation):
        if isinstance(layer, SqueezeExcitation):
            layer.squeeze.weight.mul_(factor)  # its gates do not follow the scale
        elif isinstance(layer, nn.BatchNorm2d):
            mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
            before = (variance + layer.eps).sqrt()
            mean.div_(factor)
            variance.div_(factor**2)
            layer.weight.mul_(factor * (variance + layer.eps).sqrt() / before)
            return


def _resize(wide: Network, network: Network, random: torch.Generator) -> None:
    """Give `network` the weights of `wide`, a network of the same architecture with other widths."""
    widths = network.architecture.widths
    reading: list[Tensor] = [torch.zeros(width) for width in wide.architecture.widths]
    for stage, weight in _readers(wide):
        reading[stage] += _norms(weight)
    kept = [_kept(norms, width) for norms, width in zip(reading, widths, strict=True)]
    first = torch.arange(wide.architecture.space.channels_in)
    _carry(wide.stem, network.stem, first, kept[0], random)
    for old, new in zip(wide.body, network.body, strict=True):
        if isinstance(old, NetworkReduction) and isinstance(new, NetworkReduction):
            entering, leaving = kept[old.part.stage], kept[old.part.stage + 1]
            for branch, narrow in zip(old.branches, new.branches, strict=True):
                _carry(branch, narrow, entering, leaving, random)
        elif isinstance(old, NetworkBlock) and isinstance(new, NetworkBlock):
            own = kept[old.part.stage]
            if hasattr(old, "shortcut"):
                _carry(old.shortcut, new.shortcut, own, own, random)
            if hasattr(old, "output"):
                for name, operation in old.operations.items():
                    _carry(operation, new.operations[name], own, own, random)
                channels = old.part.channels
                side_by_side = torch.cat([own + start for start in range(0, old.output.in_channels, channels)])
                new.output.weight.copy_(_shared(old.output.weight[own], side_by_side, random))
                _select(old.output_bn, new.output_bn, own)
    _select(wide.head.bn, network.head.bn, kept[-1])
    network.head.classifier.weight.copy_(_shared(wide.head.classifier.weight, kept[-1], random))
    network.head.classifier.bias.copy_(wide.head.classifier.bias)


def _readers(network: Network) -> Iterator[tuple[int, Tensor]]:
    """The weights (outputs, channels, …) that read each stage's channels, with the number of the stage."""
    for part in network.body:
        if isinstance(part, NetworkReduction):
            for branch in part.branches:
                for layer in _mixing(branch):
                    yield part.part.stage, layer.weight
        elif isinstance(part, NetworkBlock):
            if hasattr(part, "shortcut"):
                yield part.part.stage, _mixing(part.shortcut)[0].weight
            if hasattr(part, "output"):
                for operation in part.operations.values():
                    for layer in _mixing(operation)[:1]:
                        yield part.part.stage, layer.weight
                for weight in part.output.weight.split(part.part.channels, 1):
                    yield part.part.stage, weight
    yield len(network.architecture.widths) - 1, network.head.classifier.weight


def _mixing(module: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of `module` that are not depthwise."""
    return [layer for layer in _layers(module) if isinstance(layer, nn.Conv2d) and layer.groups == 1]


def _norms(weight: Tensor) -> Tensor:
    """How much of `weight` (outputs, channels, …) reads each channel: the squares' sums (channels,), 1 in all."""
    squares = weight.square().transpose(0, 1).flatten(1).sum(1)
    return squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)


def _kept(norms: Tensor, count: int) -> Tensor:
    """Which channel each of `count` channels comes from (count,): of fewer the strongest, of more these twice."""
    order = norms.argsort(descending=True, stable=True)
    if count <= len(order):
        return order[:count].sort().values
    return torch.cat([torch.arange(len(order)), order.repeat(count // len(order))])[:count]


def _shared(weight: Tensor, kept: Tensor, random: torch.Generator) -> Tensor:
    """`weight` (outputs, channels, …) for the channels `kept` (n,), of which copies share what one had."""
    parts = torch.empty(len(weight), len(kept)).uniform_(LEAST_PART, MOST_PART, generator=random)
    whole = torch.zeros(weight.shape[:2]).index_add_(1, kept, parts)
    share = parts / whole[:, kept]
    return weight[:, kept] * share.view(*share.shape, *[1] * (weight.dim() - 2))


def _carry(wide: nn.Module, module: nn.Module, entering: Tensor, leaving: Tensor, random: torch.Generator) -> None:
    """Give the layers of `module` what those of `wide` have, for the channels that are to enter and to leave them.

    Between two of its convolutions channels are chosen as in a stage.
    """
    mixing = _mixing(wide)
    last, kept = mixing[-1] if mixing else None, entering
    for old, new in zip(_layers(wide), _layers(module), strict=True):
        match old, new:
            case nn.Conv2d(), nn.Conv2d() if old.groups > 1:
                new.weight.copy_(old.weight[kept])
            case nn.Conv2d(), nn.Conv2d():
                if old is last:
                    going = leaving
                else:
                    reader = mixing[[layer is old for layer in mixing].index(True) + 1]
                    going = _kept(_norms(reader.weight), new.out_channels)
                new.weight.copy_(_shared(old.weight[going], kept, random))
                kept = going
            case nn.BatchNorm2d(), nn.BatchNorm2d():
                _select(old, new, kept)
            case SqueezeExcitation(), SqueezeExcitation():
                squeezed = _kept(_norms(old.excite.weight), new.squeeze.out_channels)
                for its, inner, outer in (("squeeze", kept, squeezed), ("excite", squeezed, kept)):
                    weight, bias = old.get_parameter(f"{its}.weight"), old.get_parameter(f"{its}.bias")
                    new.get_parameter(f"{its}.weight").copy_(_shared(weight[outer], inner, random))
                    new.get_parameter(f"{its}.bias").copy_(bias[outer])


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """What `module`, a sequence that may hold others, computes one after another."""
    for layer in module.children():
        if isinstance(layer, nn.Sequential):
            yield from _layers(layer)
        else:
            yield layer


def _select(wide: nn.BatchNorm2d, bn: nn.BatchNorm2d, kept: Tensor) -> None:
    """Give `bn` what `wide` has for the channels `kept`."""
    for name, tensor in wide.state_dict().items():
        bn.state_dict()[name].copy_(tensor[kept] if tensor.dim() else tensor)
