"""The completely connected network with a scaling factor λ on every edge.

Shapes: B images, n live operations of a level, C channels, H×W pixels. The outputs of a level are kept side by side
as (B, n·C, H, W), so that one matrix product applies all λ between two levels, one grouped convolution serves all
closing 1×1 convolutions, and one BN normalises the level.

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
        # Those that close with a 1×1 convolution come first: theirs are one grouped convolution.
        self.nodes = sorted(
            range(first, first + kinds), key=lambda node: (not closes_pointwise(space.operation(node)), node)
        )
        self.mixed = [node for node in self.nodes if closes_pointwise(space.operation(node))]
        self.width = width
        self.bodies = nn.ModuleDict(
            {str(node): operation(space.operation(node), width, scale, closing_pointwise=False) for node in self.nodes}
        )
        self.pointwise = nn.Parameter(torch.empty(len(self.mixed), width, width, 1, 1))
        for weight in self.pointwise.data:
            he_normal_(weight)
        self.bn = batch_norm(kinds * width, scale)

    def forward(self, entering: Tensor) -> Tensor:
        """(B, n, C, H, W), one sum of inputs for each live operation → (B, n·C, H, W)."""
        width, mixed = self.width, len(self.mixed)
        computed = [self.bodies[str(node)](x) for node, x in zip(self.nodes, entering.unbind(1), strict=True)]
        if mixed:
            joined = torch.cat(computed[:mixed], 1) if mixed > 1 else computed[0]
            weight = self.pointwise.view(mixed * width, width, 1, 1)
            computed[:mixed] = [F.conv2d(joined, weight, groups=mixed)]
        return F.relu(self.bn(torch.cat(computed, 1) if len(computed) > 1 else computed[0]))

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


class SupernetBlock(nn.Module):
    """One block: levels of operations, each reading the λ-weighted sum of all below.

    The output is a 1×1 convolution over the λ-weighted concatenation of all operations, BN, ReLU, plus the shortcut
    (paper, eq. 3 and 4).
    """

    def __init__(self, space: SearchSpace, width: int, first: bool, scale: bool = False) -> None:
        super().__init__()
        self.space, self.width = space, width
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
        # The output reads, of every level, the operations with a live edge to it.
        self._plan_out: list[tuple[int, list[int], slice]] = []
        start = 0
        for m in range(1, len(nodes)):
            read = [i for i, node in enumerate(nodes[m]) if node in self.outputs]
            if read:
                self._plan_out.append((m, read, slice(start, start + len(read))))
                start += len(read)
        order = [nodes[m][i] for m, read, _ in self._plan_out for i in read]
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
        per_level = [x]
        for level, sources in zip(self._levels(), self._plan_in, strict=True):
            n = len(level.nodes)
            if n == 0:
                per_level.append(x.new_empty(0))
                continue
            entering: Tensor | None = None
            for below, name in sources:
                # (n, n_below) · (B, n_below, C·H·W) → (B, n, C·H·W)
                factors = scaling[self.get_buffer(name)].expand(batch, -1, -1)
                values = per_level[below].reshape(batch, factors.shape[2], -1)
                entering = torch.bmm(factors, values) if entering is None else torch.baddbmm(entering, factors, values)
            assert entering is not None  # a live operation reads something
            per_level.append(level(entering.view(batch, n, width, height, breadth)))
        to_output = scaling[self.get_buffer("to_output")]
        weights = self.output[self.get_buffer("output_order")] * to_output.view(-1, 1, 1, 1, 1)
        # (n, C_out, C_in, 1, 1) → (C_out, n·C_in, 1, 1): a convolution over the concatenation.
        parts = []
        for m, read, part in self._plan_out:
            values = per_level[m]
            if len(read) * width != values.shape[1]:
                values = values.view(batch, -1, width, height, breadth)[:, read].flatten(1, 2)
            kernel = weights[part].transpose(0, 1).reshape(width, -1, 1, 1)
            parts.append(F.conv2d(values, kernel))
        # A block whose last path is dead is its shortcut, though its output's BN would still give out its shift.
        alive = (to_output > 0).any().to(x.dtype)
        return torch.addcmul(shortcut, F.relu(self.output_bn(sum(parts[1:], parts[0]))), alive)

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
        x = self.stem(images)
        stages = self.space.stage_of_block
        rows, pairs = self.block_scaling.unbind(), self.reduction_scaling.unbind()
        for index, block in enumerate(self.blocks):
            if index and stages[index] != stages[index - 1]:
                stage = stages[index - 1]
                x = self.reductions[stage](x, pairs[stage])
            x = block(x, rows[self.row_of_block(index)])
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
