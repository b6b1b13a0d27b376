"""What a training step keeps for its backward pass: nearly all of the memory that grows with the batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nas_core.errors import OutOfMemory
from nas_core.memory import ran_out
from nas_core.supernet.passes import recompute
from nas_core.train.engine import Engine


@contextmanager
def batch_named(field: str, size: int, per_image: Callable[[], int]) -> Iterator[None]:
    """Raises `OutOfMemory` for a step in here that does not fit, with its batch of `size` images, which the settings
    call `field`, and the bytes that it keeps `per_image`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(field, size, per_image(), str(error)) from error


def kept_per_image(
    make: Callable[[], nn.Module], passes: Callable[[Any, Tensor], object], shape: Sequence[int], engine: Engine
) -> int:
    """The bytes that a step keeps for each image of `shape` (C, H, W) that `passes` through what `make` makes.

    They are counted on tensors that have a shape and no content, so that it takes seconds and no memory. In bfloat16
    about half is kept of what is kept in float32.
    """
    with torch.device("meta"):
        module = make()
        if engine.options.recompute:
            recompute(module)
        two, three = (_kept(module, passes, torch.empty(images, *shape)) for images in (2, 3))
    return (three - two) // (2 if engine.precision == "bfloat16" else 1)


def _kept(module: nn.Module, passes: Callable[[Any, Tensor], object], images: Tensor) -> int:
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        passes(module, images)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
