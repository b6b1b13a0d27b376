"""The trainable network of a reference, built from its parts as they are told (`nas_core.space.references`)."""

import torch
from torch import Tensor, nn

from nas_core.space import Architecture, Reference
from nas_core.space.topology import INPUT, Half, Part, Shuffle
from nas_core.supernet.layers import module_of
from nas_core.supernet.network import Network
from nas_core.supernet.passes import PassedBlock


class ReferencePart(PassedBlock):
    """A part of a reference network, step by step."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        computing = (step for step in part.steps if not isinstance(step, (Half, Shuffle)))
        self.steps = nn.ModuleDict({identifier(step.name): module_of(step) for step in computing})

    @property
    def droppable(self) -> int:
        """How many connections drop path may cut: of a sum with a shortcut, what is added to that."""
        return sum(len(names) > 1 for names in self._sums())

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), or (B, C) behind the mean.

        In training `factors` (droppable, B) may scale, for each image, what is added to a shortcut.
        """
        computed = {INPUT: x}

        def total(names: tuple[str, ...]) -> Tensor:
            first, *others = (computed[name] for name in names)
            if others and factors is not None:
                first = first * factors[0, :, None, None, None]
            return sum(others, first)

        for step in self.part.steps:
            match step:
                case Half(reads=(whole,), half=half, channels=channels):
                    out = computed[whole][:, half * channels : (half + 1) * channels]
                case Shuffle(reads=reads):
                    # (B, 2, C/2, H, W) → (B, C/2, 2, H, W) → (B, C, H, W)
                    out = torch.stack([computed[name] for name in reads], 2).flatten(1, 2)
                case _:
                    out = self.steps[identifier(step.name)](total(step.reads))
            computed[step.name] = out
        return total(self.part.leaves)

    def _sums(self) -> list[tuple[str, ...]]:
        """What is added up, with the shortcut last."""
        return [*(step.reads for step in self.part.steps if not isinstance(step, Shuffle)), self.part.leaves]


class ReferenceHead(ReferencePart):
    """The mean over all pixels, a dense layer in some families, and the classifier."""

    def __init__(self, part: Part) -> None:
        super().__init__(part._replace(steps=part.steps[:-1], leaves=part.steps[-1].reads))
        self.classifier = module_of(part.steps[-1])

    def features(self, x: Tensor) -> Tensor:
        """What the classifier reads (B, C) of activations (B, C, H, W)."""
        return super().forward(x)

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """Class logits (B, classes) of activations (B, C, H, W)."""
        return self.classifier(self.features(x))


class ReferenceNetwork(nn.Module):
    """The network of a reference, freshly initialised: images (B, channels, height, width) → logits (B, classes)."""

    def __init__(self, architecture: Reference) -> None:
        super().__init__()
        self.architecture = architecture
        stem, *body, head = architecture.parts()
        self.stem = ReferencePart(stem)
        self.body = nn.Sequential()
        for part in body:
            self.body.add_module(part.name, ReferencePart(part))
        self.head = ReferenceHead(head)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of a batch of images."""
        return self.head(self.body(self.stem(images)))


def identifier(name: str) -> str:
    """A step's name as Python can have it."""
    return name.replace(" ", "_")


def build(genotype: Architecture | Reference) -> Network | ReferenceNetwork:
    """The network of what a search has found, or of a reference, freshly initialised."""
    return ReferenceNetwork(genotype) if isinstance(genotype, Reference) else Network(genotype)
