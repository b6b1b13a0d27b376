"""How a training step passes through a block: compiled or not, and with what of it kept for the backward pass."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class PassedBlock(nn.Module):
    """A block that is called by `pass_through`."""

    recomputes = False


def blocks(module: nn.Module) -> list[PassedBlock]:
    """The blocks that `module` consists of."""
    return [part for part in module.modules() if isinstance(part, PassedBlock)]


def recompute(module: nn.Module) -> None:
    """Have the blocks of `module` keep their inputs alone for the backward pass, and compute the rest again in it."""
    for block in blocks(module):
        block.recomputes = True


def pass_through(block: PassedBlock, *inputs: Any) -> Tensor:
    """`block(*inputs)`.

    Only training steps are compiled (`nn.Module.compile`) where the block is: in evaluation batches come in many sizes.
    Where their activations are computed again in the backward pass (Chen et al., arXiv 1604.06174), BN takes its
    running statistics from the first time.
    """
    if not (block.training and torch.is_grad_enabled()):
        return block.forward(*inputs)
    if not block.recomputes:
        return block(*inputs)
    contexts = partial(_contexts, block)
    passed: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return passed


def _contexts(block: PassedBlock) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _standing_statistics(block)


@contextmanager
def _standing_statistics(block: PassedBlock) -> Iterator[None]:
    """Running statistics of `block` stay as they are in here."""
    norms = [part for part in block.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
