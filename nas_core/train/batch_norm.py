"""Batch normalisation by the statistics of all workers' images, so that the number of workers changes nothing.

Yoso has its own rather than `torch.nn.SyncBatchNorm`: that knows no CPU, waits for the device at every layer of every
step (it reads how many images each worker has), and has all workers look at as many batches when statistics are only
estimated.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_core import parallel
from nas_core.spec import EngineOptions


def synchronise(module: nn.Module, engine: EngineOptions) -> None:
    """Make every BN of `module`, in place, normalise over all workers in a training step, where `engine` wants that."""
    if engine.synchronised_bn and parallel.world()[1] > 1:
        for part in module.modules():
            if type(part) is nn.BatchNorm2d:
                part.__class__ = SynchronisedBatchNorm  # the same layer with the same state, and another way there


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` over the images of all workers, however many each has, with a message forward and one back.

    Only a step that is differentiated is a step of all workers: without gradients each normalises by its own images.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            mean, variance, count = self._statistics(input)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum or 0.0)
        return _Normalise.apply(input, self.weight, self.bias, mean, variance, count, self.eps)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (C,) and variance (C,) over all workers, and how many values () they are of."""
        assert self.running_mean is not None
        # The two that are not read make the statistics of half precision single.
        unread = torch.zeros_like(self.running_mean)
        mean, variance = torch.batch_norm_update_stats(x, unread, unread.clone(), 0.0)
        mean, variance = mean.double(), variance.double()
        own = torch.full((1,), x.numel() // x.shape[1], dtype=torch.double, device=x.device)
        # In double precision a sum of squares keeps what single precision knows of the variance.
        sums = torch.cat([own * mean, own * (variance + mean.square()), own])
        parallel.sum_([sums])
        count = sums[-1]
        mean, square = (sums[:-1] / count).chunk(2)
        variance = (square - mean.square()).clamp_(min=0)
        dtype = self.running_mean.dtype
        return mean.to(dtype), variance.to(dtype), count.to(dtype)


class _Normalise(torch.autograd.Function):
    """Normalisation by statistics of `count` values of all workers, which have gradients too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        # For each channel the sums of gradient · normalised x, and of the gradient.
        _, scale, shift = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        sums = torch.cat([scale, shift])
        parallel.sum_([sums])
        of_scale, of_shift = (sums / count).chunk(2)
        deviation = (variance + ctx.eps).rsqrt()
        # weight / σ · (gradient − mean gradient − normalised x · mean of gradient · normalised x)
        factor, of_x = weight * deviation, -weight * deviation.square() * of_scale
        constant = -of_x * mean - factor * of_shift
        factor, of_x, constant = (one.view(-1, 1, 1) for one in (factor, of_x, constant))
        own = torch.addcmul(constant, x, of_x).addcmul_(gradient, factor).to(x.dtype)
        wants_scale = ctx.needs_input_grad[1]
        return own, scale if wants_scale else None, shift, None, None, None, None
