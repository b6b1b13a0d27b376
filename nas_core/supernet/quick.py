"""What torch's own layers do, in ways that are faster, or alone right, where a network is trained on a CPU.

Derived networks are made of torch's layers alone, so that its tools know them; `quicken` is for what stays here.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def quicken(module: nn.Module) -> None:
    """Give those layers of `module` that have another form in this file that form; parameters stay where they are."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and _is_wide_depthwise(part):
            part.__class__ = WideDepthwise
        elif isinstance(part, nn.Conv2d) and _is_strided_pointwise(part):
            part.__class__ = StridedPointwise
        elif isinstance(part, nn.AvgPool2d) and (part.kernel_size, part.stride, part.padding) == (3, 1, 1):
            part.__class__ = AveragePool


def _is_wide_depthwise(layer: nn.Conv2d) -> bool:
    kernel = layer.kernel_size[0]
    usual = layer.stride == layer.dilation == (1, 1) and layer.padding == (kernel // 2,) * 2 and layer.bias is None
    return usual and kernel > 3 and layer.groups == layer.in_channels == layer.out_channels


def _is_strided_pointwise(layer: nn.Conv2d) -> bool:
    usual = layer.kernel_size == (1, 1) and layer.padding == (0, 0) and layer.groups == 1 and layer.bias is None
    return usual and layer.stride != (1, 1)


class StridedPointwise(nn.Conv2d):
    """A 1×1 convolution with a stride, without padding, groups and bias.

    Of fewer channels than a vector register holds (8 with AVX2, 16 with AVX-512), oneDNN's gradient of its weights
    writes beyond its own memory: in 3.13, uxlfoundation/oneDNN#6035. Without a stride it does not.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, D, H / stride, W / stride), rounded up."""
        if x.device.type == "cpu" and torch.is_grad_enabled() and self.weight.shape[1] < 16:
            rows, columns = self.stride
            return F.conv2d(x[..., ::rows, ::columns], self.weight)
        return super().forward(x)


class WideDepthwise(nn.Conv2d):
    """A depthwise convolution with a kernel of more than three columns, stride 1 and no bias.

    oneDNN has a fast gradient of its weights for up to three columns; on a CPU that of more is put together from such.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        if x.device.type == "cpu" and self.training and torch.is_grad_enabled():
            return _WideDepthwise.apply(x, self.weight)
        return super().forward(x)


class _WideDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        out = F.conv2d(x, weight, padding=weight.shape[2] // 2, groups=len(weight))
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        saved_x, saved_weight = ctx.saved_tensors
        x, weight = saved_x.to(gradient.dtype), saved_weight.to(gradient.dtype)
        rows, columns = weight.shape[2:]
        half = columns // 2
        of_x: Tensor | None = None
        of_weight: Tensor | None = None
        if ctx.needs_input_grad[0]:
            of_x, _ = _convolution_backward(gradient, x, weight, [rows // 2, half], (True, False))
            of_x = of_x.to(saved_x.dtype)
        if ctx.needs_input_grad[1]:
            parts = []
            for first in range(0, columns, 3):
                last = min(first + 2, columns - 1)
                # Column j of the kernel meets x at a distance of j − half: of a part, from first − half to last − half.
                shifted = F.pad(x, (half - first, last - half))
                part = weight[..., first : last + 1]
                parts.append(_convolution_backward(gradient, shifted, part, [rows // 2, 0], (False, True))[1])
            of_weight = torch.cat(parts, 3).to(saved_weight.dtype)
        return of_x, of_weight


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: list[int], wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The gradients of a depthwise convolution's input and weight, as far as `wanted`."""
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), [*wanted, False]
    )
    return found[0], found[1]


class AveragePool(nn.AvgPool2d):
    """The mean of 3×3 pixels, where those outside count as zeros; on a CPU a depthwise convolution, which is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        if x.device.type == "cpu" and self.training:
            channels = x.shape[1]
            return F.conv2d(x, x.new_full((channels, 1, 3, 3), 1 / 9), padding=1, groups=channels)
        return super().forward(x)
