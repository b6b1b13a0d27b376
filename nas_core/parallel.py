"""Data-parallel training with torch.distributed, where it is initialised; otherwise every function is the identity.

All workers see the same λ gradients, so they take the same λ steps and remove the same parts.

A batch need not be a multiple of the workers: shares differ by an image then, and every mean is over images, never over
workers. So the workers may be more or fewer after each start, and what a step does stays the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nas_core.errors import LostPeer

Value = TypeVar("Value")
_alone = False
# Not a ContextVar, which the threads that differentiate on a GPU would not see.


def world() -> tuple[int, int]:
    """This worker's rank and the number of workers."""
    if not _alone and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def alone() -> Iterator[None]:
    """In here this worker is the only one: it shares and exchanges nothing."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


@contextmanager
def exchange() -> Iterator[None]:
    """Raises `LostPeer` for what torch.distributed stumbles on in here: nothing but another worker's failure does."""
    try:
        yield
    except RuntimeError as error:
        raise LostPeer(f"another worker is gone: {error}") from error


def share(size: int) -> slice:
    """This worker's part of a batch of `size` images over all workers; no two parts differ by more than an image."""
    rank, workers = world()
    return slice(rank * size // workers, (rank + 1) * size // workers)


def weight(size: int) -> float:
    """How much of a batch of `size` images is this worker's share: 0 … 1, and 1 over all workers."""
    part = share(size)
    return (part.stop - part.start) / size


class Sum:
    """The sums over the workers of some tensors of one type, in one message, which is under way until `wait`."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.shapes = [tensor.shape for tensor in tensors]
        self.together = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with exchange():
            self.message = dist.all_reduce(self.together, async_op=True)

    def wait(self) -> list[Tensor]:
        """The sums, each a view of what the message brought."""
        with exchange():
            self.message.wait()
        parts = self.together.split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


def sum_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the workers, all in one message."""
    if world()[1] > 1 and tensors:
        for tensor, summed in zip(tensors, Sum(tensors).wait(), strict=True):
            tensor.copy_(summed)


def average_buffers(module: nn.Module, images: int) -> None:
    """Average the floating-point buffers of `module` (BN's running statistics) over the workers.

    Each counts for as many `images` as it has seen.
    """
    if world()[1] == 1:
        return
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if buffers:
        *sums, seen = Sum([*(buffer * images for buffer in buffers), buffers[0].new_full((1,), images)]).wait()
        for buffer, summed in zip(buffers, sums, strict=True):
            buffer.copy_(summed / seen)


def first(make: Callable[[], Value]) -> Value:
    """What `make` returns on worker 0, on every worker; the others do not call it. It must be possible to pickle."""
    return of(0, make)


def of(worker: int, make: Callable[[], Value]) -> Value:
    """What `make` returns on a worker, on every worker; the others do not call it. It must be possible to pickle."""
    rank, workers = world()
    if workers == 1:
        return make()
    made = [make() if rank == worker else None]
    with exchange():
        dist.broadcast_object_list(made, src=worker)
    return made[0]  # type: ignore[return-value]


def each(own: Value) -> list[Value]:
    """What every worker has of its `own`, by rank, on every worker. It must be possible to pickle."""
    _, workers = world()
    found: list[Any] = [own] * workers
    if workers > 1:
        with exchange():
            dist.all_gather_object(found, own)
    return found
