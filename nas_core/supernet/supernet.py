"""The completely connected network with a scaling factor λ on every edge.

Shapes: B images, n live operations of a level, C channels, H×W pixels. Activations lie in memory as (B, H, W, C), in
which CPUs and tensor cores convolve fastest, and those of a level one after another, (n, B, H, W, C): one matrix
product applies all λ between two levels, and what every operation reads and gives out is contiguous.

The λ of all blocks are one tensor, a row for each block in the order of `SearchSpace.edges()`. Removing dead operations
takes their weights away (`Supernet.prune`); λ keeps its shape, with zeros for the dead.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_core.space import Architecture, Block, Edge, Reduction, SearchSpace, branches, live
from nas_core.supernet.layers import (
    Head,
    batch_norm,
    closes_pointwise,
    conv_bn_relu,
    he_normal_,
    operation,
    stem,
)
from nas_core.supernet.passes import PassedBlock, pass_through
from nas_core.supernet.quick import quicken


class Replacement(NamedTuple):
    """A parameter that pruning replaced by `new` (None: removed); `keep` maps a state of the old one's shape."""

    old: nn.Parameter
    new: nn.Parameter | None
    keep: Callable[[Tensor], Tensor]


class Level(nn.Module):
    """The live operations of one level of a block, computed together; each closes with BN and ReLU.

    The scale of every BN, also of those within operations, stays 1 unless `scale` is set.
    """

    def __init__(self, space: SearchSpace, level: int, width: int, scale: bool = False) -> None:
        super().__init__()
        kinds = len(space.operations)
        first = (level - 1) * kinds + 1
        # Those that close with a 1×1 convolution come first: the weights of theirs are one parameter.
        self.nodes = sorted(
            range(first, first + kinds), key=lambda node: (not closes_pointwise(space.operation(node)), node)
        )
        self.mixed = [node for node in self.nodes if closes_pointwise(space.operation(node))]
        self.width = width
        self.bodies = nn.ModuleDict(
            {str(node): operation(space.operation(node), width, scale, closing_pointwise=False) for node in self.nodes}
        )
        quicken(self.bodies)
        self.pointwise = nn.Parameter(torch.empty(len(self.mixed), width, width, 1, 1))
        for weight in self.pointwise.data:
            he_normal_(weight)
        self.bn = batch_norm(kinds * width, scale)

    def forward(self, entering: Tensor) -> Tensor:
        """(n, B, H, W, C), one sum of inputs for each live operation → (n, B, H, W, C)."""
        pointwise = self.pointwise.unbind()
        computed = []
        for index, (node, x) in enumerate(zip(self.nodes, entering.unbind(), strict=True)):
            x = self.bodies[str(node)](x.permute(0, 3, 1, 2))
            computed.append(F.conv2d(x, pointwise[index]) if index < len(self.mixed) else x)
        return torch.stack([x.permute(0, 2, 3, 1) for x in self._normalise(computed)]).relu_()

    def _normalise(self, computed: list[Tensor]) -> Sequence[Tensor]:
        """BN of what each operation has computed (B, C, H, W)."""
        bn, count = self.bn, len(computed)
        if type(bn) is not nn.BatchNorm2d:  # it asks the other workers, and asks once for all
            return bn(torch.cat(computed, 1)).chunk(count, 1)
        own = [bn.get_buffer("running_mean"), bn.get_buffer("running_var"), bn.weight, bn.bias]
        rows = zip(*(tensor.view(count, -1).unbind() for tensor in own), strict=True)
        return [
            F.batch_norm(x, mean, variance, weight, bias, self.training, bn.momentum or 0.0, bn.eps)
            for x, (mean, variance, weight, bias) in zip(computed, rows, strict=True)
        ]

    def prune(self, alive: set[int]) -> list[Replacement]:
        """Keep only the operations in `alive`."""
        kept = [i for i, node in enumerate(self.nodes) if node in alive]
        if len(kept) == len(self.nodes):
            return []
        replaced = [
            Replacement(parameter, None, lambda state: state)
            for node in self.nodes
            if node not in alive
            for parameter in self.bodies.pop(str(node)).parameters()
        ]
        mixed = [i for i, node in enumerate(self.mixed) if node in alive]
        if len(mixed) < len(self.mixed):
            replaced.append(_replace(self, "pointwise", lambda tensor: tensor[mixed]))
        self.nodes = [self.nodes[i] for i in kept]
        self.mixed = [self.mixed[i] for i in mixed]
        replaced += _prune_bn(self.bn, kept, self.width)
        return replaced


