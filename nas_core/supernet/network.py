"""The trainable network of an architecture: what a search is for.

λ is gone here: live edges are plain sums, as in the paper's retraining, and every BN learns its scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_core.space import Architecture, Block, Reduction, SearchSpace
from nas_core.supernet.layers import Head, batch_norm, conv_bn_relu, convolution, operation, stem


class NetworkBlock(nn.Module):
    """One block: operations over sums of their live inputs, a 1×1 convolution over those the output reads."""

    def __init__(self, space: SearchSpace, block: Block, width: int, first: bool) -> None:
        super().__init__()
        self.shortcut = conv_bn_relu(1, width, width) if first else nn.Identity()
        self.inputs = {node: block.inputs(node) for node in block.operations}
        self.outputs = block.outputs
        self.operations = nn.ModuleDict(
            {
                str(node): nn.Sequential(operation(space.operation(node), width), batch_norm(width), nn.ReLU())
                for node in block.operations
            }
        )
        if self.outputs:
            self.output = convolution(1, len(self.outputs) * width, width)
            self.output_bn = batch_norm(width)

    @property
    def droppable(self) -> int:
        """How many connections drop path may cut: inputs of operations that have others, and all to the output."""
        return sum(len(sources) for sources in self.inputs.values() if len(sources) > 1) + len(self.outputs)

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, C, H, W).

        In training `factors` (droppable, B) may scale, for each image, what passes along each droppable connection.
        """
        shortcut = self.shortcut(x)
        if not self.outputs:
            return shortcut
        node_out = {0: x}
        rows = iter(() if factors is None else factors[..., None, None, None])

        def along(source: int) -> Tensor:
            return node_out[source] if factors is None else node_out[source] * next(rows)

        for node, sources in self.inputs.items():
            entering = along(sources[0]) if len(sources) > 1 else node_out[sources[0]]
            for source in sources[1:]:
                entering = entering + along(source)
            node_out[node] = self.operations[str(node)](entering)
        joined = self.output(torch.cat([along(node) for node in self.outputs], 1))
        return shortcut + F.relu(self.output_bn(joined))


class NetworkReduction(nn.Module):
    """The sum of the live branches of a 1×1 and a 3×3 Conv-BN-ReLU with stride 2."""

    def __init__(self, reduction: Reduction, width: int, wide: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            conv_bn_relu(kernel, width, wide, 2)
            for kernel, strength in zip((1, 3), reduction.strengths, strict=True)
            if strength > 0
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, wide, ⌈H/2⌉, ⌈W/2⌉)."""
        out = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            out = out + branch(x)
        return out


class Network(nn.Module):
    """The network of `architecture`, freshly initialised: images (B, channels, height, width) → logits (B, classes)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        space, widths = architecture.space, architecture.widths
        self.architecture = architecture
        self.stem = stem(space.channels_in, widths[0], space.stem)
        self.body = nn.Sequential()
        stages = space.stage_of_block
        for index, (stage, block) in enumerate(zip(stages, architecture.blocks, strict=True)):
            first = index == 0 or stages[index - 1] != stage
            if first and stage > 0:
                reduction = NetworkReduction(architecture.reductions[stage - 1], widths[stage - 1], widths[stage])
                self.body.add_module(f"reduction{stage}", reduction)
            self.body.add_module(f"block{index + 1}", NetworkBlock(space, block, widths[stage], first))
        self.head = Head(widths[-1], space.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of a batch of images."""
        return self.head(self.body(self.stem(images)))
