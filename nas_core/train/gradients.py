"""Gradients that are summed over the workers while the backward pass goes on.

DistributedDataParallel does that too, for a module whose parameters stay and all get a gradient in every step. W and λ
take turns here, and parameters are removed; and what fails in DDP's backward pass does not tell whether another worker
is gone or the step itself is wrong.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from nas_core import parallel

MESSAGES = 4
"""Gradients go out in about so many messages a step: the more, the less is left when the backward pass ends."""
LEAST_BYTES = 2**20
"""A message holds so much or more: below, what it costs is its latency."""


@contextmanager
def summed(wanted: Sequence[nn.Parameter], loss: Tensor) -> Iterator[None]:
    """What one backward pass in here leaves as gradients of `wanted`, and `loss` (), become sums over the workers.

    A message leaves as soon as its gradients are there, which is in the same order on all workers, as they all
    differentiate the same thing. A parameter without a gradient stays without.
    """
    if parallel.world()[1] == 1:
        yield
        return
    sent: list[tuple[list[nn.Parameter], parallel.Sum]] = []

    def send(bucket: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
        there = {index: gradient for index, gradient in enumerate(gradients) if gradient is not None}
        message = parallel.Sum([*there.values(), *([] if sent else [loss])])
        sent.append(([bucket[index] for index in there], message))

    hooks = [register_multi_grad_hook(bucket, partial(send, bucket)) for bucket in buckets(wanted)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for number, (parameters, message) in enumerate(sent):
        sums = message.wait()
        for parameter, gradient in zip(parameters, sums, strict=number > 0):
            parameter.grad = gradient
        if number == 0:
            loss.copy_(sums[-1])


def buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """`parameters` by messages, the last first, as the backward pass comes to them."""
    sizes = [parameter.numel() * parameter.element_size() for parameter in parameters]
    least = max(LEAST_BYTES, sum(sizes) / MESSAGES)
    found: list[list[nn.Parameter]] = []
    filled = least
    for parameter, size in zip(reversed(parameters), reversed(sizes), strict=True):
        if filled >= least:
            found.append([])
            filled = 0
        found[-1].append(parameter)
        filled += size
    return found