class SupernetBlock(PassedBlock):
    """One block: levels of operations, each reading the λ-weighted sum of all below.

    The output is a 1×1 convolution over the λ-weighted concatenation of all operations, BN, ReLU, plus the shortcut
    (paper, eq. 3 and 4).
    """

    def __init__(self, space: SearchSpace, width: int, first: bool, scale: bool = False) -> None:
        super().__init__()
        self.space = space
        self.shortcut = conv_bn_relu(1, width, width, scale=scale) if first else nn.Identity()
        self.levels = nn.ModuleList(Level(space, m, width, scale) for m in range(1, space.levels + 1))
        self.outputs = list(range(1, space.nodes + 1))
        self.output = nn.Parameter(torch.empty(len(self.outputs), width, width, 1, 1))
        for weight in self.output.data:
            he_normal_(weight)
        self.output_bn = batch_norm(width)
        self._position = {edge: index for index, edge in enumerate(space.edges())}
        self.edges = space.edges()
        self._plan()

    def _levels(self) -> list[Level]:
        return cast(list[Level], list(self.levels))

    def _plan(self) -> None:
        """Find out which λ stand between which live levels; where they are is kept beside the weights."""
        alive, dead = set(self.edges), len(self._position)
        nodes = [[0], *(level.nodes for level in self._levels())]
        for name in [name for name, _ in self.named_buffers(recurse=False)]:
            delattr(self, name)
        self._plan_in: list[list[tuple[int, str]]] = []
        for m in range(1, len(nodes)):
            sources = []
            for below in range(m):
                pairs = [[(s, t) for s in nodes[below]] for t in nodes[m]]
                if any(pair in alive for row in pairs for pair in row):
                    name = f"from_{below}_to_{m}"
                    self._keep(
                        name, [[self._position[pair] if pair in alive else dead for pair in row] for row in pairs]
                    )
                    sources.append((below, name))
            self._plan_in.append(sources)
        self._plan_out = [
            (m, position)
            for m, own in enumerate(nodes[1:], 1)
            for position, node in enumerate(own)
            if node in self.outputs
        ]
        """The level of every operation that the output reads, and its position there."""
        order = [nodes[m][position] for m, position in self._plan_out]
        self._keep("to_output", [self._position[node, self.space.nodes + 1] for node in order])
        self._keep("output_order", [self.outputs.index(node) for node in order])

    def _keep(self, name: str, index: Any) -> None:
        self.register_buffer(name, torch.tensor(index, dtype=torch.long, device=self.output.device), persistent=False)

    def forward(self, x: Tensor, scaling: Tensor) -> Tensor:
        """(B, C, H, W) and the block's λ (E,) → (B, C, H, W)."""
        shortcut: Tensor = self.shortcut(x)
        if not self.outputs:
            return shortcut
        batch, width, height, breadth = x.shape
        # One zero more stands for every dead edge.
        scaling = F.pad(scaling, (0, 1)).to(x.dtype)
        # Of each level what its operations give out, (n, B·H·W·C).
        per_level = [x.permute(0, 2, 3, 1).reshape(1, -1)]
        for level, sources in zip(self._levels(), self._plan_in, strict=True):
            entering: Tensor | None = None
            for below, name in sources:
                # (n, n_below) · (n_below, B·H·W·C) → (n, B·H·W·C)
                factors, values = scaling[self.get_buffer(name)], per_level[below]
                entering = factors @ values if entering is None else entering.addmm_(factors, values)
            if entering is None:
                per_level.append(x.new_empty(0, 0))
            else:
                per_level.append(level(entering.view(-1, batch, height, breadth, width)).flatten(1))
        to_output = scaling[self.get_buffer("to_output")]
        weighted = self.output[self.get_buffer("output_order")] * to_output.view(-1, 1, 1, 1, 1)
        kernels = weighted.to(x.dtype).flatten(2).unbind()
        read = [level.unbind() for level in per_level]
        joined: Tensor | None = None
        for (m, position), kernel in zip(self._plan_out, kernels, strict=True):
            # (B·H·W, C) · (C, C)
            values = read[m][position].view(-1, width)
            joined = values @ kernel.T if joined is None else joined.addmm_(values, kernel.T)
        assert joined is not None  # a block with outputs reads one
        joined = joined.view(batch, height, breadth, width).permute(0, 3, 1, 2)
        # A block whose last path is dead is its shortcut, though its output's BN would still give out its shift.
        alive = (to_output > 0).any().to(x.dtype)
        return torch.addcmul(shortcut, F.relu(self.output_bn(joined)), alive)

    def prune(self, edges: Sequence[tuple[int, int]]) -> list[Replacement]:
        """Keep only `edges` (each on a path) and the operations between them."""
        if list(edges) == self.edges:
            return []
        alive = {source for source, _ in edges} - {0}
        outputs = [source for source, target in edges if target == self.space.nodes + 1]
        replaced: list[Replacement] = []
        for level in self._levels():
            replaced += level.prune(alive)
        kept = [i for i, node in enumerate(self.outputs) if node in outputs]
        if len(kept) < len(self.outputs):
            replaced.append(_replace(self, "output", lambda tensor: tensor[kept]))
        self.outputs = [self.outputs[i] for i in kept]
        self.edges = list(edges)
        self._plan()
        return replaced


