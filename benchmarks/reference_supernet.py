"""The plainest correct supernet: edge by edge and operation by operation, in eager float32, with nothing removed.

It is the yardstick for the one that searches (`nas_core.supernet.supernet`): the same parameters, outputs and
gradients, and none of what makes that one fast. What is dead here is multiplied by zero.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_core.space import SearchSpace
from nas_core.supernet.layers import Head, batch_norm, closes_pointwise, conv_bn_relu, convolution, operation, stem
from nas_core.supernet.supernet import Supernet, SupernetBlock


class ReferenceBlock(nn.Module):
    """One block: every operation reads the sum of λ times what each node below it gives (paper, eq. 3 and 4)."""

    def __init__(self, space: SearchSpace, width: int, first: bool) -> None:
        super().__init__()
        self.space = space
        self.shortcut = conv_bn_relu(1, width, width, scale=False) if first else nn.Identity()
        nodes = range(1, space.nodes + 1)
        self.operations = nn.ModuleList(operation(space.operation(node), width, scale=False) for node in nodes)
        self.norms = nn.ModuleList(batch_norm(width, scale=False) for _ in nodes)
        self.output = nn.ModuleList(convolution(1, width, width) for _ in nodes)
        self.output_bn = batch_norm(width)

    def forward(self, x: Tensor, scaling: Tensor) -> Tensor:
        """(B, C, H, W) and the block's λ (E,) in the order of `SearchSpace.edges()` → (B, C, H, W)."""
        given = [x]
        into: list[list[Tensor]] = [[] for _ in range(self.space.nodes + 2)]
        for (source, target), factor in zip(self.space.edges(), scaling, strict=True):
            if target == len(given) + 1:
                given.append(self._node(len(given), into))
            if target > self.space.nodes:
                into[target].append(self.output[source - 1](factor * given[source]))
            else:
                into[target].append(factor * given[source])
        shortcut: Tensor = self.shortcut(x)
        return shortcut + F.relu(self.output_bn(sum(into[-1])))

    def _node(self, node: int, into: list[list[Tensor]]) -> Tensor:
        return F.relu(self.norms[node - 1](self.operations[node - 1](sum(into[node]))))


class ReferenceReduction(nn.Module):
    """The λ-weighted sum of a 1×1 and a 3×3 Conv-BN-ReLU with stride 2."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv_bn_relu(kernel, width, wide, 2, scale=False) for kernel in (1, 3))

    def forward(self, x: Tensor, scaling: Tensor) -> Tensor:
        """(B, C, H, W) and λ (2,) → (B, wide, ⌈H/2⌉, ⌈W/2⌉)."""
        given: Tensor = scaling[0] * self.branches[0](x) + scaling[1] * self.branches[1](x)
        return given


class ReferenceSupernet(nn.Module):
    """The complete network of `space`: images (B, channels, height, width) → logits (B, classes)."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        widths, stages = space.widths, space.stage_of_block
        self.stem = stem(space, widths[0])
        self.blocks = nn.ModuleList(
            ReferenceBlock(space, widths[stage], first=index == 0 or stages[index - 1] != stage)
            for index, stage in enumerate(stages)
        )
        self.reductions = nn.ModuleList(ReferenceReduction(a, b) for a, b in pairwise(widths))
        self.head = Head(widths[-1], space.classes)
        count = 1 if space.share else len(stages)
        self.block_scaling = nn.Parameter(torch.ones(count, len(space.edges())))
        self.reduction_scaling = nn.Parameter(torch.ones(len(self.reductions), 2))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of a batch of images."""
        x = self.stem(images)
        stages = self.space.stage_of_block
        for index, block in enumerate(self.blocks):
            if index and stages[index] != stages[index - 1]:
                x = self.reductions[stages[index - 1]](x, self.reduction_scaling[stages[index - 1]])
            x = block(x, self.block_scaling[0 if self.space.share else index])
        logits: Tensor = self.head(x)
        return logits

    @torch.no_grad()
    def copy(self, supernet: Supernet) -> None:
        """Take over λ and W of a supernet of the same space from which nothing has been removed."""
        for own, theirs in pairs(self, supernet):
            own.copy_(theirs)


def pairs(reference: ReferenceSupernet, supernet: Supernet) -> Iterator[tuple[Tensor, Tensor]]:
    """Every parameter of the reference beside the part of a parameter of `supernet` that is the same."""
    yield from zip((reference.block_scaling, reference.reduction_scaling), supernet.scaling_factors(), strict=True)
    for name in ("stem", "reductions", "head"):
        yield from zip(trained(getattr(reference, name)), trained(getattr(supernet, name)), strict=True)
    for block, other in zip(reference.blocks, supernet.blocks, strict=True):
        assert isinstance(block, ReferenceBlock) and isinstance(other, SupernetBlock)
        yield from zip(trained(block.shortcut), trained(other.shortcut), strict=True)
        yield from zip(trained(block.output_bn), trained(other.output_bn), strict=True)
        for place, output in enumerate(block.output):
            yield output.get_parameter("weight"), other.output[place]
        for level in other._levels():
            for place, node in enumerate(level.nodes):
                own = trained(block.operations[node - 1])
                if closes_pointwise(reference.space.operation(node)):
                    yield own.pop(), level.pointwise[level.mixed.index(node)]
                yield from zip(own, trained(level.bodies[str(node)]), strict=True)
                width = slice(place * level.width, (place + 1) * level.width)
                yield block.norms[node - 1].get_parameter("bias"), level.bn.bias[width]


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of `module` that are trained: all but the scales of BN that stay 1."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
