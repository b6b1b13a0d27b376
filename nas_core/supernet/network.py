"""The trainable network of an architecture: what a search is for.

λ is gone here: live edges are plain sums, as in the paper's retraining, and every BN learns its scale. How the parts
are joined is `nas_core.space.topology`'s to tell.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_core.space import Architecture
from nas_core.space.topology import INPUT, ConvBnAct, Join, Operate, Part
from nas_core.supernet.layers import Head, batch_norm, convolution, module_of, stem
from nas_core.supernet.passes import PassedBlock


class NetworkBlock(PassedBlock):
    """One block: operations over sums of their live inputs, a 1×1 convolution over those the output reads."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        operations = nn.ModuleDict()
        for step in part.steps:
            match step:
                case ConvBnAct():
                    self.shortcut = module_of(step)
                case Operate():
                    operations[str(step.node)] = module_of(step)
                case Join(reads=reads, channels=width):
                    self.operations = operations
                    self.output = convolution(1, len(reads) * width, width)
                    self.output_bn = batch_norm(width)

    @property
    def droppable(self) -> int:
        """How many connections drop path may cut: inputs of operations that have others, and all to the output."""
        return sum(len(step.reads) for step in self.part.steps if isinstance(step, Join) or len(step.reads) > 1)

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, C, H, W).

        In training `factors` (droppable, B) may scale, for each image, what passes along each droppable connection.
        """
        computed = {INPUT: x}
        rows = iter(() if factors is None else factors[..., None, None, None])

        def along(name: str) -> Tensor:
            return computed[name] if factors is None else computed[name] * next(rows)

        for step in self.part.steps:
            match step:
                case ConvBnAct():
                    out = self.shortcut(x)
                case Operate(reads=reads):
                    entering = [along(name) for name in reads] if len(reads) > 1 else [computed[reads[0]]]
                    out = self.operations[str(step.node)](_sum(entering))
                case Join(reads=reads):
                    out = F.relu(self.output_bn(self.output(torch.cat([along(name) for name in reads], 1))))
            computed[step.name] = out
        return _sum([computed[name] for name in self.part.leaves])


class NetworkReduction(nn.Module):
    """The sum of the live branches of a 1×1 and a 3×3 Conv-BN-ReLU with stride 2."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        self.branches = nn.ModuleList(module_of(step) for step in part.steps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, wide, ⌈H/2⌉, ⌈W/2⌉)."""
        return _sum([branch(x) for branch in self.branches])


class Network(nn.Module):
    """The network of `architecture`, freshly initialised: images (B, channels, height, width) → logits (B, classes)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        _, *body, head = architecture.parts()
        self.stem = stem(architecture.space, architecture.widths[0])
        self.body = nn.Sequential()
        for part in body:
            self.body.add_module(part.name, (NetworkBlock if part.kind == "block" else NetworkReduction)(part))
        self.head = Head(head.channels, architecture.space.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of a batch of images."""
        return self.head(self.body(self.stem(images)))


def _sum(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])