class SupernetReduction(nn.Module):
    """The λ-weighted sum of a 1×1 and a 3×3 Conv-BN-ReLU with stride 2."""

    def __init__(self, width: int, wide: int, scale: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {str(kernel): conv_bn_relu(kernel, width, wide, 2, scale=scale) for kernel in (1, 3)}
        )
        quicken(self.branches)

    def forward(self, x: Tensor, scaling: Tensor) -> Tensor:
        """(B, C, H, W) and λ (2,) → (B, wide, ⌈H/2⌉, ⌈W/2⌉)."""
        parts = [scaling[0 if kernel == "1" else 1] * branch(x) for kernel, branch in self.branches.items()]
        return sum(parts[1:], parts[0])

    def prune(self, alive: Sequence[bool]) -> list[Replacement]:
        """Keep only the branches that live (1×1, 3×3)."""
        return [
            Replacement(parameter, None, lambda state: state)
            for kernel, stays in zip(("1", "3"), alive, strict=True)
            if not stays and kernel in self.branches
            for parameter in self.branches.pop(kernel).parameters()
        ]


class Supernet(nn.Module):
    """The complete network of `space`: images (B, channels, height, width) → logits (B, classes).

    `prune` shrinks it to what `architecture()` says is alive.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        widths, stages = space.widths, space.stage_of_block
        self.stem = stem(space, widths[0])
        self.blocks = nn.ModuleList(
            SupernetBlock(space, widths[stage], first=index == 0 or stages[index - 1] != stage)
            for index, stage in enumerate(stages)
        )
        self.reductions = nn.ModuleList(SupernetReduction(a, b) for a, b in pairwise(widths))
        self.head = Head(widths[-1], space.classes)
        edges = len(space.edges())
        count = 1 if space.share else len(stages)
        self.block_scaling = nn.Parameter(torch.ones(count, edges))
        self.reduction_scaling = nn.Parameter(torch.ones(len(self.reductions), 2))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of a batch of images."""
        x = self.stem(images).contiguous(memory_format=torch.channels_last)
        stages = self.space.stage_of_block
        rows, pairs = self.block_scaling.unbind(), self.reduction_scaling.unbind()
        for index, block in enumerate(self.blocks):
            if index and stages[index] != stages[index - 1]:
                stage = stages[index - 1]
                x = self.reductions[stage](x, pairs[stage])
            x = pass_through(cast(SupernetBlock, block), x, rows[self.row_of_block(index)])
        return self.head(x)

    def row_of_block(self, index: int) -> int:
        """The row of `block_scaling` that holds the λ of block `index`: the only one where the blocks share theirs."""
        return 0 if self.space.share else index

    def scaling_factors(self) -> list[nn.Parameter]:
        """The parameters λ: of the blocks (rows, edges), and of the reductions (reductions, 2)."""
        return [self.block_scaling, self.reduction_scaling]

    def weights(self) -> list[nn.Parameter]:
        """The parameters W: all others that are trained and have anything left in them."""
        scaling = {id(parameter) for parameter in self.scaling_factors()}
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad and parameter.numel()]
        return [parameter for parameter in trained if id(parameter) not in scaling]

    @torch.no_grad()
    def architecture(self) -> Architecture:
        """What is alive now: edges with λ > 0 on a path from their block's input to its output.

        Of a reduction the branch with the larger λ always lives.
        """
        edges, output = self.space.edges(), self.space.nodes + 1
        per_vector = []
        for parameter in self.block_scaling:
            strength = dict(zip(edges, parameter.tolist(), strict=True))
            alive = live([edge for edge in edges if strength[edge] > 0], output)
            per_vector.append(Block(tuple(Edge(*edge, strength[edge]) for edge in alive)))
        reductions = []
        for pair in self.reduction_scaling.tolist():
            strengths = (max(s, 0.0) or float(lives) for s, lives in zip(pair, branches(pair, 0.0), strict=True))
            reductions.append(Reduction(*strengths))
        blocks = per_vector * len(self.blocks) if self.space.share else per_vector
        return Architecture(self.space, self.space.widths, tuple(blocks), tuple(reductions))

    @torch.no_grad()
    def prune(self, architecture: Architecture) -> list[Replacement]:
        """Remove everything that is not in `architecture`, for good, and zero the λ of what went.

        `architecture` must be a part of what is alive. Returns what was replaced, for the state of the optimisers of W
        and of λ to follow (`follow`); without it momentum would bring dead λ back.
        """
        replaced: list[Replacement] = []
        edges = self.space.edges()
        rows: list[list[bool]] = [[] for _ in self.block_scaling]
        for index, (module, block) in enumerate(zip(self.blocks, architecture.blocks, strict=True)):
            alive = {(edge.source, edge.target) for edge in block.edges}
            replaced += module.prune([edge for edge in edges if edge in alive])  # type: ignore[operator]
            rows[self.row_of_block(index)] = [edge in alive for edge in edges]
        pairs = [[strength > 0 for strength in reduction.strengths] for reduction in architecture.reductions]
        for module, alive_branches in zip(self.reductions, pairs, strict=True):
            replaced += module.prune(alive_branches)  # type: ignore[operator]
        return [*replaced, _silence(self.block_scaling, rows), _silence(self.reduction_scaling, pairs)]


@torch.no_grad()
def follow(optimizer: torch.optim.Optimizer, replaced: Sequence[Replacement]) -> None:
    """Make `optimizer` forget removed parameters and carry its state over to those that were cut smaller."""
    by_old = {id(replacement.old): replacement for replacement in replaced}
    for group in optimizer.param_groups:
        kept = []
        for parameter in group["params"]:
            replacement = by_old.get(id(parameter))
            if replacement is None:
                kept.append(parameter)
                continue
            state = optimizer.state.pop(parameter, None)
            if replacement.new is not None:
                kept.append(replacement.new)
                if state:
                    optimizer.state[replacement.new] = {
                        key: replacement.keep(value) if isinstance(value, Tensor) and value.dim() else value
                        for key, value in state.items()
                    }
        group["params"] = kept


def _silence(scaling: nn.Parameter, alive: Sequence[Sequence[bool]]) -> Replacement:
    """Zero the λ that are not alive."""
    mask = torch.tensor(alive, device=scaling.device).view_as(scaling)
    scaling.data.mul_(mask)
    return Replacement(scaling, scaling, lambda tensor: tensor * mask)


def _replace(module: nn.Module, name: str, keep: Callable[[Tensor], Tensor]) -> Replacement:
    """Cut the parameter `name` of `module` down to what `keep` selects."""
    old = getattr(module, name)
    new = nn.Parameter(keep(old.data).clone(), old.requires_grad)
    setattr(module, name, new)
    return Replacement(old, new if new.numel() else None, keep)


def _prune_bn(bn: nn.BatchNorm2d, kept: list[int], width: int) -> list[Replacement]:
    """Keep of a level's BN the channels of the operations at the positions `kept`."""

    def keep(tensor: Tensor) -> Tensor:
        return tensor.view(-1, width)[kept].reshape(-1)

    for name in ("running_mean", "running_var"):
        setattr(bn, name, keep(bn.get_buffer(name)))
    bn.num_features = len(kept) * width
    return [_replace(bn, name, keep) for name, parameter in bn.named_parameters()]
